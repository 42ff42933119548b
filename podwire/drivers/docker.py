"""The docker driver: a node is a container of the podwire image, on a compose network made for the cluster.

In: a `ClusterSpec`. Out: containers, volumes and a network that carry the cluster's label, and an `Endpoint` on a loopback port with mTLS.
`compose/` finds the engine, builds the image and writes the compose document; compose makes what that document says; the docker SDK,
which only this module imports, does what compose does not: tokens and certificates by exec and archive (never in an argument, a label or
a log), pause, restart, node removal, `down` by label. All of it blocks, so each verb runs in a thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import ipaddress
import json
import os
import re
import shutil
import socket
import ssl
import subprocess
import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from compose import engine as engines
from compose import generate, image
from compose.engine import Engine
from podwire.client import connect
from podwire.drivers import hostnet
from podwire.drivers.base import DriverNode, Endpoint, Fact, Progress, UpOptions, state_directory, state_home
from podwire.errors import AlreadyExists, InvalidInput, NotFound, PodwireError, Unavailable
from podwire.identity import CONTROLLER_HOST, Credentials, save_credentials
from podwire.model.addresses import IPNetwork
from podwire.model.cluster import ClusterSpec, NodeSpec, parse_cluster
from podwire.seams import Disk, SystemDisk

Item = TypeVar("Item")
Result = TypeVar("Result")

TUN = "/dev/net/tun"
CERTIFICATE, KEY, CA = "client.pem", "client.key", "ca.pem"
PRIVILEGED, RESTRICTED = "privileged", "restricted"
HANDSHAKE_TIMEOUT_S = 2.0
STOP_TIMEOUT_S = 2
_STATES = {"running": "running", "paused": "paused"}
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
            await asyncio.to_thread(self._make, spec)
            endpoint = await asyncio.to_thread(self._controller_ready, options.timeout_s)
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
        await asyncio.to_thread(self._with_node, name, lambda container: container.restart(timeout=STOP_TIMEOUT_S))

    async def facts(self) -> Sequence[Fact]:
        return await asyncio.to_thread(self._facts)

    async def _change_nodes(self, spec: ClusterSpec, nodes: Sequence[NodeSpec]) -> None:
        """The same way as `up`, so that compose, a later `up` and this verb agree on what there is."""
        document = spec.document()
        document["spec"]["nodes"] = [msgspec.to_builtins(node) for node in nodes]
        changed = parse_cluster(document)
        await asyncio.to_thread(self._remember, document=document)
        await asyncio.to_thread(self._make, changed)
        await self._join(changed, await self.endpoint(), no_progress)

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

        self._engine = engines.ensure(say)
        with _sdk_errors():
            subnets = self._subnets(spec)
            name = image.ensure(self._engine, say)
            mode, why = self._privileges(name, restricted=options.restricted)
        self._remember(
            document=spec.document(),
            image=name,
            subnets=[str(subnet) for subnet in subnets],
            privileges=mode,
            why=why,
        )

    def _make(self, spec: ClusterSpec) -> None:
        """Containers as the document says: compose makes them, and they start once the controller has its settings."""
        record = self._record()
        options = generate.Options(
            image=record["image"],
            subnets=tuple(ipaddress.ip_network(subnet) for subnet in record["subnets"]),
            privileged=record["privileges"] == PRIVILEGED,
            devices=(TUN,) if Path(TUN).exists() else (),
        )
        document = json.dumps(generate.compose_document(spec, options), indent=1)
        file = self._directory / "compose.json"
        self._disk.replace(file, document.encode())
        arguments = ["-p", generate.project(spec.name), "-f", str(file), "up", "--no-start", "--remove-orphans"]
        compose = self._engine.compose
        done = subprocess.run(
            [*compose, *arguments],
            env=_compose_environment(self._engine),
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
            raise Unavailable(f"{' '.join(compose)} could not make cluster {spec.name!r}: {reason}")
        with _sdk_errors():
            self._drop_volumes(keep={generate.CONTROLLER, *(node.name for node in spec.nodes)})
            controller = self._container(generate.CONTROLLER)
            settings = json.dumps(spec.document(), sort_keys=True).encode()
            if _read(controller, f"{generate.CONTROLLER_STATE}/cluster.json") != settings:
                user = int(generate.CONTROLLER_USER.partition(":")[0])
                _write(controller, generate.CONTROLLER_STATE, "cluster.json", settings, owner=user)
            _parallel(_start, self._containers())

    def _without_certificate(self, spec: ClusterSpec) -> list[NodeSpec]:
        with _sdk_errors():
            joined = _parallel(lambda node: _has_certificate(self._container(node.name)), spec.nodes)
        return [node for node, has in zip(spec.nodes, joined, strict=True) if not has]

    def _put_join_files(self, files: Mapping[str, Mapping[str, str]]) -> None:
        def put(name: str) -> None:
            _write(self._container(name), generate.NODE_STATE, "join.json", json.dumps(files[name]).encode())

        with _sdk_errors():
            _parallel(put, files)

    def _controller_ready(self, timeout_s: float) -> Endpoint:
        with _sdk_errors():
            self._await_ready(self._container(generate.CONTROLLER), timeout_s)
        return self._endpoint()

    def _await_ready(self, controller: Any, timeout_s: float) -> None:
        try:
            _exec(controller, "timeout", str(timeout_s), "sh", "-c", _WAIT)
        except PodwireError as error:
            said = controller.logs(tail=1).decode(errors="replace").strip() or "nothing"
            raise Unavailable(
                f"the controller of cluster {self._cluster!r} is not ready after {timeout_s:.0f} s; its last words: {said}",
                hint=f"docker logs {controller.name}",
            ) from error

    def _down(self, progress: Progress) -> None:
        engine = engines.find()
        if engine is not None:
            self._engine = engine
            with _sdk_errors():
                containers = self._containers()
                if containers:
                    with progress(f"Removing {len(containers)} containers"):
                        _parallel(lambda container: container.remove(force=True, v=True), containers)
                for network in self._client.networks.list(filters=self._filter()):
                    network.remove()
                self._drop_volumes(keep=())
        shutil.rmtree(self._directory, ignore_errors=True)

    def _endpoint(self) -> Endpoint:
        """The address written down last, if a controller of this cluster answers there; else what the engine says now."""
        known = (self._disk.read(self._directory / "address") or b"").decode()
        if known and _answers(known, self._directory):
            return Endpoint(address=known, credentials=self._directory)
        with _sdk_errors():
            controller = self._container(generate.CONTROLLER)
            if controller.status != "running":
                raise Unavailable(
                    f"the controller of cluster {self._cluster!r} is {controller.status}", hint="start it: podwire up"
                )
            port = controller.ports[f"{generate.CONTROL_PORT}/tcp"][0]["HostPort"]
            address = f"127.0.0.1:{port}"
            self._disk.replace(self._directory / "address", address.encode())
            if not _answers(address, self._directory):  # no certificate yet, or one that is a day old
                papers = json.loads(_admin(controller, "client-cert", _user()))
                parts = (papers[name].encode() for name in ("key", "cert", "ca"))
                credentials = Credentials(*parts)
                save_credentials(self._disk, self._directory, credentials, CERTIFICATE, KEY)
        return Endpoint(address=address, credentials=self._directory)

    def _nodes(self) -> list[DriverNode]:
        with _sdk_errors():
            nodes = [_driver_node(container) for container in self._containers(generate.NODE)]
        return sorted(nodes, key=lambda node: node.name)

    def _with_node(self, name: str, act: Callable[[Any], None]) -> None:
        with _sdk_errors():
            container = self._container(name)
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
        self._engine = engine
        facts = [
            Fact("docker engine", f"{engine.version} at {engine.host}", ok=True),
            Fact("compose", " ".join(engine.compose), ok=True),
        ]
        record = self._record()
        if record:
            value = record["privileges"] + (f" ({record['why']})" if record["why"] else "")
            facts.append(Fact("node privileges", value, ok=True))
        return facts

    # What is there.

    @cached_property
    def _engine(self) -> Engine:
        engine = engines.find()
        if engine is None:
            raise Unavailable("no Docker Engine answers", hint="start Docker, then try again")
        return engine

    @cached_property
    def _client(self) -> Any:
        import docker  # noqa: PLC0415 - a quarter of a second, which commands that do not need it should not pay

        return docker.DockerClient(base_url=self._engine.host, timeout=60)

    def _filter(self, role: str = "") -> dict[str, list[str]]:
        roles = [f"{generate.ROLE_LABEL}={role}"] if role else []
        return {"label": [f"{generate.CLUSTER_LABEL}={self._cluster}", *roles]}

    def _containers(self, role: str = "") -> list[Any]:
        found: list[Any] = self._client.containers.list(all=True, filters=self._filter(role), ignore_removed=True)
        return found

    def _container(self, name: str) -> Any:
        import docker.errors  # noqa: PLC0415 - as above

        wanted = generate.container_name(self._cluster, name)
        try:
            return self._client.containers.get(wanted)
        except docker.errors.NotFound as error:
            what = "the controller" if name == generate.CONTROLLER else f"node {name!r}"
            raise NotFound(f"{what} of cluster {self._cluster!r} has no container", hint="podwire up") from error

    def _drop_volumes(self, keep: Iterable[str]) -> None:
        kept = {generate.volume_name(self._cluster, name) for name in keep}
        for volume in self._client.volumes.list(filters=self._filter()):
            if volume.name not in kept:
                volume.remove(force=True)

    def _subnets(self, spec: ClusterSpec) -> tuple[IPNetwork, ...]:
        """The cluster's ranges on the underlay: those its network has, those asked for, or free ones."""
        own: tuple[IPNetwork, ...] = ()
        taken: list[IPNetwork] = []
        for network in self._client.networks.list():
            pools = (network.attrs.get("IPAM") or {}).get("Config") or []
            ranges = tuple(ipaddress.ip_network(pool["Subnet"]) for pool in pools if pool.get("Subnet"))
            if (network.attrs.get("Labels") or {}).get(generate.CLUSTER_LABEL) == spec.name:
                own = ranges
            else:
                taken += ranges
        host = hostnet.host_networks()
        hostnet.check_collisions(spec, host, own=own)
        if spec.underlay_cidr is not None:
            return (spec.underlay_cidr,)
        return own or (hostnet.free_subnet(spec, [*taken, *(each.network for each in host)]),)

    def _privileges(self, name: str, *, restricted: bool) -> tuple[str, str]:
        """How nodes may run, and why not privileged: found out once per engine by running such a container."""
        if restricted:
            return RESTRICTED, "asked for with --restricted"
        info = self._client.info()
        key = f"{info.get('ID', '')}/{self._engine.version}"
        known = state_home() / "engines.json"
        verdicts: dict[str, str] = json.loads(self._disk.read(known) or b"{}")
        if key not in verdicts:
            verdicts[key] = self._refusal(name)
            self._disk.replace(known, json.dumps(verdicts).encode())
        return (RESTRICTED, verdicts[key]) if verdicts[key] else (PRIVILEGED, "")

    def _refusal(self, name: str) -> str:
        """Why this engine cannot run privileged containers; empty when it can."""
        import docker.errors  # noqa: PLC0415 - as above

        try:
            self._client.containers.run(
                name, entrypoint=["true"], command=[], privileged=True, network_mode="none", remove=True
            )
        except docker.errors.APIError as error:
            reason = str(error.explanation).rpartition("container process: ")[2].removesuffix(": unknown")
            return f"Docker Engine {self._engine.version} refuses privileged containers: {reason}"
        return ""

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


@contextlib.contextmanager
def _sdk_errors() -> Iterator[None]:
    """What the SDK raises becomes one sentence of ours."""
    import docker.errors  # noqa: PLC0415 - as above
    import requests.exceptions  # noqa: PLC0415 - as above

    try:
        yield
    except docker.errors.APIError as error:
        raise Unavailable(f"the Docker Engine refused: {error.explanation or error}") from error
    except (docker.errors.DockerException, requests.exceptions.RequestException) as error:
        raise Unavailable(f"the Docker Engine does not answer: {error}", hint="is it running?") from error


def _compose_environment(engine: Engine) -> dict[str, str]:
    """Without the user's own COMPOSE_… settings, which are for other projects."""
    return {name: value for name, value in engine.environment.items() if not name.startswith("COMPOSE_")}


def _parallel(act: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    with ThreadPoolExecutor(max_workers=8) as pool:
        return list(pool.map(act, items))


def _start(container: Any) -> None:
    if container.status not in {"running", "paused"}:
        container.start()


def _exec(container: Any, *command: str) -> str:
    """Runs a command in a container; its output, or Unavailable with the last line of what it complained."""
    code, (output, complaint) = container.exec_run(list(command), demux=True)
    if code != 0:
        said = (complaint or output or b"").decode(errors="replace").strip().splitlines()
        raise Unavailable(f"{container.name} could not run {command[0]}: {(said or [f'exit code {code}'])[-1]}")
    return (output or b"").decode()


def _admin(controller: Any, *arguments: str) -> str:
    state = ("--state-dir", generate.CONTROLLER_STATE)
    return _exec(controller, "python3", "-m", "controller.admin", *state, *arguments)


def _write(container: Any, directory: str, name: str, content: bytes, owner: int = 0) -> None:
    """Puts a file into a container, running or not, readable by its owner only."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        entry = tarfile.TarInfo(name)
        entry.size, entry.mode, entry.uid, entry.gid = len(content), 0o600, owner, owner
        tar.addfile(entry, io.BytesIO(content))
    container.put_archive(directory, archive.getvalue())


def _read(container: Any, path: str) -> bytes | None:
    """A file out of a container; None where there is none."""
    import docker.errors  # noqa: PLC0415 - as above

    try:
        chunks, _ = container.get_archive(path)
    except docker.errors.NotFound:
        return None
    with tarfile.open(fileobj=io.BytesIO(b"".join(chunks))) as tar:
        member = tar.extractfile(tar.getmembers()[0])
        return member.read() if member else None


def _has_certificate(node: Any) -> bool:
    return _read(node, f"{generate.NODE_STATE}/cert.pem") is not None


def _driver_node(container: Any) -> DriverNode:
    networks = container.attrs["NetworkSettings"]["Networks"].values()
    address = next((network["IPAddress"] for network in networks if network.get("IPAddress")), "")
    state = _STATES.get(container.status, "stopped")
    return DriverNode(container.labels[generate.NODE_LABEL], state, address, detail=container.name)


def _answers(address: str, credentials: Path) -> bool:
    """Whether this cluster's controller answers there and takes our certificate: a port alone may be anyone's by now."""
    if not all((credentials / name).exists() for name in (CERTIFICATE, KEY, CA)):
        return False
    host, _, port = address.rpartition(":")
    try:
        context = ssl.create_default_context(cafile=str(credentials / CA))
        context.load_cert_chain(credentials / CERTIFICATE, credentials / KEY)
        context.set_alpn_protocols(["h2"])
        with (
            socket.create_connection((host, int(port)), timeout=HANDSHAKE_TIMEOUT_S) as plain,
            context.wrap_socket(plain, server_hostname=CONTROLLER_HOST) as secure,
        ):
            # With TLS 1.3 a server judges our certificate after the handshake; its first frame (HTTP/2 SETTINGS) is the verdict.
            return bool(secure.recv(9))
    except (OSError, ValueError):
        return False


def _user() -> str:
    """This user's name as a certificate can carry it."""
    name = os.environ.get("SUDO_USER") or os.environ.get("USER") or f"uid-{os.geteuid()}"
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:63] or f"uid-{os.geteuid()}"


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


@contextlib.contextmanager
def no_progress(_stage: str) -> Iterator[None]:
    """For verbs that are done in a moment."""
    yield
