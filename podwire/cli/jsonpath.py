r"""kubectl's JSONPath templates: `{.items[*].metadata.name}`, `{range .items[*]}{.metadata.name}{"\n"}{end}`.

In: a template and a document. Out: text, with a missing field printing nothing, as kubectl has it. Pure: a template is parsed once
into a list of parts (literal text, paths, ranges), and evaluated against values. Covered are fields (with `\.` for a dot in a key),
quoted keys, indices, slices with steps, wildcards, unions, recursive descent and filters with one comparison; kubectl has no more.
"""

from __future__ import annotations

import json
import operator
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from podwire.errors import InvalidInput


@dataclass(frozen=True, slots=True)
class Field:
    """`.name` or `['name']`."""

    name: str


@dataclass(frozen=True, slots=True)
class Wildcard:
    """`.*` or `[*]`."""


@dataclass(frozen=True, slots=True)
class Slice:
    """`[start:stop:step]`; one index is a slice of itself with `single`."""

    start: int | None
    stop: int | None
    step: int = 1
    single: bool = False


@dataclass(frozen=True, slots=True)
class Union:
    """`[a,b]`: the results of each, in order."""

    members: tuple[Step, ...]


@dataclass(frozen=True, slots=True)
class Descend:
    """`..`: the value and everything below it."""


@dataclass(frozen=True, slots=True)
class Filter:
    """`[?(left op right)]`; without an operator it asks whether left exists."""

    left: Operand
    op: str
    right: Operand | None


Step = Field | Wildcard | Slice | Union | Descend | Filter


@dataclass(frozen=True, slots=True)
class Path:
    """Steps from the current value, or from the root."""

    steps: tuple[Step, ...]
    from_root: bool = False


@dataclass(frozen=True, slots=True)
class Literal:
    """A constant in a filter, or text between braces."""

    value: Any


Operand = Path | Literal


@dataclass(frozen=True, slots=True)
class Range:
    """`{range path}…{end}`."""

    over: Path
    body: tuple[Part, ...]


Part = Literal | Path | Range

_OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<=": operator.le,
    ">=": operator.ge,
    "<": operator.lt,
    ">": operator.gt,
}
_NAME = re.compile(r"(?:[^\s.\[\]{}()'\",\\=!<>?]|\\.)+")
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r"}


def render(template: str, document: Any) -> str:
    """The template's text for a document. Raises InvalidInput where the template is wrong."""
    return "".join(_print(parse(template), document, document))


def find(path: str, document: Any) -> list[Any]:
    """The values at one path, such as `{.status.phase}` or `.status.phase`. Raises InvalidInput."""
    parts = parse(path)
    if len(parts) != 1 or not isinstance(parts[0], Path):
        raise InvalidInput(f"{path!r} is not a single JSONPath expression")
    return list(_walk(parts[0].steps, document, document))


def parse(template: str) -> tuple[Part, ...]:
    """A template as parts; one expression may be written without braces. Raises InvalidInput."""
    text = template
    if "{" not in text:
        text = "{" + (text if text.startswith((".", "[", "$", "@")) else f".{text}") + "}"
    return _Parser(text, template).parts(inside_range=False)


class _Parser:
    """Recursive descent over the template; `at` is the next character."""

    def __init__(self, text: str, template: str) -> None:
        self.text = text
        self.template = template
        self.at = 0

    def fail(self, problem: str) -> InvalidInput:
        return InvalidInput(f"JSONPath {self.template!r}: {problem} at character {self.at + 1}")

    def parts(self, *, inside_range: bool) -> tuple[Part, ...]:
        found: list[Part] = []
        while self.at < len(self.text):
            opening = self.text.find("{", self.at)
            if opening < 0:
                opening = len(self.text)
            if opening > self.at:
                found.append(Literal(self.text[self.at : opening]))
                self.at = opening
                continue
            self.at += 1
            self.blanks()
            if self.word("range"):
                over = self.path()
                self.expect("}")
                found.append(Range(over, self.parts(inside_range=True)))
            elif self.word("end"):
                self.expect("}")
                if not inside_range:
                    raise self.fail("{end} without {range}")
                return tuple(found)
            else:
                while not self.take("}"):
                    found.append(self.expression())
                    self.blanks()
        if inside_range:
            raise self.fail("{range} without {end}")
        return tuple(found)

    def expression(self) -> Part:
        if self.peek() in ("'", '"'):
            return Literal(self.quoted())
        return self.path()

    def path(self) -> Path:
        self.blanks()
        from_root = self.take("$")
        started = from_root or self.take("@")
        steps: list[Step] = []
        while True:
            if self.take(".."):
                steps.append(Descend())
                if self.peek() != "[":
                    steps.append(self.field_or_star())
            elif self.take("."):
                if self.peek() in ("[", "", "}", " "):
                    started = True  # `{.}` is the document itself
                    continue
                steps.append(self.field_or_star())
            elif self.take("["):
                steps.append(self.bracket())
            else:
                break
        if not steps and not started:
            raise self.fail("expected a path such as .metadata.name")
        return Path(tuple(steps), from_root)

    def field_or_star(self) -> Step:
        if self.take("*"):
            return Wildcard()
        match = _NAME.match(self.text, self.at)
        if match is None:
            raise self.fail("expected a field name")
        self.at = match.end()
        return Field(re.sub(r"\\(.)", r"\1", match.group()))

    def bracket(self) -> Step:
        self.blanks()
        if self.take("?("):
            return self.filter()
        members: list[Step] = []
        while True:
            self.blanks()
            members.append(self.member())
            self.blanks()
            if self.take("]"):
                return members[0] if len(members) == 1 else Union(tuple(members))
            self.expect(",")

    def member(self) -> Step:
        if self.take("*"):
            return Wildcard()
        if self.peek() in ("'", '"'):
            return Field(self.quoted())
        bounds: list[int | None] = [self.integer()]
        while self.take(":") and len(bounds) < 3:
            bounds.append(self.integer())
        if len(bounds) == 1:
            if bounds[0] is None:
                raise self.fail("expected an index, a slice, a quoted key or *")
            return Slice(bounds[0], None, single=True)
        step = bounds[2] if len(bounds) == 3 else None
        if step is not None and step <= 0:
            raise self.fail("a slice's step must be positive")
        return Slice(bounds[0], bounds[1], step or 1)

    def filter(self) -> Filter:
        left = self.operand()
        self.blanks()
        op = next((op for op in _OPERATORS if self.take(op)), "")
        right = self.operand() if op else None
        self.blanks()
        self.expect(")")
        self.expect("]")
        return Filter(left, op, right)

    def operand(self) -> Operand:
        self.blanks()
        if self.peek() in ("'", '"'):
            return Literal(self.quoted())
        for word, value in (("true", True), ("false", False), ("null", None)):
            if self.word(word):
                return Literal(value)
        match = _NUMBER.match(self.text, self.at)
        if match:
            self.at = match.end()
            return Literal(json.loads(match.group()))
        return self.path()

    def integer(self) -> int | None:
        match = re.compile(r"\s*(-?\d+)\s*").match(self.text, self.at)
        if match is None:
            return None
        self.at = match.end()
        return int(match.group(1))

    def quoted(self) -> str:
        quote = self.text[self.at]
        self.at += 1
        found: list[str] = []
        while self.at < len(self.text):
            char = self.text[self.at]
            self.at += 1
            if char == quote:
                return "".join(found)
            if char == "\\" and self.at < len(self.text):
                char = _ESCAPES.get(self.text[self.at], self.text[self.at])
                self.at += 1
            found.append(char)
        raise self.fail(f"the quote {quote} is not closed")

    def blanks(self) -> None:
        while self.peek() in (" ", "\t", "\n"):
            self.at += 1

    def peek(self) -> str:
        return self.text[self.at : self.at + 1]

    def take(self, token: str) -> bool:
        if self.text.startswith(token, self.at):
            self.at += len(token)
            return True
        return False

    def word(self, word: str) -> bool:
        match = re.compile(rf"{word}(?![\w.])").match(self.text, self.at)
        if match:
            self.at = match.end()
        return match is not None

    def expect(self, token: str) -> None:
        self.blanks()
        if not self.take(token):
            raise self.fail(f"expected {token!r}")


def _print(parts: Sequence[Part], value: Any, root: Any) -> Iterator[str]:
    for part in parts:
        match part:
            case Literal(value=literal):
                yield str(literal)
            case Range(over, body):
                for item in _walk(over.steps, root if over.from_root else value, root):
                    yield from _print(body, item, root)
            case Path(steps, from_root):
                yield " ".join(text(found) for found in _walk(steps, root if from_root else value, root))


def _walk(steps: Sequence[Step], value: Any, root: Any) -> Iterator[Any]:
    if not steps:
        yield value
        return
    for found in _step(steps[0], value, root):
        yield from _walk(steps[1:], found, root)


def _step(step: Step, value: Any, root: Any) -> Iterator[Any]:
    match step:
        case Field(name):
            if isinstance(value, dict) and name in value:
                yield value[name]
        case Wildcard():
            yield from _children(value)
        case Slice(start, _, _, single=True):
            if isinstance(value, list) and start is not None and -len(value) <= start < len(value):
                yield value[start]
        case Slice(start, stop, stride):
            if isinstance(value, list):
                yield from value[start:stop:stride]
        case Union(members):
            for member in members:
                yield from _step(member, value, root)
        case Descend():
            yield value
            for child in _children(value):
                yield from _step(step, child, root)
        case Filter():
            yield from (item for item in _children(value) if _holds(step, item, root))


def _children(value: Any) -> Iterator[Any]:
    if isinstance(value, list):
        yield from value
    elif isinstance(value, dict):
        yield from value.values()


def _holds(condition: Filter, item: Any, root: Any) -> bool:
    left = _operand(condition.left, item, root)
    if condition.right is None:
        return bool(left)
    right = _operand(condition.right, item, root)
    try:
        return bool(left and right and _OPERATORS[condition.op](left[0], right[0]))
    except TypeError:  # a string against a number: not comparable, so it does not hold
        return False


def _operand(operand: Operand, item: Any, root: Any) -> list[Any]:
    if isinstance(operand, Literal):
        return [operand.value]
    return list(_walk(operand.steps, root if operand.from_root else item, root))


def text(value: Any) -> str:
    """A value as templates print it."""
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)
