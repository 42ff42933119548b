"""`netexec`: the server of upstream's network tests, HTTP and UDP (and SCTP where the kernel has it).

In: requests. Out: who the server is, who the client is, and what happened when the server itself dialled somewhere. Every path, status
and word is upstream's; `dial.py` holds the client half.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from nodeagent.workload import web
from nodeagent.workload.certificates import server_context
from nodeagent.workload.commands import UPLOADS
from nodeagent.workload.flags import Flags, Kind, duration, parse
from nodeagent.workload.life import Life, peer_text
from nodeagent.workload.programs import upload
from nodeagent.workload.programs.dial import dial
from nodeagent.workload.sockets import NetError
from nodeagent.workload.web import Request, Response, text

FLAGS: dict[str, Kind] = {
    "http-port": 8080,
    "udp-port": 8081,
    "sctp-port": -1,
    "tls-cert-file": "",
    "tls-private-key-file": "",
    "http-override": "",
    "udp-listen-addresses": "",
    "delay-shutdown": 0,
}


async def main(life: Life, args: tuple[str, ...]) -> int:
    """Serves until TERM (plus `--delay-shutdown`), `/exit` or `/shutdown`."""
    flags = parse(args, FLAGS)
    server = Netexec(life)
    await server.start(flags)
    life.serving.set()
    await life.terminated.wait()
    if delay := flags.number("delay-shutdown"):
        life.log(f"Sleeping {delay} seconds before terminating...")
        await life.around.clock.sleep(delay)
    return 0


@dataclass
class Netexec:
    """One server's state: whether its datagram servers are up, and how many requests are being answered."""

    life: Life
    ready: bool = False
    active: int = 0
    override: str = ""

    async def start(self, flags: Flags) -> None:
        """Opens the listeners; raises NetError."""
        life = self.life
        self.override = flags.text("http-override")
        udp_port, sctp_port = flags.number("udp-port"), flags.number("sctp-port")
        if udp_port != -1:
            for address in listen_addresses(flags.text("udp-listen-addresses")):
                await life.serve_datagrams(udp_port, self._datagram, host=address)
                life.log(f"Started UDP server on port {address} {udp_port}")
                self.ready = True
        if sctp_port != -1:
            try:
                await life.serve_streams(sctp_port, self._association, sctp=True)
                life.log("Started SCTP server")
                self.ready = True
            except NetError as error:
                life.log(f"SCTP is left out, this kernel lacks it: {error}")
        tls = None
        if certificate := flags.text("tls-cert-file"):
            tls = await server_context(certificate, flags.text("tls-private-key-file"), life.around.directory)
        await life.serve_http(flags.number("http-port"), self.handle, tls=tls)
        life.log(f"Started HTTP server on port {flags.number('http-port')}")

    async def handle(self, request: Request) -> Response:
        """Routes one request: an unknown path is the root's, as in Go's mux."""
        if self.override:
            request = Request(
                "GET", self.override, request.headers, b"", request.remote, request.local_port, request.version
            )
        routes: dict[str, Callable[[Request], Awaitable[Response]]] = {
            "/clientip": self._client_ip,
            "/serverport": self._server_port,
            "/header": self._header,
            "/dial": self._dial,
            "/echo": self._echo,
            "/exit": self._exit,
            "/healthz": self._healthz,
            "/readyz": self._readyz,
            "/hostname": self._hostname,
            "/hostName": self._hostname,
            "/redirect": self._redirect,
            "/shell": self._shell,
            "/shutdown": self._shutdown,
            "/upload": self._upload,
        }
        self.active += 1
        try:
            return await routes.get(request.path, self._root)(request)
        finally:
            self.active -= 1

    async def _root(self, request: Request) -> Response:
        self.life.log("GET /")
        return text(f"NOW: {go_time(self.life.around.clock.wall())}")

    async def _client_ip(self, request: Request) -> Response:
        self.life.log("GET /clientip")
        return text(peer_text(request.remote))

    async def _server_port(self, request: Request) -> Response:
        self.life.log("GET /serverport")
        return text(str(request.local_port))

    async def _header(self, request: Request) -> Response:
        if key := request.form("key"):
            self.life.log(f"GET /header?key={key}")
            return text(request.header(key))
        self.life.log("GET /header")
        fields: dict[str, list[str]] = {}
        for name, value in request.headers:
            if name != "host":  # Go takes Host out of the headers
                fields.setdefault("-".join(part.capitalize() for part in name.split("-")), []).append(value)
        return text(go_json(fields))

    async def _hostname(self, request: Request) -> Response:
        self.life.log(f"GET {request.path}")
        return text(self.life.around.hostname)

    async def _echo(self, request: Request) -> Response:
        message, code = request.form("msg"), request.form("code")
        self.life.log(f"GET /echo?msg={message}&code={code}")
        status = integer(code, 200)
        if status is None:
            return text(f"argument 'code' must be an integer or empty, got {json.dumps(code)}\n")
        return text(message, status)

    async def _redirect(self, request: Request) -> Response:
        location, code = request.form("location"), request.form("code")
        self.life.log(f"{request.method} /redirect?msg={location}&code={code}")
        status = integer(code, 302)
        if status is None:
            return text(f"argument 'code' must be an integer or empty, got {json.dumps(code)}\n")
        note = f'<a href="{location}">{web.REASONS.get(status, "")}</a>.\n\n' if request.method == "GET" else ""
        return Response(note.encode(), status, (("Location", location), ("Content-Type", "text/html; charset=utf-8")))

    async def _healthz(self, request: Request) -> Response:
        self.life.log("GET /healthz")
        return Response(status=200 if self.ready else 412)

    async def _readyz(self, request: Request) -> Response:
        self.life.log("GET /readyz")
        if self.life.terminated.is_set():
            return text("shutting down", 503)
        return text("ok") if self.ready else Response(status=412)

    async def _shutdown(self, request: Request) -> Response:
        self.life.log("GET /shutdown")
        self.life.exit(0)
        return await _never()

    async def _exit(self, request: Request) -> Response:
        fields = {name: request.form(name) for name in ("code", "timeout", "wait")}
        self.life.log(f"GET /exit?code={fields['code']}&timeout={fields['timeout']}&wait={fields['wait']}")
        spans: dict[str, float] = {}
        for name in ("timeout", "wait"):
            try:
                spans[name] = duration(fields[name]) if fields[name] else 0.0
            except ValueError:
                got = json.dumps(fields[name])
                return text(f"argument '{name}' must be a valid golang duration or empty, got {got}\n")
        code = integer(fields["code"], 0)
        if code is None:
            return text(f"argument 'code' must be an integer [0-127] or empty, got {json.dumps(fields['code'])}\n")
        self.life.log(
            f"Will begin shutdown in {spans['wait']:g}s, allowing {spans['timeout']:g}s for connections to close, "
            f"then will exit with {code}"
        )
        await self.life.around.clock.sleep(spans["wait"])
        if spans["timeout"] == 0:
            self.life.exit(code & 0xFF)
            return await _never()
        self.life.spawn(self._drain(code & 0xFF, spans["timeout"]))
        return Response(headers=(("Connection", "close"),))

    async def _drain(self, code: int, timeout_s: float) -> None:
        clock = self.life.around.clock
        self.life.stop_listening()
        deadline = clock.monotonic() + timeout_s
        await clock.sleep(0.01)  # as Go's Shutdown, which looks at its connections again and again
        while self.active and clock.monotonic() < deadline:
            await clock.sleep(min(0.05, timeout_s))
        outcome = "context deadline exceeded" if self.active else "<nil>"
        self.life.log(f"Graceful shutdown completed with: {outcome}")
        self.life.exit(code)

    async def _dial(self, request: Request) -> Response:
        return await dial(self.life, request)

    async def _shell(self, request: Request) -> Response:
        command = request.form("shellCommand") or request.form("cmd")
        self.life.log(f"GET /shell?cmd={command}")
        output, status = await self.life.around.shell(command)
        result: dict[str, str] = {}
        if output:
            result["output"] = output.decode(errors="replace")
        if status:
            result["error"] = f"exit status {status}"
        self.life.log(f"Output: {result}")
        return text(go_json(result))

    async def _upload(self, request: Request) -> Response:
        self.life.log("GET /upload")
        try:
            path = await asyncio.to_thread(upload.save, request, self.life.around.directory / UPLOADS)
        except upload.UploadError as error:
            self.life.log(f"{error}: {error.__cause__}")
            return text(go_json({"error": str(error)}))
        self.life.log(f"Wrote upload to {path}")
        return text(go_json({"output": str(path)}), 201)

    def _datagram(self, data: bytes, peer: tuple[str, int]) -> bytes | None:
        return self._answer(data, peer_text(peer), "UDP", "udp")

    async def _association(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        data = await reader.read(1024)
        reply = self._answer(data, peer_text(writer.get_extra_info("peername")), "SCTP", "SCTP")
        if reply is not None:
            writer.write(reply)
            await writer.drain()

    def _answer(self, data: bytes, client: str, name: str, lower: str) -> bytes | None:
        command = data.decode(errors="replace").strip().lower()
        if command == "hostname":
            self.life.log(f"Sending {lower} hostName response")
            return self.life.around.hostname.encode()
        if command.startswith("echo "):
            message = command.partition(" ")[2]
            self.life.log(f"Echoing {message} to {name} client {client}\n")
            return message.encode()
        if command == "clientip":
            self.life.log(f"Sending clientip back to {name} client {client}\n")
            return client.encode()
        if command:
            self.life.log(f"Unknown {name} command received from {client}: {command}\n")
        return None


def listen_addresses(words: str) -> list[str]:
    """The addresses of `--udp-listen-addresses`, each once; raises NetError."""
    if not words:
        return [""]
    addresses = set()
    for word in words.split(","):
        try:
            addresses.add(str(ipaddress.ip_address(word.strip())))
        except ValueError as error:
            raise NetError("other", f"parseAddress: invalid address {word}") from error
    return sorted(addresses)


def integer(word: str, default: int) -> int | None:
    """A decimal integer, `default` for an empty word, None for anything else."""
    if not word:
        return default
    try:
        return int(word)
    except ValueError:
        return None


def go_json(value: object) -> str:
    """JSON as Go's encoding/json writes it: sorted keys, no spaces, `<`, `>` and `&` escaped."""
    plain = json.dumps(value, separators=(",", ":"), sort_keys=True, ensure_ascii=False)
    return plain.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def go_time(wall: float) -> str:
    """A moment as Go prints it, in UTC."""
    seconds = int(wall)
    moment = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(seconds))
    return f"{moment}.{int((wall - seconds) * 1e9):09d} +0000 UTC"


async def _never() -> Response:
    """The life is over: no answer leaves, the connection closes."""
    await asyncio.Event().wait()
    raise AssertionError
