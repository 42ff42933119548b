"""Label and field selectors."""

from __future__ import annotations

from typing import Any

import pytest

from controller.objects.selectors import parse_selector
from podwire.errors import InvalidInput

POD: dict[str, Any] = {
    "metadata": {
        "name": "web-1",
        "namespace": "shop",
        "labels": {"app": "web", "tier": "front", "example.com/rev": "3"},
    },
    "spec": {"nodeName": "a"},
    "status": {"phase": "Running"},
}


@pytest.mark.parametrize(
    ("selector", "matches"),
    [
        ("", True),
        ("app=web", True),
        ("app==web", True),
        ("app = web", True),
        ("app=api", False),
        ("app!=api", True),
        ("app!=web", False),
        ("missing!=x", True),
        ("missing=x", False),
        ("missing=", False),
        ("app in (web)", True),
        ("app in (api, web)", True),
        ("app in(api)", False),
        ("app notin (api, db)", True),
        ("app notin (web)", False),
        ("missing notin (web)", True),
        ("app", True),
        ("missing", False),
        ("!missing", True),
        ("! missing", True),
        ("!app", False),
        ("app=web,tier=front", True),
        ("app=web , tier=back", False),
        ("app in (web, api),!canary,tier notin (back)", True),
        ("example.com/rev=3", True),
        ("in=x", False),
    ],
)
def test_label_selectors(selector: str, matches: bool) -> None:
    assert parse_selector(selector).matches(POD) is matches


@pytest.mark.parametrize(
    ("selector", "matches"),
    [
        ("", True),
        ("metadata.name=web-1", True),
        ("metadata.name=web-2", False),
        ("metadata.namespace=shop,spec.nodeName=a", True),
        ("spec.nodeName=", False),
        ("spec.nodeName!=", True),
        ("status.phase!=Running", False),
        ("status.phase!=Failed,status.phase!=Succeeded", True),
        ("involvedObject.uid=", True),
    ],
)
def test_field_selectors(selector: str, matches: bool) -> None:
    assert parse_selector(fields=selector).matches(POD) is matches


def test_an_object_without_labels_or_spec_can_be_asked() -> None:
    assert parse_selector("!app", "spec.nodeName=").matches({"metadata": {"name": "a"}})


@pytest.mark.parametrize(
    "selector", ["=web", "app=web,", ",app", "app in web", "app in (web", "a b", "app=web;x", "-a=b", "a=b=c", "a=ä"]
)
def test_what_is_no_label_selector_is_refused(selector: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_selector(selector)
    assert caught.value.field == "labelSelector"


@pytest.mark.parametrize("selector", ["spec.image=x", "metadata.name", "metadata.name in (a)"])
def test_what_is_no_field_selector_is_refused(selector: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_selector(fields=selector)
    assert caught.value.field == "fieldSelector"
