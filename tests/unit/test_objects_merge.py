"""Three-way merge and JSON merge patch: tables of cases, and what must hold for any documents."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.objects.merge import POD_RULES, AsSet, ByKey, Rules, merge_patch, three_way, without_nulls
from podwire.errors import InvalidInput

# name, last applied, file, object as it is, expected
CASES: list[tuple[str, dict[str, Any], dict[str, Any], dict[str, Any], dict[str, Any]]] = [
    ("what the file says wins", {"a": 1}, {"a": 2}, {"a": 3}, {"a": 2}),
    ("a field taken out of the file goes", {"a": 1, "b": 1}, {"a": 1}, {"a": 1, "b": 1}, {"a": 1}),
    ("even where somebody changed it", {"a": 1, "b": 1}, {"a": 1}, {"a": 1, "b": 9}, {"a": 1}),
    ("what others added stays", {"a": 1}, {"a": 1}, {"a": 1, "default": 7}, {"a": 1, "default": 7}),
    ("a new field comes", {}, {"a": {"b": 1}}, {}, {"a": {"b": 1}}),
    (
        "maps merge in depth",
        {"m": {"a": 1, "b": 1}},
        {"m": {"a": 2}},
        {"m": {"a": 1, "b": 1, "c": 1}},
        {"m": {"a": 2, "c": 1}},
    ),
    ("null in the file removes", {}, {"a": None}, {"a": 1, "b": 1}, {"b": 1}),
    ("null in the last file is nothing it said", {"a": None}, {}, {"a": 1}, {"a": 1}),
    ("a map replaces what is none", {"a": [1]}, {"a": {"b": 1}}, {"a": [1]}, {"a": {"b": 1}}),
    ("lists without a key are replaced", {"l": [1, 2]}, {"l": [2]}, {"l": [1, 2, 3]}, {"l": [2]}),
    (
        "containers merge by name",
        {"spec": {"containers": [{"name": "a", "image": "1"}]}},
        {"spec": {"containers": [{"name": "a", "image": "2"}]}},
        {"spec": {"containers": [{"name": "a", "image": "1", "imagePullPolicy": "Always"}, {"name": "injected"}]}},
        {"spec": {"containers": [{"name": "a", "image": "2", "imagePullPolicy": "Always"}, {"name": "injected"}]}},
    ),
    (
        "a container taken out of the file goes, an injected one stays",
        {"spec": {"containers": [{"name": "a"}, {"name": "b"}]}},
        {"spec": {"containers": [{"name": "b"}]}},
        {"spec": {"containers": [{"name": "injected"}, {"name": "a"}, {"name": "b", "tty": False}]}},
        {"spec": {"containers": [{"name": "injected"}, {"name": "b", "tty": False}]}},
    ),
    (
        "the file's order holds",
        {"spec": {"containers": [{"name": "a"}, {"name": "b"}]}},
        {"spec": {"containers": [{"name": "b"}, {"name": "a"}]}},
        {"spec": {"containers": [{"name": "a"}, {"name": "x"}, {"name": "b"}]}},
        {"spec": {"containers": [{"name": "b"}, {"name": "a"}, {"name": "x"}]}},
    ),
    (
        "env merges by name inside a container, ports by number and protocol",
        {"spec": {"containers": [{"name": "a", "env": [{"name": "X", "value": "1"}, {"name": "Y", "value": "1"}]}]}},
        {
            "spec": {
                "containers": [
                    {
                        "name": "a",
                        "env": [{"name": "X", "value": "2"}],
                        "ports": [{"containerPort": 53}, {"containerPort": 53, "protocol": "UDP"}],
                    }
                ]
            }
        },
        {
            "spec": {
                "containers": [
                    {
                        "name": "a",
                        "env": [{"name": "X", "value": "1"}, {"name": "Y", "value": "1"}, {"name": "Z", "value": "1"}],
                        "ports": [{"containerPort": 53, "protocol": "TCP"}],
                    }
                ]
            }
        },
        {
            "spec": {
                "containers": [
                    {
                        "name": "a",
                        "env": [{"name": "X", "value": "2"}, {"name": "Z", "value": "1"}],
                        "ports": [{"containerPort": 53, "protocol": "TCP"}, {"containerPort": 53, "protocol": "UDP"}],
                    }
                ]
            }
        },
    ),
    (
        "a volume that changes its kind does not keep the old one",
        {"spec": {"volumes": [{"name": "v", "emptyDir": {}}]}},
        {"spec": {"volumes": [{"name": "v", "configMap": {"name": "c"}}]}},
        {"spec": {"volumes": [{"name": "v", "emptyDir": {}}]}},
        {"spec": {"volumes": [{"name": "v", "configMap": {"name": "c"}}]}},
    ),
    (
        "finalizers are a set",
        {"metadata": {"finalizers": ["x/a", "x/b"]}},
        {"metadata": {"finalizers": ["x/b"]}},
        {"metadata": {"finalizers": ["x/a", "x/b", "y/controller"]}},
        {"metadata": {"finalizers": ["x/b", "y/controller"]}},
    ),
    (
        "items that share a key cannot be merged: the file's list stands",
        {},
        {"spec": {"containers": [{"name": "a"}, {"name": "a"}]}},
        {"spec": {"containers": [{"name": "a"}, {"name": "b"}]}},
        {"spec": {"containers": [{"name": "a"}, {"name": "a"}]}},
    ),
    (
        "items without the key as well",
        {},
        {"spec": {"containers": ["a", {"image": "x"}]}},
        {"spec": {"containers": [{"name": "a"}]}},
        {"spec": {"containers": ["a", {"image": "x"}]}},
    ),
    (
        "the whole list taken out of the file goes",
        {"spec": {"volumes": [{"name": "v"}]}},
        {"spec": {}},
        {"spec": {"volumes": [{"name": "v"}, {"name": "w"}]}},
        {"spec": {}},
    ),
]


@pytest.mark.parametrize(
    ("last", "file", "current", "expected"), [case[1:] for case in CASES], ids=[case[0] for case in CASES]
)
def test_three_way(
    last: dict[str, Any], file: dict[str, Any], current: dict[str, Any], expected: dict[str, Any]
) -> None:
    assert three_way(last, file, current, POD_RULES) == expected


NAMES = st.sampled_from("abcdk")
SCALARS = st.integers(0, 3) | st.sampled_from(["x", "y"]) | st.booleans()
ITEMS = st.lists(st.fixed_dictionaries({"k": st.integers(0, 4)}, optional={"v": SCALARS, "w": SCALARS}), max_size=4)
SETS = st.lists(st.sampled_from("pqrs"), max_size=4, unique=True)
RULES: Rules = {"keyed": ByKey(("k",)), "set": AsSet(), "deep": {"keyed": ByKey(("k",))}}
VALUES = st.recursive(
    SCALARS, lambda inner: st.dictionaries(NAMES, inner, max_size=3) | st.lists(inner, max_size=3), max_leaves=6
)
DOCS = st.fixed_dictionaries(
    {},
    optional={
        "a": VALUES,
        "b": VALUES,
        "c": VALUES,
        "keyed": ITEMS,
        "set": SETS,
        "deep": st.fixed_dictionaries({}, optional={"keyed": ITEMS, "a": VALUES}),
    },
)


@given(DOCS, DOCS, DOCS)
def test_applying_an_unchanged_file_again_changes_nothing(last: Any, file: Any, current: Any) -> None:
    merged = three_way(last, file, current, RULES)
    assert three_way(file, file, merged, RULES) == merged


@given(DOCS, DOCS, DOCS)
def test_the_merged_object_says_what_the_file_says(last: Any, file: Any, current: Any) -> None:
    assert says(three_way(last, file, current, RULES), file)


def says(value: Any, wanted: Any) -> bool:
    """Whether everything wanted stands in a value; lists may hold more, in any order."""
    if isinstance(wanted, dict):
        return isinstance(value, dict) and all(
            name in value and says(value[name], under) for name, under in wanted.items()
        )
    if isinstance(wanted, list):
        return isinstance(value, list) and all(any(says(item, one) for item in value) for one in wanted)
    return bool(value == wanted)


@given(DOCS, DOCS, DOCS)
def test_what_only_the_last_file_said_goes_and_what_only_others_said_stays(last: Any, file: Any, current: Any) -> None:
    merged = three_way(last, file, current, RULES)
    assert not (last.keys() - file.keys()) & merged.keys()
    for name in current.keys() - last.keys() - file.keys():
        assert merged[name] == current[name]


@given(DOCS, DOCS, DOCS)
def test_merging_changes_none_of_its_inputs(last: Any, file: Any, current: Any) -> None:
    before = copy.deepcopy((last, file, current))
    three_way(last, file, current, RULES)
    assert (last, file, current) == before


@given(DOCS)
def test_applying_for_the_first_time_over_nothing_gives_the_file(file: Any) -> None:
    assert three_way({}, file, {}, RULES) == file


@pytest.mark.parametrize(
    ("target", "patch", "expected"),
    [  # the examples of RFC 7386, appendix A
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": "b"}, {"a": None}, {}),
        ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
        (["a", "b"], ["c", "d"], ["c", "d"]),
        ({"a": "b"}, ["c"], ["c"]),
        ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
        ([1, 2], {"a": "b", "c": None}, {"a": "b"}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
    ],
)
def test_merge_patch(target: Any, patch: Any, expected: Any) -> None:
    assert merge_patch(target, patch) == expected


def test_without_nulls_keeps_everything_else() -> None:
    doc: dict[str, Any] = {"a": None, "b": {"c": None, "d": {}}, "e": [{"f": None}, 0, ""], "g": False}
    assert without_nulls(doc) == {"b": {"d": {}}, "e": [{}, 0, ""], "g": False}


def test_what_is_nested_without_end_is_refused() -> None:
    deep: list[Any] = []
    for _ in range(5000):
        deep = [deep]
    with pytest.raises(InvalidInput, match="100 levels"):
        without_nulls(deep)
