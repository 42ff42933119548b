"""`podwire node`: nodes come and go at run time.

In: a verb and a node's name. Out: the cluster with one node more or less, or one that stands still for a while. `add` and `restart`
return when the node is ready and every pair of nodes has been probed.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

import click

from podwire.cli import options
from podwire.cli.app import App, pass_app, usage
from podwire.cli.selection import parse_labels
from podwire.errors import AlreadyExists, InvalidInput, NotFound

if TYPE_CHECKING:
    from podwire.model.cluster import NodeSpec

name_argument = click.argument("name", shell_complete=options.complete_nodes)


@click.group("node")
def command() -> None:
    """Add, delete, pause, resume or restart nodes."""


@command.command("add")
@click.argument("name")
@click.option("--zone", default="", help="The zone it is in.")
@click.option("-l", "--labels", default="", metavar="k=v,…", help="Labels of its Node object.")
@options.timeout_option("60s", "Give up after this long.")
@pass_app
def add(app: App, *, name: str, zone: str, labels: str, timeout: str) -> None:
    """Start one more node."""
    timeout_s = options.seconds(timeout)
    from podwire.model.cluster import NodeSpec
    from podwire.model.names import dns_label, label_value

    with usage():
        node = NodeSpec(dns_label(name, "NAME"), label_value(zone, "--zone"), parse_labels(labels, "--labels"))
    driver = app.driver()

    async def work() -> None:
        if name in {one.name for one in await driver.nodes()}:
            raise AlreadyExists(f"node {name!r} exists in cluster {app.cluster!r}")
        _change_document(app, add=node)
        with app.renderer.stage(f"Starting node {name}"):
            await driver.add_node(node)
        await _await_network(app, [name], timeout_s)
        app.renderer.line(f"node/{name} added")

    app.run_async(work())


@command.command("delete")
@name_argument
@pass_app
def delete(app: App, *, name: str) -> None:
    """End a node and forget it; its pods go with it."""
    driver = app.driver()

    async def work() -> None:
        nodes = {one.name for one in await driver.nodes()}
        if name not in nodes:
            raise NotFound(f"there is no node {name!r}", hint=f"nodes: {', '.join(sorted(nodes))}")
        if len(nodes) == 1:
            raise InvalidInput(f"node {name!r} is the last one", hint="to remove the cluster: podwire down")
        _change_document(app, remove=name)
        with app.renderer.stage(f"Ending node {name}"):
            await driver.delete_node(name)  # first: what is gone sends nothing, so its addresses may be given again
        async with app.client() as client:
            try:
                await client.delete("nodes", name)
            except NotFound:  # it never joined
                app.renderer.note(f"Node {name} was not known to the controller.")
        app.renderer.line(f"node/{name} deleted")

    app.run_async(work())


@command.command("pause")
@name_argument
@pass_app
def pause(app: App, *, name: str) -> None:
    """Stop every process of a node where it is."""
    app.run_async(app.driver().pause_node(name))
    app.renderer.line(f"node/{name} paused")


@command.command("resume")
@name_argument
@pass_app
def resume(app: App, *, name: str) -> None:
    """Let a paused node go on."""
    app.run_async(app.driver().resume_node(name))
    app.renderer.line(f"node/{name} resumed")


@command.command("restart")
@name_argument
@options.timeout_option("60s", "Give up after this long.")
@pass_app
def restart(app: App, *, name: str, timeout: str) -> None:
    """End a node and start it again with its durable state."""
    timeout_s = options.seconds(timeout)
    driver = app.driver()

    async def work() -> None:
        async with app.client() as client:
            boots = {node.name: node.boot_id for node in (await client.status()).nodes}
        with app.renderer.stage(f"Restarting node {name}"):
            await driver.restart_node(name)
        await _await_network(app, [name], timeout_s, former_boots=boots)
        app.renderer.line(f"node/{name} restarted")

    app.run_async(work())


async def _await_network(
    app: App, names: Collection[str], timeout_s: float, *, former_boots: dict[str, str] | None = None
) -> None:
    from podwire.cli.mesh import await_network

    async with app.client() as client:
        with app.renderer.stage("Waiting until it is ready and every pair of nodes is probed"):
            await await_network(client, names, app.clock, timeout_s, former_boots=former_boots)


def _change_document(app: App, *, add: NodeSpec | None = None, remove: str = "") -> None:
    """Keeps the remembered Cluster document true, so that the next `up` does not undo this."""
    from podwire.drivers.base import remember, remembered_document, remembered_driver
    from podwire.model.cluster import parse_cluster
    from podwire.seams import SystemDisk

    disk = SystemDisk()
    document = remembered_document(app.cluster, disk)
    if document is None:
        return
    import msgspec

    nodes = [node for node in document["spec"]["nodes"] if node["name"] != remove]
    if add is not None and add.name not in {node["name"] for node in nodes}:
        nodes.append(msgspec.to_builtins(add))
    document = {**document, "spec": {**document["spec"], "nodes": nodes}}
    remember(app.cluster, remembered_driver(app.cluster, disk), parse_cluster(document).document(), disk)
