"""`podwire up`: makes or reconciles the cluster.

In: a Cluster document (a file, or what was used last, or the default) and flags. Out: a cluster in which every node is ready and a probe
has crossed every pair of nodes; then the status and the next command to try. Running it again is fast and changes nothing. Kubernetes
documents in the same file are applied once the cluster stands.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext, suppress
from typing import TYPE_CHECKING, Any

import click

from podwire.cli import options
from podwire.cli.app import App, driver_named, pass_app, read_stdin
from podwire.errors import InvalidInput, PodwireError, Unsupported

if TYPE_CHECKING:
    from podwire.client import ControlClient
    from podwire.drivers.base import Driver
    from podwire.model.cluster import ClusterSpec
    from podwire.model.manifests import Manifest

CLUSTER_KIND = "Cluster"
FIXED_FIELDS = (
    "podCIDR",
    "podCIDRv6",
    "serviceCIDR",
    "serviceCIDRv6",
    "nodeCIDRMask",
    "nodeCIDRMaskv6",
    "underlayCIDR",
)


@click.command("up")
@click.option(
    "-f",
    "--filename",
    "file",
    metavar="FILE",
    type=click.Path(),
    help="Cluster document; Kubernetes documents may follow.",
)
@click.option("--nodes", type=click.IntRange(1), metavar="N", help="How many nodes. [default: 3]")
@click.option(
    "--driver",
    "driver_name",
    type=click.Choice(["docker", "local"]),
    help="How nodes are made. [default: docker where an engine answers]",
)
@click.option("--plugin", metavar="NAME", help="Network plugin. [default: bridge]")
@click.option(
    "--restricted/--privileged",
    default=None,
    help="Node containers get two capabilities instead of all privileges. [default: as before, else what the engine grants]",
)
@click.option("--dry-run", is_flag=True, help="Say what would be made, and make nothing.")
@options.timeout_option("120s", "Give up after this long.")
@pass_app
def command(
    app: App,
    *,
    file: str | None,
    nodes: int | None,
    driver_name: str | None,
    plugin: str | None,
    restricted: bool | None,
    dry_run: bool,
    timeout: str,
) -> None:
    """Make the cluster, or bring it to what is asked."""
    timeout_s = options.seconds(timeout)
    manifests = _load(file)
    document = _document(app, manifests, nodes, plugin)
    from podwire.model.cluster import parse_cluster

    spec = parse_cluster(document)
    app.cluster = spec.name
    _refuse_changed_ranges(app.cluster, spec)
    app.run_async(_up(app, spec, manifests, driver_name, restricted=restricted, dry_run=dry_run, timeout_s=timeout_s))


async def _up(
    app: App,
    spec: ClusterSpec,
    manifests: Sequence[Manifest],
    driver_name: str | None,
    *,
    restricted: bool | None,
    dry_run: bool,
    timeout_s: float,
) -> None:
    from podwire.drivers.base import UpOptions, remember, remembered_document
    from podwire.seams import SystemDisk

    began = app.clock.monotonic()
    driver = await _choose_driver(app, driver_name)
    if restricted is not None and driver.name != "docker":
        raise click.UsageError(
            f"--restricted and --privileged are about node containers; the {driver.name} driver has none"
        )
    if dry_run:
        _show_plan(app, spec, driver)
        return
    is_new = remembered_document(spec.name, SystemDisk()) is None
    remember(spec.name, driver.name, spec.document(), SystemDisk())
    try:
        await driver.up(spec, UpOptions(restricted=restricted, timeout_s=timeout_s), app.renderer.stage)
    except (Unsupported, InvalidInput):  # this machine cannot, so another driver or document will be tried next
        if is_new:
            with suppress(PodwireError):
                await driver.down(lambda _stage: nullcontext())
        raise
    from podwire.cli.mesh import await_mesh, await_nodes
    from podwire.cli.status import show

    deadline = began + timeout_s
    async with app.client() as client:
        await _forget_nodes(client, spec)
        with app.renderer.stage(f"Waiting until {len(spec.nodes)} nodes are ready"):
            await await_nodes(client, [node.name for node in spec.nodes], app.clock, deadline)
        with app.renderer.stage("Sending a probe across every pair of nodes"):
            await await_mesh(client, app.clock, deadline)
        if manifests:
            from podwire.cli.apply import apply_manifests

            with app.renderer.stage(f"Applying {len(manifests)} documents"):
                await apply_manifests(client, manifests, namespace="default")
        app.renderer.note(f"Cluster {spec.name} is up ({driver.name} driver).\n")
        show(app, await client.status())
    _show_next(app, spec)


async def _forget_nodes(client: ControlClient, spec: ClusterSpec) -> None:
    """Deletes the Node objects of nodes that the driver has removed: only then are their addresses free again."""
    from podwire.errors import NotFound

    wanted = {node.name for node in spec.nodes}
    for document in (await client.list("nodes")).documents:
        name = document["metadata"]["name"]
        if name not in wanted:
            with suppress(NotFound):
                await client.delete("nodes", name)


def _load(file: str | None) -> list[Manifest]:
    if file is None:
        return []
    from podwire.model.manifests import load_manifests

    return load_manifests([file], read_stdin=read_stdin)


def _document(app: App, manifests: list[Manifest], nodes: int | None, plugin: str | None) -> dict[str, Any]:
    """The Cluster document that is meant; takes it out of the manifests."""
    from podwire.drivers.base import remembered_document
    from podwire.model.cluster import API_VERSION
    from podwire.seams import SystemDisk

    found = [manifest for manifest in manifests if manifest.document["kind"] == CLUSTER_KIND]
    if len(found) > 1:
        raise InvalidInput(f"{found[1].where}: there is a second Cluster document; a file makes one cluster")
    if found:
        manifests.remove(found[0])
        document = found[0].document
        _check_name(app, found[0])
    else:
        document = remembered_document(app.cluster, SystemDisk()) or {
            "apiVersion": API_VERSION,
            "kind": CLUSTER_KIND,
            "metadata": {"name": app.cluster},
        }
    spec = dict(document.get("spec") or {})
    if nodes is not None:
        spec["nodes"] = _resized(spec.get("nodes"), nodes)
    if plugin is not None:
        spec["network"] = {**(spec.get("network") or {}), "plugin": plugin}
    return {**document, "spec": spec}


def _check_name(app: App, manifest: Manifest) -> None:
    """--cluster and the document may not contradict each other."""
    source = click.get_current_context().find_root().get_parameter_source("cluster")
    given = source is not None and source.name in ("COMMANDLINE", "ENVIRONMENT")
    name = manifest.document["metadata"].get("name")
    if given and name != app.cluster:
        raise InvalidInput(f"{manifest.where}: the document makes cluster {name!r}, and --cluster says {app.cluster!r}")


def _resized(current: Any, count: int) -> Any:
    """N nodes: the first N of those that are named, or those and new ones."""
    from podwire.model.cluster import node_names

    if not isinstance(current, list):
        return count
    kept = current[:count]
    names = {node.get("name") for node in kept if isinstance(node, dict)}
    fresh = [name for name in node_names(count + len(names)) if name not in names]
    return kept + [{"name": name} for name in fresh[: count - len(kept)]]


def _refuse_changed_ranges(cluster: str, spec: ClusterSpec) -> None:
    from podwire.drivers.base import remembered_document
    from podwire.seams import SystemDisk

    earlier = remembered_document(cluster, SystemDisk())
    if earlier is None:
        return
    before, after = earlier["spec"], spec.document()["spec"]
    for field in FIXED_FIELDS:
        if before.get(field) != after.get(field):
            raise InvalidInput(
                f"spec.{field}: cluster {cluster!r} was made with {before.get(field, 'none')}, which cannot be changed to "
                f"{after.get(field, 'none')}",
                field=f"spec.{field}",
                hint="remove the cluster first: podwire down",
            )


async def _choose_driver(app: App, wanted: str | None) -> Driver:
    """The one that made the cluster, the one asked for, or docker where an engine answers."""
    from podwire.drivers.base import remembered_driver
    from podwire.errors import NotFound
    from podwire.seams import SystemDisk

    try:
        made_by = remembered_driver(app.cluster, SystemDisk())
    except NotFound:
        made_by = ""
    if made_by and wanted not in (None, made_by):
        raise InvalidInput(
            f"cluster {app.cluster!r} was made with the {made_by} driver",
            hint="remove it first: podwire down, or use another --cluster",
        )
    name = made_by or wanted
    if not name:
        name = "docker" if engine_answers() else "local"
        if name == "local":
            app.renderer.note(
                "No Docker Engine answers: using the local driver, with namespaces of this machine as nodes."
            )
    return driver_named(name, app.cluster)


def engine_answers() -> bool:
    """Whether a Docker Engine answers; asks its socket and nothing more, so that it costs a millisecond."""
    import os
    import socket
    from urllib.parse import urlsplit

    url = urlsplit(os.environ.get("DOCKER_HOST") or "unix:///var/run/docker.sock")
    try:
        if url.scheme == "unix":
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(1.0)
                connection.connect(url.path)
                connection.sendall(b"GET /_ping HTTP/1.0\r\n\r\n")
                return connection.recv(64).startswith(b"HTTP/1.")
        with socket.create_connection((url.hostname or "localhost", url.port or 2375), timeout=1.0):
            return True
    except OSError:
        return False


def _show_plan(app: App, spec: ClusterSpec, driver: Driver) -> None:
    from podwire.model.manifests import dump_yaml

    app.renderer.note(f"With the {driver.name} driver this would be made:")
    app.renderer.raw(dump_yaml(spec.document()))


def _show_next(app: App, spec: ClusterSpec) -> None:
    flag = "" if app.cluster == "podwire" else f" --cluster {app.cluster}"
    first = spec.nodes[0].name
    app.renderer.note(f"\nNext, try: podwire{flag} run web --image agnhost --port 8080 --node {first} --wait")
