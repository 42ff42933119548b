"""The table of kinds, and the keys under which objects stand."""

from __future__ import annotations

import pytest

from controller.objects.keys import (
    allocation_key,
    allocation_prefix,
    object_key,
    object_prefix,
    parse_allocation_key,
    parse_object_key,
)
from controller.objects.resources import RESOURCES, resource_for, resource_named
from podwire.errors import InvalidInput, NotFound


@pytest.mark.parametrize("word", ["pods", "pod", "po", "Pod", "PODS", "PO"])
def test_a_kind_has_many_words(word: str) -> None:
    assert resource_named(word).name == "pods"


def test_no_word_means_two_kinds() -> None:
    words = [word for row in RESOURCES for word in {row.name, row.singular, *row.short_names}]
    assert len(words) == len(set(words))


def test_unknown_kinds_are_told_what_there_is() -> None:
    with pytest.raises(NotFound, match="pods/po"):
        resource_named("widgets")
    with pytest.raises(InvalidInput, match="Cluster"):
        resource_for("v1", "Widget")
    with pytest.raises(InvalidInput):
        resource_for("apps/v1", "Pod")


@pytest.mark.parametrize("reference", [("pods", "default", "a"), ("nodes", "", "a.example"), ("events", "x", "a.1f")])
def test_object_keys_can_be_read_back(reference: tuple[str, str, str]) -> None:
    key = object_key(*reference)
    assert parse_object_key(key) == reference
    assert key.startswith(object_prefix(reference[0], reference[1]))
    assert key.startswith(object_prefix(reference[0]))
    assert key.startswith(object_prefix())


def test_a_prefix_takes_no_namesakes() -> None:
    assert not object_key("pods", "default-2", "a").startswith(object_prefix("pods", "default"))


@pytest.mark.parametrize("what", ["10.244.1.2", "10.244.1.0/24", "fd00::1", "fd00:10:244::/64"])
def test_allocation_keys_can_be_read_back(what: str) -> None:
    key = allocation_key("addresses", what)
    assert parse_allocation_key(key) == ("addresses", what)
    assert key.startswith(allocation_prefix("addresses"))
    assert key.startswith(allocation_prefix())
