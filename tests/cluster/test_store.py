"""What users apply is what there is, field by field; and a store that was wiped is rebuilt from what agents hold."""

from __future__ import annotations

import copy
from collections.abc import AsyncIterator
from typing import Any

import pytest

from podwire.client import ControlClient
from tests.cluster import pods
from tests.cluster.harness import Cluster, eventually
from tests.cluster.inside import CONTROLLER, Inside
from tests.cluster.mesh import talking

pytestmark = pytest.mark.cluster


@pytest.fixture
async def client(cluster: Cluster) -> AsyncIterator[ControlClient]:
    async with cluster.client() as connected:
        yield connected


async def test_a_field_removed_from_the_file_goes_and_an_unchanged_file_changes_nothing(
    cluster: Cluster, client: ControlClient
) -> None:
    first = pods.pod("kept", "a")
    first["metadata"] |= {"labels": {"app": "web", "tier": "front"}, "annotations": {"note": "to go"}}
    second = copy.deepcopy(first)
    del second["metadata"]["labels"]["tier"], second["metadata"]["annotations"]
    async with pods.applied(client, first):
        await client.patch("pods", "kept", {"metadata": {"labels": {"by-hand": "stays"}}}, namespace="default")
        (changed,) = await client.apply([second])
        assert changed.outcome == "configured"
        metadata = changed.document["metadata"]
        assert metadata["labels"] == {"app": "web", "by-hand": "stays"}
        assert "note" not in metadata["annotations"]
        (again,) = await client.apply([second])
        assert again.outcome == "unchanged"
        assert again.document["metadata"]["resourceVersion"] == metadata["resourceVersion"]


async def test_a_wiped_store_is_rebuilt_and_nobodys_address_changes(cluster: Cluster, client: ControlClient) -> None:
    """Nor is a packet lost; and who comes new gets an address that nobody has."""
    inside = Inside(cluster)
    async with pods.applied(client, *pods.TRIO) as addresses:
        before = await identities(client)
        old = (await client.status()).store_id
        async with talking(inside, addresses) as mesh:
            state = inside.controller_state
            with inside.dead(CONTROLLER, CONTROLLER):
                files = sorted(state.glob("*.db*"))
                assert files, f"no store in {state}: {sorted(state.iterdir())}"
                for file in files:
                    file.unlink()
            await eventually(cluster.all_ready, "not all nodes are Ready after the store was wiped")

            async def all_back() -> bool:
                return await identities(client) == before

            await eventually(all_back, "pods are not as they were", within_s=20)
            assert await pods.ready(client, *addresses) == addresses
            assert (await client.status()).store_id != old
            assert await mesh.losses() == []
        async with pods.applied(client, pods.pod("late", "a"), pods.pod("later", "b")) as fresh:
            assert not set(fresh.values()) & set(addresses.values())
        (unchanged, *_) = await client.apply(pods.TRIO)
        assert unchanged.outcome == "unchanged"


async def identities(client: ControlClient) -> dict[str, tuple[Any, ...]]:
    """Who the pods are: UID, node and addresses."""
    documents = (await client.list("pods", namespace="default")).documents
    return {
        document["metadata"]["name"]: (
            document["metadata"]["uid"],
            document["spec"]["nodeName"],
            document.get("status", {}).get("podIPs"),
        )
        for document in documents
    }
