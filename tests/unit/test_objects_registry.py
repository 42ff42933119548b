"""Kubernetes' object semantics, over both stores."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from controller.objects.admission import AdmissionRequest
from controller.objects.keys import allocation_key, object_key
from controller.objects.registry import Registry
from controller.store.base import Absent, Put, Remove, Store
from controller.store.memory import MemoryStore
from controller.store.sqlite import open_sqlite
from podwire.errors import AlreadyExists, Conflict, InvalidInput, NotFound, PermissionDenied
from podwire.seams import SeededRng
from tests.unit.objects_world import Doc, StoppedClock, namespace, node, pod


@pytest.fixture(params=["memory", "sqlite"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    rng = SeededRng(1)
    path = tmp_path / "store.db"
    store: Store = MemoryStore(rng) if request.param == "memory" else await open_sqlite(path, rng, reserve_bytes=4096)
    yield store
    await store.close()


def admit_pod(request: AdmissionRequest) -> None:
    """A default, a check, and a field that must not change."""
    spec = request.new["spec"]
    spec.setdefault("restartPolicy", "Always")
    if not spec.get("containers"):
        raise InvalidInput("spec.containers: at least one is required", field="spec.containers")
    if request.old is not None and request.old["spec"]["containers"] != spec["containers"]:
        raise InvalidInput("spec.containers: cannot be changed", field="spec.containers")


@pytest.fixture
async def registry(store: Store) -> Registry:
    made = Registry(store, StoppedClock(), SeededRng(2), {"pods": admit_pod})
    for name in ("default", "shop"):
        await made.create(namespace(name))
    return made


# Creating


async def test_a_new_object_gets_its_identity(registry: Registry) -> None:
    doc = await registry.create(pod("a"))
    metadata = doc["metadata"]
    assert len(metadata["uid"]) == 36
    assert metadata["creationTimestamp"] == "2023-11-14T22:13:20Z"
    assert (metadata["generation"], metadata["namespace"]) == (1, "default")
    assert metadata["resourceVersion"] == str(await registry.store.revision())
    assert doc["status"] == {"phase": "Pending"}
    assert doc["spec"]["restartPolicy"] == "Always"
    assert await registry.get("pods", "default", "a") == doc


async def test_the_resource_version_is_the_stores_and_never_stored(registry: Registry) -> None:
    await registry.create(pod("a"))
    entry = await registry.store.get(object_key("pods", "default", "a"))
    assert entry is not None
    assert b"resourceVersion" not in entry.value


async def test_the_callers_document_is_left_alone(registry: Registry) -> None:
    doc = pod("a", labels={"x": "y"})
    before = pod("a", labels={"x": "y"})
    await registry.create(doc)
    await registry.apply([doc])
    assert doc == before


async def test_unknown_fields_survive_and_nulls_do_not(registry: Registry) -> None:
    doc = pod("a") | {"future": {"field": [1, {"x": None}]}}
    doc["metadata"]["creationTimestamp"] = None
    stored = await registry.create(doc)
    assert stored["future"] == {"field": [1, {}]}
    assert stored["metadata"]["creationTimestamp"].startswith("2023")


async def test_what_a_user_says_about_life_cycle_and_status_is_not_believed(registry: Registry) -> None:
    doc = pod("a", uid="mine", deletionTimestamp="2020-01-01T00:00:00Z", generation=7, resourceVersion="3")
    stored = await registry.create(doc | {"status": {"phase": "Running", "podIP": "1.2.3.4"}})
    assert stored["metadata"]["uid"] != "mine"
    assert "deletionTimestamp" not in stored["metadata"]
    assert stored["metadata"]["generation"] == 1
    assert stored["status"] == {"phase": "Pending"}


async def test_a_node_reports_its_status_at_once(registry: Registry) -> None:
    stored = await registry.create(node("a") | {"status": {"nodeInfo": {"bootID": "1"}}})
    assert stored["status"] == {"nodeInfo": {"bootID": "1"}}


async def test_a_name_is_taken_once_per_namespace_and_kind(registry: Registry) -> None:
    await registry.create(pod("a"))
    with pytest.raises(AlreadyExists, match="pod default/a already exists"):
        await registry.create(pod("a"))
    await registry.create(pod("a"), namespace="shop")
    await registry.create(node("a"))


async def test_of_many_who_create_one_name_one_wins(registry: Registry) -> None:
    results = await asyncio.gather(*(registry.create(pod("a")) for _ in range(10)), return_exceptions=True)
    assert sum(isinstance(result, dict) for result in results) == 1
    assert sum(isinstance(result, AlreadyExists) for result in results) == 9


async def test_generate_name_makes_names(registry: Registry) -> None:
    doc = pod("x")
    doc["metadata"] = {"generateName": "job-"}
    names = {(await registry.create(doc))["metadata"]["name"] for _ in range(20)}
    assert len(names) == 20
    assert all(name.startswith("job-") and len(name) == 9 for name in names)


async def test_a_namespace_must_exist_and_not_be_going(registry: Registry) -> None:
    with pytest.raises(NotFound, match="namespace nowhere does not exist, so pod nowhere/a"):
        await registry.create(pod("a"), namespace="nowhere")
    await registry.create(pod("held", namespace="shop", finalizers=["example.com/hold"]))
    await registry.delete("namespaces", "", "shop")
    with pytest.raises(Conflict, match="namespace shop is being deleted"):
        await registry.create(pod("a"), namespace="shop")


async def test_a_cluster_scoped_object_has_no_namespace(registry: Registry) -> None:
    doc = node("a")
    doc["metadata"]["namespace"] = "shop"
    assert "namespace" not in (await registry.create(doc))["metadata"]


async def test_a_dry_run_judges_and_stores_nothing(registry: Registry) -> None:
    before = await registry.store.revision()
    assert (await registry.create(pod("a"), dry_run=True))["spec"]["restartPolicy"] == "Always"
    with pytest.raises(NotFound):
        await registry.get("pods", "default", "a")
    with pytest.raises(InvalidInput):
        await registry.create(pod("a") | {"spec": {}}, dry_run=True)
    assert await registry.store.revision() == before


async def test_many_are_created_together_or_not_at_all(registry: Registry) -> None:
    await registry.create(pod("b"))
    before = await registry.store.revision()
    with pytest.raises(AlreadyExists):
        await registry.create_many([pod("a"), pod("b")])
    with pytest.raises(AlreadyExists):
        await registry.create_many([pod("c"), pod("c")])
    assert await registry.store.revision() == before
    made = await registry.create_many([namespace("new"), pod("a", namespace="new"), pod("c")])
    assert {doc["metadata"]["resourceVersion"] for doc in made} == {str(before + 1)}


@pytest.mark.parametrize(
    ("doc", "field"),
    [
        ([], ""),
        ({"kind": "Pod", "metadata": {"name": "a"}}, "apiVersion"),
        ({"apiVersion": "v1", "metadata": {"name": "a"}}, "kind"),
        ({"apiVersion": 1, "kind": "Pod"}, "apiVersion"),
        ({"apiVersion": "v1", "kind": "Ingress", "metadata": {"name": "a"}}, "kind"),
        ({"apiVersion": "v1", "kind": "Pod"}, "metadata.name"),
        ({"apiVersion": "v1", "kind": "Pod", "metadata": []}, "metadata"),
        (pod(""), "metadata.name"),
        (pod("Upper"), "metadata.name"),
        (pod("a/../b"), "metadata.name"),
        (pod("a", namespace="No"), "metadata.namespace"),
        (pod("a", namespace=3), "metadata.namespace"),
        (pod("a", labels=["x"]), "metadata.labels"),
        (pod("a", labels={"version": 1.0}), "metadata.labels[version]"),
        (pod("a", labels={"a b": "c"}), "metadata.labels"),
        (pod("a", labels={"a": "b c"}), "metadata.labels[a]"),
        (pod("a", annotations={"a": True}), "metadata.annotations[a]"),
        (pod("a", annotations={"a": "x" * 300_000}), "metadata.annotations"),
        (pod("a", finalizers="x"), "metadata.finalizers"),
        (pod("a", finalizers=[1]), "metadata.finalizers[0]"),
        (
            pod("a", ownerReferences=[{"apiVersion": "v1", "kind": "Pod", "name": "b"}]),
            "metadata.ownerReferences[0].uid",
        ),
        (namespace("has.dots"), "metadata.name"),
        (pod("a") | {"spec": {}}, "spec.containers"),
        (pod("a") | {"more": {1, 2}.__iter__()}, ""),
    ],
)
async def test_bad_documents_are_refused_with_the_path(registry: Registry, doc: Any, field: str) -> None:
    before = await registry.store.revision()
    for attempt in (registry.create(doc), registry.apply([doc])):
        with pytest.raises(InvalidInput) as caught:
            await attempt
        assert caught.value.field == field
    assert await registry.store.revision() == before


async def test_an_unknown_kind_is_told_what_there_is(registry: Registry) -> None:
    with pytest.raises(
        InvalidInput, match=r"Ingress a: kind 'Ingress' .* not supported; supported are Namespace \(v1\), Node"
    ):
        await registry.create({"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": {"name": "a"}})
    with pytest.raises(NotFound, match="'ingress'; there are namespaces/ns"):
        await registry.get("ingress", "default", "a")


# Reading


async def test_lists_are_sorted_selected_and_at_a_revision(registry: Registry) -> None:
    for name, where, label, on in (("b", "default", "x", "n1"), ("a", "default", "y", "n2"), ("c", "shop", "x", "n1")):
        await registry.create(pod(name, namespace=where, labels={"l": label}, node=on))

    async def names(*wanted: Any) -> list[str]:
        docs, revision = await registry.list("po", *wanted)
        assert revision == await registry.store.revision()
        return [doc["metadata"]["name"] for doc in docs]

    assert await names() == ["a", "b", "c"]
    assert await names("default") == ["a", "b"]
    assert await names(None, "l=x") == ["b", "c"]
    assert await names("default", "l=x", "spec.nodeName=n1") == ["b"]
    assert await names("nowhere") == []


# Updating


async def test_generation_rises_with_the_spec_only(registry: Registry) -> None:
    await registry.create(node("a"))
    doc = await registry.update(await registry.get("nodes", "", "a") | {"spec": {"unschedulable": True}})
    assert doc["metadata"]["generation"] == 2
    doc["metadata"]["labels"] = {"zone": "z"}
    doc = await registry.update(doc)
    doc = await registry.update_status(doc | {"status": {"phase": "x"}})
    assert doc["metadata"]["generation"] == 2


async def test_a_write_that_changes_nothing_keeps_the_resource_version(registry: Registry) -> None:
    doc = await registry.create(pod("a"))
    before = await registry.store.revision()
    assert await registry.update(doc) == doc
    assert await registry.update_status(doc) == doc
    assert await registry.patch("pods", "default", "a", {"spec": {"restartPolicy": "Always"}}) == doc
    assert await registry.mutate("pods", "default", "a", lambda same: same) == doc
    assert await registry.mutate("pods", "default", "a", lambda _: None) == doc
    assert await registry.store.revision() == before


async def test_an_old_resource_version_or_another_uid_is_refused(registry: Registry) -> None:
    old = await registry.create(pod("a"))
    await registry.patch("pods", "default", "a", {"metadata": {"labels": {"x": "1"}}})
    with pytest.raises(Conflict, match="pod default/a has changed"):
        await registry.update(old)
    with pytest.raises(Conflict):
        await registry.update_status(old)
    with pytest.raises(Conflict):
        await registry.patch("pods", "default", "a", {"metadata": {"resourceVersion": "1"}})
    with pytest.raises(Conflict, match="another object of that name"):
        await registry.patch("pods", "default", "a", {"metadata": {"uid": "other"}})


async def test_an_update_without_a_resource_version_is_unconditional(registry: Registry) -> None:
    await registry.create(pod("a"))
    doc = await registry.update(pod("a", labels={"x": "y"}))
    assert doc["metadata"]["labels"] == {"x": "y"}
    with pytest.raises(NotFound, match="pod default/b does not exist"):
        await registry.update(pod("b"))


async def test_identity_and_life_cycle_cannot_be_updated(registry: Registry) -> None:
    doc = await registry.create(pod("a"))
    meant = pod("a", creationTimestamp="2020-01-01T00:00:00Z", generation=9, deletionTimestamp="2020-01-01T00:00:00Z")
    after = await registry.update(meant)
    assert after["metadata"] == doc["metadata"]
    with pytest.raises(InvalidInput, match="cannot become"):
        await registry.patch("pods", "default", "a", {"metadata": {"name": "b"}})
    with pytest.raises(InvalidInput, match="cannot be changed"):
        await registry.patch("pods", "default", "a", {"spec": {"containers": [{"name": "other"}]}})


async def test_updates_keep_status_and_status_updates_keep_the_rest(registry: Registry) -> None:
    await registry.create(pod("a", labels={"x": "y"}, finalizers=["example.com/hold"]))
    running = await registry.update_status(pod("a") | {"spec": {}, "status": {"phase": "Running"}})
    assert running["status"] == {"phase": "Running"}
    assert running["metadata"]["labels"] == {"x": "y"}
    assert running["metadata"]["finalizers"] == ["example.com/hold"]
    assert running["spec"]["containers"]
    after = await registry.update(running | {"status": {"phase": "Failed"}})
    assert after["status"] == {"phase": "Running"}


async def test_a_status_write_may_bring_annotations(registry: Registry) -> None:
    """flannel publishes its backend through nodes/status."""
    await registry.create(node("a"))
    doc = await registry.patch(
        "nodes", "", "a", {"metadata": {"annotations": {"flannel/x": "1"}}}, subresource="status"
    )
    assert doc["metadata"]["annotations"] == {"flannel/x": "1"}
    with pytest.raises(InvalidInput):
        await registry.patch("nodes", "", "a", {}, subresource="scale")


async def test_mutations_of_one_object_all_arrive(registry: Registry) -> None:
    await registry.create(pod("a", labels={"count": "0"}))

    def count(doc: Doc) -> Doc:
        doc["metadata"]["labels"]["count"] = str(int(doc["metadata"]["labels"]["count"]) + 1)
        return doc

    await asyncio.gather(*(registry.mutate("pods", "default", "a", count) for _ in range(30)))
    assert (await registry.get("pods", "default", "a"))["metadata"]["labels"]["count"] == "30"


async def test_what_belongs_together_is_written_together(registry: Registry) -> None:
    """An address and the pod that it is for: both, or neither."""
    key = allocation_key("addresses", "10.244.0.2")
    claim, free = [Put(key, b"a")], [Absent(key)]
    for name in ("a", "b"):
        await registry.create(pod(name))
    bind = {"status": {"podIP": "10.244.0.2"}}
    await registry.update_status(pod("a") | bind, also=claim, given=free)
    with pytest.raises(Conflict, match=key):
        await registry.update_status(pod("b") | bind, also=claim, given=free)
    with pytest.raises(Conflict, match=key):
        await registry.mutate(
            "pods", "default", "b", lambda doc: doc | bind, status=True, also_fn=lambda _: (claim, free)
        )
    with pytest.raises(Conflict, match=key):
        await registry.create(pod("c"), also=claim, given=free)
    assert (await registry.get("pods", "default", "b"))["status"] == {"phase": "Pending"}
    await registry.delete("pods", "default", "a", also=[Remove(key)])
    assert await registry.store.get(key) is None


# Deleting


async def test_a_pod_without_a_node_goes_at_once(registry: Registry) -> None:
    await registry.create(pod("a"))
    await registry.delete("pods", "default", "a")
    with pytest.raises(NotFound):
        await registry.delete("pods", "default", "a")


async def test_a_pod_on_a_node_waits_for_its_node(registry: Registry) -> None:
    doc = await registry.create(pod("a", node="n1"))
    going = await registry.delete("pods", "default", "a")
    assert going["metadata"]["deletionGracePeriodSeconds"] == 30
    assert going["metadata"]["deletionTimestamp"] == "2023-11-14T22:13:50Z"
    assert going["metadata"]["generation"] == 1
    assert await registry.delete("pods", "default", "a") == going
    assert await registry.delete("pods", "default", "a", grace_s=60) == going
    assert (await registry.delete("pods", "default", "a", grace_s=5))["metadata"]["deletionGracePeriodSeconds"] == 5
    await registry.update_status(pod("a") | {"status": {"phase": "Succeeded"}})
    with pytest.raises(Conflict):
        await registry.remove("pods", "default", "a", "another uid")
    await registry.remove("pods", "default", "a", doc["metadata"]["uid"])
    with pytest.raises(NotFound):
        await registry.remove("pods", "default", "a", doc["metadata"]["uid"])


async def test_grace_zero_goes_at_once_and_the_pods_own_grace_is_the_default(registry: Registry) -> None:
    doc = pod("a", node="n1")
    doc["spec"]["terminationGracePeriodSeconds"] = 3
    await registry.create(doc)
    assert (await registry.delete("pods", "default", "a"))["metadata"]["deletionGracePeriodSeconds"] == 3
    await registry.delete("pods", "default", "a", grace_s=0)
    with pytest.raises(NotFound):
        await registry.get("pods", "default", "a")


async def test_a_deletion_can_be_bound_to_a_uid(registry: Registry) -> None:
    doc = await registry.create(pod("a"))
    with pytest.raises(Conflict):
        await registry.delete("pods", "default", "a", uid="other")
    await registry.delete("pods", "default", "a", uid=doc["metadata"]["uid"])


async def test_finalizers_hold_an_object_until_the_last_is_gone(registry: Registry) -> None:
    await registry.create(pod("a", finalizers=["x/one", "x/two"]))
    going = await registry.delete("pods", "default", "a")
    assert "deletionTimestamp" in going["metadata"]
    with pytest.raises(InvalidInput, match="can only be removed"):
        await registry.patch("pods", "default", "a", {"metadata": {"finalizers": ["x/one", "x/two", "x/three"]}})
    await registry.patch("pods", "default", "a", {"metadata": {"finalizers": ["x/two"]}})
    assert await registry.get("pods", "default", "a")
    await registry.patch("pods", "default", "a", {"metadata": {"finalizers": None}})
    with pytest.raises(NotFound):
        await registry.get("pods", "default", "a")


async def test_finalizers_hold_a_pod_after_its_node_let_go(registry: Registry) -> None:
    doc = await registry.create(pod("a", node="n1", finalizers=["x/one"]))
    await registry.delete("pods", "default", "a")
    key = allocation_key("addresses", "10.244.0.2")
    await registry.store.transact((), [Put(key, b"a")])
    held = await registry.remove("pods", "default", "a", doc["metadata"]["uid"], also=[Remove(key)])
    assert held["metadata"]["deletionGracePeriodSeconds"] == 0
    assert await registry.store.get(key) is None
    assert await registry.remove("pods", "default", "a", doc["metadata"]["uid"]) == held
    await registry.update(pod("a", node="n1"))
    with pytest.raises(NotFound):
        await registry.get("pods", "default", "a")


async def test_a_namespace_goes_with_what_is_in_it(registry: Registry) -> None:
    await registry.create(pod("loose"), namespace="shop")
    bound = await registry.create(pod("bound", node="n1"), namespace="shop")
    await registry.create(pod("elsewhere"))
    going = await registry.delete("namespaces", "", "shop")
    assert going["status"]["phase"] == "Terminating"
    docs, _ = await registry.list("pods")
    assert [(doc["metadata"]["name"], "deletionTimestamp" in doc["metadata"]) for doc in docs] == [
        ("elsewhere", False),
        ("bound", True),
    ]
    assert await registry.collect() == 0
    await registry.remove("pods", "shop", "bound", bound["metadata"]["uid"])
    assert await registry.collect() == 1
    with pytest.raises(NotFound):
        await registry.get("ns", "", "shop")


async def test_an_empty_namespace_goes_at_once_but_never_default(registry: Registry) -> None:
    await registry.delete("namespaces", "", "shop")
    with pytest.raises(NotFound):
        await registry.get("ns", "", "shop")
    with pytest.raises(PermissionDenied):
        await registry.delete("namespaces", "", "default")


async def test_dependents_go_when_their_last_owner_is_gone(registry: Registry) -> None:
    def owned(name: str, *owners: Doc) -> Doc:
        references = [
            {"apiVersion": "v1", "kind": "Pod", "name": owner["metadata"]["name"], "uid": owner["metadata"]["uid"]}
            for owner in owners
        ]
        return pod(name, ownerReferences=references)

    one, two = [await registry.create(pod(name)) for name in ("one", "two")]
    child = await registry.create(owned("child", one))
    await registry.create(owned("grandchild", child))
    await registry.create(owned("shared", one, two))
    foreign = [{"apiVersion": "example.com/v1", "kind": "Widget", "name": "w", "uid": "w"}]
    await registry.create(pod("foreign", ownerReferences=foreign))
    assert await registry.collect() == 0
    await registry.delete("pods", "default", "one")
    assert await registry.collect() == 2
    docs, _ = await registry.list("pods")
    assert [doc["metadata"]["name"] for doc in docs] == ["foreign", "shared", "two"]
