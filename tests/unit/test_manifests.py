"""Manifests: what is read, in which order, and where each error points to."""

from __future__ import annotations

import io
import json
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from podwire.errors import InvalidInput
from podwire.model.manifests import dump_yaml, load_manifests, parse_manifests

POD = "apiVersion: v1\nkind: Pod\nmetadata: {name: %s}\n"


def names(text: str) -> list[str]:
    return [manifest.document["metadata"]["name"] for manifest in parse_manifests(text, "f.yaml")]


def test_documents_in_order_with_their_lines() -> None:
    found = parse_manifests(
        "# a comment\n" + POD % "a" + "---\n" + POD % "b" + "---\n# nothing\n---\n" + POD % "c", "f.yaml"
    )
    assert [(m.document["metadata"]["name"], m.where) for m in found] == [
        ("a", "f.yaml:2"),
        ("b", "f.yaml:6"),
        ("c", "f.yaml:12"),
    ]


def test_json_is_read_and_lists_are_flattened() -> None:
    pod = '{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "%s"}}'
    assert names(pod % "a") == ["a"]
    listed = json.dumps({"apiVersion": "v1", "kind": "List", "items": [json.loads(pod % name) for name in "ab"]})
    assert names(listed) == ["a", "b"]
    assert names('{"apiVersion": "v1", "kind": "PodList", "items": [%s]}' % (pod % "a")) == ["a"]


def test_timestamps_stay_text_and_merge_keys_work() -> None:
    text = POD % "a" + "x: 2024-01-01T00:00:00Z\nbase: &b {p: 1}\nderived: {<<: *b, q: 2}\n"
    document = parse_manifests(text, "f")[0].document
    assert document["x"] == "2024-01-01T00:00:00Z"
    assert document["derived"] == {"p": 1, "q": 2}


WRONG = [
    ("not closed", "a: [", "f.yaml: line 2, column 1: "),
    ("two colons", "a: b: c", "f.yaml: line 1, column 5: mapping values are not allowed"),
    ("tab", "\ta: 1", "f.yaml: line 1, column 1: "),
    ("key twice", "a: 1\na: 2", "f.yaml: line 2, column 1: key 'a' stands twice"),
    ("number as key", "a: {1: 2}", "f.yaml: line 1, column 5: key 1 is not a string"),
    ("python object", "a: !!python/object:os.system x", "f.yaml: line 1, column 4: could not determine a constructor"),
    ("control character", "a: \x00", "f.yaml: "),
    ("a list", "- a", "f.yaml:1: a manifest must be a mapping with apiVersion and kind, not a list"),
    ("no kind", "apiVersion: v1", "f.yaml:1: kind is missing"),
    ("no metadata", "apiVersion: v1\nkind: Pod", "f.yaml:1: Pod has no metadata mapping"),
    ("no name", "apiVersion: v1\nkind: Pod\nmetadata: {}", "f.yaml:1: Pod has no metadata.name"),
    ("number as name", POD % "5", "f.yaml:1: metadata.name must be a string, not a number"),
    ("items not a list", "apiVersion: v1\nkind: List\nitems: 5", "f.yaml:1: items of kind List must be a list"),
    ("name twice", POD % "a" + "---\n" + POD % "a", "f.yaml:5: Pod 'a' stands twice in this file, first at line 1"),
]


@pytest.mark.parametrize(("text", "message"), [case[1:] for case in WRONG], ids=[case[0] for case in WRONG])
def test_errors_name_the_place(text: str, message: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_manifests(text, "f.yaml")
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_the_same_name_in_two_namespaces_is_two_objects() -> None:
    text = "".join(f"---\napiVersion: v1\nkind: Pod\nmetadata: {{name: a, namespace: {ns}}}\n" for ns in ("x", "y"))
    assert names(text) == ["a", "a"]


def test_files_directories_and_standard_input(tmp_path: Path) -> None:
    (tmp_path / "2.yml").write_text(POD % "two")
    (tmp_path / "1.yaml").write_text(POD % "one")
    (tmp_path / "notes.txt").write_text("not: [a manifest")
    single = tmp_path / "single"
    single.write_text(POD % "single")
    found = load_manifests([str(tmp_path), "-", str(single)], read_stdin=io.StringIO(POD % "typed").read)
    assert [m.document["metadata"]["name"] for m in found] == ["one", "two", "typed", "single"]
    assert found[2].source == "standard input"


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe")
    empty = tmp_path / "empty"
    empty.mkdir()
    for source, message in (
        ("nowhere.yaml", "does not exist"),
        (str(tmp_path / "binary.yaml"), "not UTF-8"),
        (str(empty), "holds no .yaml"),
    ):
        with pytest.raises(InvalidInput, match=message):
            load_manifests([source], read_stdin=str)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_yaml_keeps_what_is_written(value: object) -> None:
    document = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}, "spec": value}
    assert parse_manifests(dump_yaml(document), "f")[0].document == document


@given(st.text(max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    with suppress(InvalidInput):
        parse_manifests(text, "f")


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("[" * 100_000, "more than 100 levels deep"),
        ("- " * 100_000, "more than 100 levels deep"),
        ("{a: " * 5_000, "more than 100 levels deep"),
        (
            "a: &a [x]\n" + "\n".join(f"{b}: &{b} [" + ",".join([f"*{a}"] * 9) + "]" for a, b in pairwise("abcdefghi")),
            "larger than",
        ),
    ],
    ids=["lists", "dashes", "mappings", "aliases of aliases"],
)
def test_a_document_without_end_is_refused(text: str, fault: str) -> None:
    """The first three ended the program with a segmentation fault, the last with all of the memory."""
    with pytest.raises(InvalidInput, match=rf"bad.yaml:\d+: a document is {fault}"):
        parse_manifests(text, "bad.yaml")


def test_aliases_within_reason_are_fine() -> None:
    text = "apiVersion: v1\nkind: Pod\nmetadata: {name: a, labels: &l {app: a}}\nspec: {selector: *l}\n"
    (manifest,) = parse_manifests(text, "good.yaml")
    assert manifest.document["spec"] == {"selector": {"app": "a"}}
