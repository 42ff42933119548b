"""JSONPath templates, against what kubectl prints for the same template and document."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from podwire.cli.jsonpath import find, render
from podwire.errors import InvalidInput

PODS: dict[str, Any] = {
    "kind": "List",
    "items": [
        {
            "metadata": {"name": "a", "labels": {"app.kubernetes.io/name": "web"}},
            "status": {"phase": "Running", "podIPs": [{"ip": "10.244.1.2"}, {"ip": "fd00::2"}]},
            "spec": {"containers": [{"name": "c", "ports": [80, 443]}], "priority": 5},
        },
        {
            "metadata": {"name": "b"},
            "status": {"phase": "Pending"},
            "spec": {"containers": [{"name": "d"}, {"name": "e"}], "priority": 10, "hostNetwork": True},
        },
    ],
}

TEMPLATES = [
    ("wildcard", "{.items[*].metadata.name}", "a b"),
    ("root", "{$.kind}", "List"),
    ("relaxed, with dot", ".kind", "List"),
    ("relaxed, without dot", "kind", "List"),
    ("text around", "name={.items[0].metadata.name}!", "name=a!"),
    ("literal", '{.kind}{"\\n"}', "List\n"),
    ("single-quoted literal", "{.kind}{'\\t'}{.kind}", "List\tList"),
    ("two in one pair of braces", "{.items[0].metadata.name .kind}", "aList"),
    ("range", '{range .items[*]}{.metadata.name}:{.status.phase}{"\\n"}{end}', "a:Running\nb:Pending\n"),
    ("nested range", "{range .items[*]}{range .spec.containers[*]}{.name},{end};{end}", "c,;d,e,;"),
    ("negative index", "{.items[-1].metadata.name}", "b"),
    ("index out of range", "{.items[7].metadata.name}", ""),
    ("slice", "{.items[0:1].metadata.name}", "a"),
    ("open slice", "{.items[1:].metadata.name}", "b"),
    ("slice with step", "{.items[0].spec.containers[0].ports[0:2:2]}", "80"),
    ("union of fields", "{.items[0]['kind','spec']['priority','x']}", "5"),
    ("union of indices", "{.items[0,1].metadata.name}", "a b"),
    ("escaped dot", r"{.items[0].metadata.labels.app\.kubernetes\.io/name}", "web"),
    ("quoted key", "{.items[0].metadata.labels['app.kubernetes.io/name']}", "web"),
    ("recursive", "{..ip}", "10.244.1.2 fd00::2"),
    ("filter ==", '{.items[?(@.status.phase=="Running")].metadata.name}', "a"),
    ("filter with blanks", "{.items[?( @.status.phase != 'Running' )].metadata.name}", "b"),
    ("filter >", "{.items[?(@.spec.priority > 5)].metadata.name}", "b"),
    ("filter exists", "{.items[?(@.spec.hostNetwork)].metadata.name}", "b"),
    ("filter bool", "{.items[?(@.spec.hostNetwork==true)].metadata.name}", "b"),
    ("filter against another type", "{.items[?(@.metadata.name > 5)].metadata.name}", ""),
    ("filter on the item itself", "{.items[0].spec.containers[0].ports[?(@ > 100)]}", "443"),
    ("missing", "{.items[*].nothing.here}", ""),
    ("bool", "{.items[1].spec.hostNetwork}", "true"),
    ("mapping as JSON", "{.items[1].status}", '{"phase":"Pending"}'),
    ("list as JSON", "{.items[0].spec.containers[0].ports}", "[80,443]"),
    ("no expression", "plain", ""),
]


@pytest.mark.parametrize(("template", "text"), [case[1:] for case in TEMPLATES], ids=[case[0] for case in TEMPLATES])
def test_prints_what_kubectl_prints(template: str, text: str) -> None:
    assert render(template, PODS) == text


WRONG = [
    ("not closed", "{.items"),
    ("no range", "{end}"),
    ("no end", "{range .items[*]}{.name}"),
    ("bad filter", "{.items[?(@.a==)]}"),
    ("bad bracket", "{.items[abc]}"),
    ("open quote", "{.items['a}"),
    ("zero step", "{.items[0:1:0]}"),
    ("empty", "{}x{ | }"),
]


@pytest.mark.parametrize("template", [case[1] for case in WRONG], ids=[case[0] for case in WRONG])
def test_a_wrong_template_is_one_sentence(template: str) -> None:
    with pytest.raises(InvalidInput, match="JSONPath"):
        render(template, PODS)


def test_the_document_itself() -> None:
    assert render("{.}", {"a": 1}) == '{"a":1}'
    assert find("{$}", {"a": 1}) == [{"a": 1}]


def test_find_gives_values() -> None:
    assert find("{.items[*].spec.priority}", PODS) == [5, 10]
    assert find(".kind", PODS) == ["List"]
    with pytest.raises(InvalidInput):
        find("a{.b}", PODS)


@given(st.text(alphabet="{}[]().*?@$'\"\\:,=<>-0aranged ", max_size=30))
def test_any_text_prints_or_is_refused(template: str) -> None:
    """No input crashes the parser."""
    with suppress(InvalidInput):
        render(template, PODS)
