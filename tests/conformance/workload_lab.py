"""The real workload host as a process, and pods as network namespaces with a loopback: what agnhost's tests stand on."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from nodeagent.kernel.base import Sandbox
from nodeagent.pods.base import ContainerRun, Exit, Port, RunId
from nodeagent.pods.hosted import HostedRunner
from podwire.seams import SystemClock, SystemDisk
from tests.kernel.lab import Namespace


@dataclass
class Answer:
    """An HTTP response, read whole."""

    status: int
    body: str
    headers: Mapping[str, str]

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class TestPod:
    """A namespace with its loopback up, and the files a pod has."""

    __test__ = False

    def __init__(self, place: Path, name: str = "pod-a") -> None:
        self.namespace = Namespace()
        self.namespace.command("ip", "link", "set", "lo", "up")
        self.name = name
        self.files = place / name
        self.files.mkdir(parents=True)
        (self.files / "hosts").write_text(f"127.0.0.1 localhost\n::1 localhost\n127.0.0.1 {name}\n")
        (self.files / "resolv.conf").write_text("nameserver 127.0.0.1\nsearch ns.svc.test svc.test\noptions ndots:5\n")
        self.sandbox = Sandbox("000000000001", 0, 0, self.namespace.inode, self.namespace.path)

    def run(self, *argv: str, container: str = "c", attempt: int = 0, **fields: Any) -> ContainerRun:
        run = RunId(f"uid-{self.name}", container, attempt)
        return ContainerRun(
            id=run,
            program=fields.pop("program", argv[0] if argv else "stand-in"),
            argv=argv,
            env=tuple(sorted(fields.pop("env", {}).items())),
            working_dir="",
            ports=tuple(Port(*port) for port in fields.pop("ports", ())),
            sandbox=self.sandbox,
            hostname=self.name,
            files=self.files,
            directory=self.files / "state" / container / str(attempt),
            pod=f"default/{self.name}",
            image=fields.pop("image", ""),
        )

    async def http(
        self,
        target: str,
        port: int = 8080,
        *,
        method: str = "GET",
        body: bytes = b"",
        host: str = "127.0.0.1",
        **headers: str,
    ) -> Answer:
        """One request from inside the pod, by a client that is not ours."""

        def ask() -> Answer:
            client = http.client.HTTPConnection(host, port, timeout=10)
            try:
                client.request(
                    method, target, body or None, {key.replace("_", "-"): text for key, text in headers.items()}
                )
                response = client.getresponse()
                return Answer(response.status, response.read().decode(), dict(response.getheaders()))
            finally:
                client.close()

        return await asyncio.to_thread(self.namespace.run, ask)

    async def udp(
        self, data: bytes, port: int = 8081, *, host: str = "127.0.0.1", timeout_s: float = 5
    ) -> bytes | None:
        """One datagram's answer; None for silence."""

        def ask() -> bytes | None:
            with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM) as client:
                client.settimeout(timeout_s)
                client.connect((host, port))
                client.send(data)
                try:
                    return client.recv(65536)
                except TimeoutError:
                    return None

        return await asyncio.to_thread(self.namespace.run, ask)


class NameServer:
    """A DNS server on 127.0.0.1:53 of a namespace; names that start with "big" do not fit a datagram."""

    def __init__(self, namespace: Namespace, records: Mapping[str, str]) -> None:
        self._records = records
        self.by_protocol: list[tuple[str, str]] = []
        self._datagrams = namespace.socket()
        self._stream = namespace.socket(kind=socket.SOCK_STREAM)
        for listening in (self._datagrams, self._stream):
            listening.bind(("127.0.0.1", 53))
        self._stream.listen()
        self._threads = [threading.Thread(target=self._udp), threading.Thread(target=self._tcp)]

    @property
    def asked(self) -> list[str]:
        return [name for _, name in self.by_protocol]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        for sock in (self._datagrams, self._stream):
            with contextlib.suppress(OSError):  # wakes the thread that waits in it
                sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        self._datagrams.close()
        self._stream.close()

    def _udp(self) -> None:
        while True:
            question, peer = self._datagrams.recvfrom(512)
            if not question:
                return
            self._datagrams.sendto(self._answer(question, "udp"), peer)

    def _tcp(self) -> None:
        while True:
            try:
                client, _ = self._stream.accept()
            except OSError:
                return
            with client:
                question = client.recv(512)[2:]
                answer = self._answer(question, "tcp")
                client.sendall(struct.pack(">H", len(answer)) + answer)

    def _answer(self, question: bytes, protocol: str) -> bytes:
        labels, offset = [], 12
        while size := question[offset]:
            labels.append(question[offset + 1 : offset + 1 + size].decode())
            offset += size + 1
        name, kind = ".".join(labels), int.from_bytes(question[offset + 1 : offset + 3], "big")
        self.by_protocol.append((protocol, name))
        address = self._records.get(name)
        asked = question[12 : offset + 5]
        if name.startswith("big") and protocol == "udp":
            return question[:2] + struct.pack(">5H", 0x8380, 1, 0, 0, 0) + asked
        if address is None:
            return question[:2] + struct.pack(">5H", 0x8183, 1, 0, 0, 0) + asked
        record = struct.pack(">3HIH", 0xC00C, 1, 1, 5, 4) + socket.inet_aton(address) if kind == 1 else b""
        return question[:2] + struct.pack(">5H", 0x8180, 1, 1 if record else 0, 0, 0) + asked + record


@dataclass
class HostProcess:
    """`python -m nodeagent.workload`, restarted by hand."""

    place: Path
    process: subprocess.Popen[bytes] | None = None
    runner: HostedRunner = field(init=False)

    def __post_init__(self) -> None:
        self.runner = HostedRunner(self.place / "run" / "workload.sock", SystemClock(), SystemDisk())

    def start(self) -> None:
        command = [sys.executable, "-m", "nodeagent.workload", "--run-dir", str(self.place / "run")]
        self.process = subprocess.Popen([*command, "--state-dir", str(self.place)])

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    async def ended(self, run: ContainerRun) -> Exit:
        async with asyncio.timeout(20):
            return await self.runner.wait(run.id, run.directory)

    def log(self, run: ContainerRun) -> str:
        return (run.directory / "log").read_text()


@asynccontextmanager
async def workload_host(place: Path) -> AsyncIterator[HostProcess]:
    host = HostProcess(place)
    host.start()
    try:
        yield host
    finally:
        await host.runner.close()
        host.kill()


def now() -> float:
    """For figures."""
    return time.perf_counter()
