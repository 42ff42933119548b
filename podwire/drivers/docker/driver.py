"""The docker driver: a node is a container of the podwire image, on a compose network made for the cluster.

In: a `ClusterSpec`. Out: containers, volumes and a network that carry the cluster's label, and an `Endpoint` on a loopback port with mTLS.
`compose/` finds the engine, builds the image and writes the compose document; compose makes what that document says; `containers` does
what compose does not: tokens and certificates by exec and archive (never in an argument, a label or a log), pause, restart, `down` by
label. All of that blocks, so it runs in threads.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import json
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec

from compose import engine as engines
from compose import generate, image
from compose.engine import Engine
from podwire.client import connect
from podwire.drivers import hostnet
from podwire.drivers.base import DriverNode, Endpoint, Fact, Progress, UpOptions, state_directory, state_home
from podwire.drivers.docker import privileges
from podwire.drivers.docker.containers import (
    Containers,
    driver_node,
    execute,
    parallel,
    read_file,
    sdk_errors,
    start,
    write_file,
)
from podwire.drivers.docker.papers import CERTIFICATE, KEY, answers, user_name
from podwire.errors import AlreadyExists, InvalidInput, NotFound, PodwireError, Unavailable
from podwire.identity import Credentials, save_credentials
from podwire.model.addresses import IPNetwork
from podwire.model.cluster import ClusterSpec, NodeSpec, parse_cluster
from podwire.seams import Disk, SystemDisk

TUN = "/dev/net/tun"
STOP_TIMEOUT_S = 2
# In the container, because an exec per look would cost more than the look.
_WAIT = f"until test -e {generate.READY}; do sleep 0.02; done"


class DockerDriver:
    """One cluster on a Docker Engine; fulfils `podwire.drivers.base.Driver`."""

    name = "docker"

    def __init__(self, cluster: str, disk: Disk | None = None) -> None:
        self._cluster = cluster
        self._disk = disk or SystemDisk()
        self._directory = state_directory(cluster)

    async def up(self, spec: ClusterSpec, options: UpOptions, progress: Progress) -> Endpoint:
        await asyncio.to_thread(self._prepare, spec, options, progress)
        with progress(f"Starting the controller and {_count(len(spec.nodes), 'node')}"):
            endpoint = await self._run(spec, options.timeout_s)
        await self._join(spec, endpoint, progress)
        return endpoint

    async def down(self, progress: Progress) -> None:
        await asyncio.to_thread(self._down, progress)

    async def endpoint(self) -> Endpoint:
        return await asyncio.to_thread(self._endpoint)

    async def nodes(self) -> Sequence[DriverNode]:
        return await asyncio.to_thread(self._nodes)

    async def add_node(self, node: NodeSpec) -> None:
        spec, _ = self._remembered()
        if any(existing.name == node.name for existing in spec.nodes):
            raise AlreadyExists(f"cluster {self._cluster!r} has a node {node.name!r}")
        await self._change_nodes(spec, [*spec.nodes, node])

    async def delete_node(self, name: str) -> None:
        spec, _ = self._remembered()
        left = [node for node in spec.nodes if node.name != name]
        if len(left) == len(spec.nodes):
            raise NotFound(f"cluster {self._cluster!r} has no node {name!r}")
        if not left:
            raise InvalidInput(f"node {name!r} is the last of cluster {self._cluster!r}", hint="podwire down")
        await self._change_nodes(spec, left)

    async def pause_node(self, name: str) -> None:
        def pause(container: Any) -> None:
            if container.status != "paused":
                container.pause()

        await asyncio.to_thread(self._with_node, name, pause)

    async def resume_node(self, name: str) -> None:
        def resume(container: Any) -> None:
            if container.status == "paused":
                container.unpause()

        await asyncio.to_thread(self._with_node, name, resume)

    async def restart_node(self, name: str) -> None:
        def restart(container: Any) -> None:
            if container.status == "paused":
                container.unpause()
            container.restart(timeout=STOP_TIMEOUT_S)

        await asyncio.to_thread(self._with_node, name, restart)

    async def facts(self) -> Sequence[Fact]:
        return await asyncio.to_thread(self._facts)

    async def _change_nodes(self, spec: ClusterSpec, nodes: Sequence[NodeSpec]) -> None:
        """The same way as `up`, so that compose, a later `up` and this verb agree on what there is."""
        document = spec.document()
        document["spec"]["nodes"] = [msgspec.to_builtins(node) for node in nodes]
        changed = parse_cluster(document)
        await asyncio.to_thread(self._remember, document=document)
        await self._join(changed, await self._run(changed, UpOptions().timeout_s), no_progress)

    async def _run(self, spec: ClusterSpec, timeout_s: float) -> Endpoint:
        """Makes and starts the containers; the nodes start while the controller is getting ready."""
        await asyncio.to_thread(self._make, spec)
        _, endpoint = await asyncio.gather(
            asyncio.to_thread(self._start_nodes), asyncio.to_thread(self._controller_ready, timeout_s)
        )
        return endpoint

    async def _join(self, spec: ClusterSpec, endpoint: Endpoint, progress: Progress) -> None:
        """Gives every node that has no certificate yet a token that names it, in a file that only its agent reads."""
        missing = await asyncio.to_thread(self._without_certificate, spec)
        if not missing:
            return
        with progress(f"Joining {_count(len(missing), 'node')} to the controller"):
            files = {}
            async with connect(address=endpoint.address, credentials=endpoint.credentials) as client:
                for node in missing:
                    answer = await client.create_join_token(node.name, zone=node.zone, labels=node.labels)
                    files[node.name] = {
                        "controller": f"{generate.CONTROLLER}:{generate.CONTROL_PORT}",
                        "join": f"{generate.CONTROLLER}:{generate.JOIN_PORT}",
                        "node": node.name,
                        "token": answer.token,
                        "ca_spki_sha256": answer.ca_spki_sha256,
                    }
            await asyncio.to_thread(self._put_join_files, files)

    # What blocks.

    def _prepare(self, spec: ClusterSpec, options: UpOptions, progress: Progress) -> None:
        """Engine, image, address ranges and rights; written down for every later verb."""

        def say(line: str) -> None:
            with progress(line[:1].upper() + line[1:]):
                pass

        self._here = Containers(self._cluster, engines.ensure(say))
        with sdk_errors():
            subnets = self._subnets(spec)
            name = image.ensure(self._here.engine, say)
            mode, why = privileges.decide(options.restricted, self._record(), lambda: self._refusal(name))
        self._remember(
            document=spec.document(),
            image=name,
            subnets=[str(subnet) for subnet in subnets],
            privileges=mode,
            why=why,
        )

    def _make(self, spec: ClusterSpec) -> None:
        """Containers as the document says: compose makes them. The controller is given its settings and started."""
        record = self._record()
        options = generate.Options(
            image=record["image"],
            subnets=tuple(ipaddress.ip_network(subnet) for subnet in record["subnets"]),
            privileged=record["privileges"] == privileges.PRIVILEGED,
            devices=(TUN,) if Path(TUN).exists() else (),
        )
        document = json.dumps(generate.compose_document(spec, options), indent=1)
        file = self._directory / "compose.json"
        self._disk.replace(file, document.encode())
        arguments = ["-p", generate.project(spec.name), "-f", str(file), "up", "--no-start", "--remove-orphans"]
        engine = self._here.engine
        done = subprocess.run(
            [*engine.compose, *arguments],
            env=_compose_environment(engine),
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
            raise Unavailable(f"{' '.join(engine.compose)} could not make cluster {spec.name!r}: {reason}")
        with sdk_errors():
            self._here.drop_volumes(keep={generate.CONTROLLER, *(node.name for node in spec.nodes)})
            controller = self._here.get(generate.CONTROLLER)
            self._settle(controller, spec)
            start(controller)

    def _settle(self, controller: Any, spec: ClusterSpec) -> None:
        """The document into the controller's state, which reads it when it starts; of nodes it learns when they join."""
        path = f"{generate.CONTROLLER_STATE}/cluster.json"
        wanted, there = spec.document(), json.loads(read_file(controller, path) or b"{}")
        if there == wanted:
            return
        directory, _, name = path.rpartition("/")
        owner = int(generate.CONTROLLER_USER.partition(":")[0])
        write_file(controller, directory, name, json.dumps(wanted).encode(), owner=owner)
        if controller.status == "running" and _without_nodes(there) != _without_nodes(wanted):
            controller.restart(timeout=STOP_TIMEOUT_S)

    def _start_nodes(self) -> None:
        with sdk_errors():
            parallel(start, self._here.all(generate.NODE))

    def _without_certificate(self, spec: ClusterSpec) -> list[NodeSpec]:
        with sdk_errors():
            joined = parallel(lambda node: _has_certificate(self._here.get(node.name)), spec.nodes)
        return [node for node, has in zip(spec.nodes, joined, strict=True) if not has]

    def _put_join_files(self, files: Mapping[str, Mapping[str, str]]) -> None:
        def put(name: str) -> None:
            write_file(self._here.get(name), generate.NODE_STATE, "join.json", json.dumps(files[name]).encode())

        with sdk_errors():
            parallel(put, files)

    def _controller_ready(self, timeout_s: float) -> Endpoint:
        with sdk_errors():
            self._await_ready(self._here.get(generate.CONTROLLER), timeout_s)
        return self._endpoint()

    def _await_ready(self, controller: Any, timeout_s: float) -> None:
        try:
            execute(controller, "timeout", str(timeout_s), "sh", "-c", _WAIT)
        except PodwireError as error:
            said = controller.logs(tail=1).decode(errors="replace").strip() or "nothing"
            raise Unavailable(
                f"the controller of cluster {self._cluster!r} is not ready after {timeout_s:.0f} s; its last words: {said}",
                hint=f"docker logs {controller.name}",
            ) from error

    def _down(self, progress: Progress) -> None:
        engine = engines.find()
        if engine is None and self._record():
            raise Unavailable(
                f"no Docker Engine answers, so nothing of cluster {self._cluster!r} can be removed",
                hint="start Docker, then try again",
            )
        if engine is not None:
            self._here = Containers(self._cluster, engine)
            with sdk_errors():
                count = len(self._here.all())
                with progress(f"Removing {_count(count, 'container')}") if count else contextlib.nullcontext():
                    self._here.remove_all()
        shutil.rmtree(self._directory, ignore_errors=True)

    def _endpoint(self) -> Endpoint:
        """The address written down last, if a controller of this cluster answers there; else what the engine says now."""
        known = (self._disk.read(self._directory / "address") or b"").decode()
        if known and answers(known, self._directory):
            return Endpoint(address=known, credentials=self._directory)
        with sdk_errors():
            controller = self._here.get(generate.CONTROLLER)
            if controller.status != "running":
                raise Unavailable(
                    f"the controller of cluster {self._cluster!r} is {controller.status}", hint="start it: podwire up"
                )
            port = controller.ports[f"{generate.CONTROL_PORT}/tcp"][0]["HostPort"]
            address = f"127.0.0.1:{port}"
            self._disk.replace(self._directory / "address", address.encode())
            if not answers(address, self._directory):  # no certificate yet, or one that is a day old
                papers = json.loads(_admin(controller, "client-cert", user_name()))
                parts = (papers[name].encode() for name in ("key", "cert", "ca"))
                credentials = Credentials(*parts)
                save_credentials(self._disk, self._directory, credentials, CERTIFICATE, KEY)
        return Endpoint(address=address, credentials=self._directory)

    def _nodes(self) -> list[DriverNode]:
        with sdk_errors():
            nodes = [driver_node(container) for container in self._here.all(generate.NODE)]
        return sorted(nodes, key=lambda node: node.name)

    def _with_node(self, name: str, act: Callable[[Any], None]) -> None:
        with sdk_errors():
            container = self._here.get(name)
            if container.labels.get(generate.ROLE_LABEL) != generate.NODE:
                raise NotFound(f"{name!r} is not a node of cluster {self._cluster!r}")
            act(container)

    def _facts(self) -> list[Fact]:
        try:
            engine = engines.find()
        except PodwireError as error:
            return [Fact("docker engine", error.message, ok=False, fix=error.hint)]
        if engine is None:
            fix = "install Docker and start it, or use --driver local"
            return [Fact("docker engine", "none answers", ok=False, fix=fix)]
        facts = [
            Fact("docker engine", f"{engine.version} at {engine.host}", ok=True),
            Fact("compose", " ".join(engine.compose), ok=True),
        ]
        with sdk_errors():
            known = self._verdicts.known(self._here.engine_identity())
        return [*facts, privileges.fact(self._record(), known), _image_fact(engine)]

    # What is there.

    @cached_property
    def _here(self) -> Containers:
        engine = engines.find()
        if engine is None:
            raise Unavailable("no Docker Engine answers", hint="start Docker, then try again")
        return Containers(self._cluster, engine)

    def _subnets(self, spec: ClusterSpec) -> tuple[IPNetwork, ...]:
        """The cluster's ranges on the underlay: those its network has, those asked for, or free ones."""
        own, others = self._here.ranges()
        host = hostnet.host_networks()
        hostnet.check_collisions(spec, host, own=own)
        asked = spec.underlay_cidr
        if own:
            if asked is not None and asked not in own:
                raise InvalidInput(
                    f"spec.underlayCIDR: cluster {self._cluster!r} runs on {own[0]}",
                    field="spec.underlayCIDR",
                    hint="podwire down, then up again",
                )
            return own
        if asked is not None and asked.version == 4:
            return (asked,)
        # Engines give every network a range of IPv4 too; ours is clear of the cluster's.
        free = hostnet.free_subnet(spec, [*others, *(each.network for each in host)])
        return (free,) if asked is None else (free, asked)

    def _refusal(self, name: str) -> str:
        return self._verdicts.of(self._here.engine_identity(), lambda: self._here.refusal(name))

    @property
    def _verdicts(self) -> privileges.Verdicts:
        return privileges.Verdicts(self._disk, state_home() / "engines.json")

    def _remember(self, **news: Any) -> None:
        self._disk.replace(self._directory / "docker.json", json.dumps(self._record() | news).encode())

    def _record(self) -> dict[str, Any]:
        content = self._disk.read(self._directory / "docker.json")
        return json.loads(content) if content else {}

    def _remembered(self) -> tuple[ClusterSpec, dict[str, Any]]:
        record = self._record()
        if not record:
            raise NotFound(f"there is no cluster {self._cluster!r} here", hint="make one with: podwire up")
        return parse_cluster(record["document"]), record


def _image_fact(engine: Engine) -> Fact:
    name = image.current(engine)
    return Fact("podwire image", name or "not built yet; `podwire up` and `make images` build it", ok=True)


def _compose_environment(engine: Engine) -> dict[str, str]:
    """Without the user's own COMPOSE_… settings, which are for other projects."""
    return {name: value for name, value in engine.environment.items() if not name.startswith("COMPOSE_")}


def _admin(controller: Any, *arguments: str) -> str:
    state = ("--state-dir", generate.CONTROLLER_STATE)
    return execute(controller, "python3", "-m", "controller.admin", *state, *arguments)


def _has_certificate(node: Any) -> bool:
    return read_file(node, f"{generate.NODE_STATE}/cert.pem") is not None


def _without_nodes(document: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in document.get("spec", {}).items() if name != "nodes"}


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


@contextlib.contextmanager
def no_progress(_stage: str) -> Iterator[None]:
    """For verbs that are done in a moment."""
    yield
