"""Finds a Docker Engine and its compose; as root on Debian or Ubuntu, installs and starts one where there is none.

In: DOCKER_HOST or docker's current context, else the default socket. Out: an `Engine`, through which the other helpers run `docker`.
An engine that podwire started is written down with pid and start time in /run/podwire/engine, so that `stop` ends that process
and no other, and takes back what dockerd leaves behind (docker0, its chains, ip_forward); `compose.hoststate` knows those.
No systemd is needed. Everything else about an engine (containers, networks) is the docker driver's business.
"""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compose import host_packages, hoststate
from compose.host_packages import Say
from podwire.errors import PodwireError, Unavailable, Unsupported
from podwire.seams import SystemClock

DEFAULT_HOST = "unix:///var/run/docker.sock"
STATE = Path("/run/podwire/engine")
EXEC_ROOT = Path("/var/run/docker")
OLDEST = (20, 10)
START_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Engine:
    """An engine that answers, and the command that runs compose files on it."""

    host: str
    version: str
    architecture: str
    compose: tuple[str, ...]

    @property
    def environment(self) -> dict[str, str]:
        """The environment for docker and compose commands."""
        return {**os.environ, "DOCKER_HOST": self.host}

    def docker(self, *arguments: str, stdin: int | None = None, timeout_s: float | None = None) -> str:
        """Runs `docker …` and returns what it printed; raises Unavailable with docker's own last line."""
        command = ["docker", *arguments]
        done = subprocess.run(
            command, env=self.environment, stdin=stdin, capture_output=True, text=True, check=False, timeout=timeout_s
        )
        if done.returncode != 0:
            reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
            raise Unavailable(f"docker {arguments[0]} failed: {reason}")
        return done.stdout

    def image_label(self, image: str, label: str) -> str:
        """The value of an image's label; empty when the image or the label is not there."""
        try:
            labels = json.loads(self.docker("image", "inspect", "--format", "{{json .Config.Labels}}", image))
        except Unavailable:
            return ""
        return str((labels or {}).get(label, ""))


def find() -> Engine | None:
    """The engine that answers, or None; raises Unsupported when it is too old, refuses this user, or lacks compose."""
    host, facts = _answering()
    return None if facts is None else _engine(host, facts, compose_command())


def ensure(say: Say) -> Engine:
    """Finds an engine, or installs and starts one; raises Unsupported with one sentence where neither is possible."""
    host, facts = _answering()
    if facts is None:
        if os.environ.get("DOCKER_HOST"):
            raise Unsupported(f"no Docker Engine answers at DOCKER_HOST={host}", hint="start it, or unset DOCKER_HOST")
        if os.geteuid() != 0 or not host_packages.uses_apt():
            raise Unsupported(
                "no Docker Engine answers, and only root on Debian or Ubuntu can have one installed here",
                hint="install Docker and start it, or use --driver local",
            )
        if shutil.which("dockerd") is None:
            install(say)
        facts = start(say)
        host = DEFAULT_HOST
    compose = compose_command()
    if compose is None and os.geteuid() == 0 and host_packages.uses_apt():
        host_packages.install([_compose_package()], say)
        compose = compose_command()
    return _engine(host, facts, compose)


def install(say: Say) -> None:
    """Installs the engine from the distribution; on Debian 12 the newer one from Debian 13 (engine 26 and compose v2)."""
    packages = ["docker.io", _compose_package(), "iptables", "ca-certificates"]
    if host_packages.os_release().get("ID") == "debian":
        packages += ["docker-cli", "docker-buildx"]
    if host_packages.os_release().get("VERSION_CODENAME") == "bookworm":
        _add_trixie(say)
        packages = [f"{name}/trixie" if name.startswith("docker") else name for name in packages]
    say("no Docker Engine answers: installing one")
    host_packages.install(packages, say)


def compose_command() -> tuple[str, ...] | None:
    """`docker compose` where the plugin is installed, else `docker-compose`, else None."""
    if shutil.which("docker"):
        plugin = subprocess.run(["docker", "compose", "version"], capture_output=True, check=False)
        if plugin.returncode == 0:
            return ("docker", "compose")
    return ("docker-compose",) if shutil.which("docker-compose") else None


def start(say: Say) -> dict[str, Any]:
    """Starts dockerd detached from this process, waits until it answers, and writes down what was started."""
    STATE.mkdir(parents=True, exist_ok=True, mode=0o700)
    _clear_stale_containerd()
    before = hoststate.snapshot()
    log = STATE / "dockerd.log"
    with log.open("wb") as output:
        daemon = subprocess.Popen(
            ["dockerd", "--host", DEFAULT_HOST, "--pidfile", str(STATE / "dockerd.pid"), "--exec-root", str(EXEC_ROOT)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    record = {"pid": daemon.pid, "started": _start_time(daemon.pid), "before": before}
    (STATE / "started.json").write_text(json.dumps(record))
    say(f"started a Docker Engine (pid {daemon.pid}, log {log}); `make engine-stop` ends it")
    clock = SystemClock()
    deadline = clock.monotonic() + START_TIMEOUT_S
    while clock.monotonic() < deadline:
        facts = _ask(DEFAULT_HOST)
        if facts is not None:
            return facts
        if daemon.poll() is not None:
            break
        clock.pause(0.05)
    stop(say)
    reason = (log.read_text(errors="replace").strip().splitlines() or ["it wrote no log"])[-1]
    raise Unsupported(f"the Docker Engine did not start: {reason}", hint=f"read {log}, or use --driver local")


def stop(say: Say, *, only_if_idle: bool = False) -> bool:
    """Ends the engine that `start` started, if it still runs; True when it did. Its containers end with it."""
    try:
        record = json.loads((STATE / "started.json").read_text())
    except (OSError, ValueError):
        return False
    pid = int(record["pid"])
    if _start_time(pid) != record["started"]:  # it ended, or the number belongs to another process now
        (STATE / "started.json").unlink(missing_ok=True)
        return False
    if _ask(DEFAULT_HOST) is not None:
        engine = Engine(host=DEFAULT_HOST, version="", architecture="", compose=())
        running = engine.docker("ps", "-q").split()
        if running and only_if_idle:
            return False
        if running:  # dockerd would grant each its ten seconds
            engine.docker("kill", *running)
    os.kill(pid, signal.SIGTERM)
    if not _ended(pid, record["started"], 20.0):
        os.kill(pid, signal.SIGKILL)
        _ended(pid, record["started"], 5.0)
    (STATE / "started.json").unlink(missing_ok=True)
    hoststate.restore(record["before"])
    say("stopped the Docker Engine that podwire had started")
    return True


def _answering() -> tuple[str, dict[str, Any] | None]:
    host = os.environ.get("DOCKER_HOST") or _context_host() or DEFAULT_HOST
    return host, _ask(host)


def _context_host() -> str:
    """What docker's current context points to (rootless Docker and Docker Desktop live there)."""
    if shutil.which("docker") is None or not (Path.home() / ".docker" / "config.json").exists():
        return ""
    command = ["docker", "context", "inspect", "--format", "{{.Endpoints.docker.Host}}"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket: asking an engine costs 2 ms, where starting the docker command costs 30."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=10)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def _ask(host: str) -> dict[str, Any] | None:
    """The engine's version document, or None when nothing answers there."""
    if not host.startswith("unix://"):
        return _ask_by_command(host)
    connection = _UnixConnection(host.removeprefix("unix://"))
    try:
        connection.request("GET", "/version")
        answer: dict[str, Any] = json.loads(connection.getresponse().read())
        return answer
    except PermissionError as error:
        raise Unsupported(
            f"the Docker Engine at {host} refuses this user", hint="join the docker group, or use --driver local"
        ) from error
    except (OSError, ValueError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def _ask_by_command(host: str) -> dict[str, Any] | None:
    if shutil.which("docker") is None:
        raise Unsupported("the docker command is not installed", hint="install the docker CLI, or use --driver local")
    done = subprocess.run(
        ["docker", "--host", host, "version", "--format", "{{json .Server}}"],
        capture_output=True,
        text=True,
        check=False,
        timeout=20,
    )
    answer: dict[str, Any] | None = json.loads(done.stdout) if done.returncode == 0 else None
    return answer


def _engine(host: str, facts: dict[str, Any], compose: tuple[str, ...] | None) -> Engine:
    version = str(facts["Version"])
    if tuple(int(part) for part in version.split("-", maxsplit=1)[0].split(".")[:2]) < OLDEST:
        raise Unsupported(f"Docker Engine {version} is too old: 20.10 or later is needed", hint="upgrade Docker")
    if shutil.which("docker") is None:
        raise Unsupported("the docker command is not installed", hint="install the docker CLI, or use --driver local")
    if compose is None:
        raise Unsupported(
            "neither `docker compose` nor `docker-compose` is installed", hint="install Docker's compose plugin"
        )
    return Engine(host=host, version=version, architecture=str(facts.get("Arch", "")), compose=compose)


def _compose_package() -> str:
    return "docker-compose-v2" if host_packages.os_release().get("ID") == "ubuntu" else "docker-compose"


def _add_trixie(say: Say) -> None:
    """Lets apt see Debian 13 at this machine's own mirror, pinned so low that only what is asked for comes from it."""
    mirror = debian_mirror()
    if mirror is None:
        raise Unsupported(
            "apt's sources name no Debian mirror to take a newer Docker Engine from", hint="install Docker"
        )
    say("adding Debian 13 to apt's sources, pinned to what is asked for by name: podwire-trixie in /etc/apt")
    Path("/etc/apt/sources.list.d/podwire-trixie.list").write_text(f"deb {mirror} trixie main\n")
    pin = "Package: *\nPin: release n=trixie\nPin-Priority: 100\n"
    Path("/etc/apt/preferences.d/podwire-trixie").write_text(pin)


def debian_mirror() -> str | None:
    """The Debian mirror this machine's apt uses, as apt itself resolves its sources; None on other distributions."""
    targets = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(ORIGIN)|$(CODENAME)|$(REPO_URI)", "Created-By: Packages"],
        capture_output=True,
        text=True,
        check=False,
    )
    for line in targets.stdout.splitlines():
        origin, _, rest = line.partition("|")
        codename, _, uri = rest.partition("|")
        if origin == "Debian" and "-security" not in codename and uri.rstrip("/").endswith("/debian"):
            return uri.rstrip("/")
    return None


def _clear_stale_containerd() -> None:
    """After a kill -9 of dockerd, the pid file of its dead containerd keeps the next one from starting."""
    directory = EXEC_ROOT / "containerd"
    try:
        pid = int((directory / "containerd.pid").read_text())
        name = Path(f"/proc/{pid}/comm").read_text().strip()
        zombie = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (OSError, ValueError):
        name, zombie = "", True
    if name == "containerd" and not zombie:
        raise Unsupported("a containerd of Docker runs, but its engine does not answer", hint="stop it, then try again")
    shutil.rmtree(directory, ignore_errors=True)
    (STATE / "dockerd.pid").unlink(missing_ok=True)


def _start_time(pid: int) -> str:
    """Boot and clock tick at which a process began: with the pid, this names it for good. Empty when it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""
    return "" if fields[0] == "Z" else f"{boot}:{fields[19]}"


def _ended(pid: int, started: str, timeout_s: float) -> bool:
    clock = SystemClock()
    deadline = clock.monotonic() + timeout_s
    while clock.monotonic() < deadline:
        if _start_time(pid) != started:
            return True
        clock.pause(0.05)
    return False


def main(arguments: Sequence[str]) -> int:
    """`python -m compose.engine start|stop|stop-if-idle|status`."""

    def say(line: str) -> None:
        print(line, file=sys.stderr)  # noqa: T201 - a script

    verb = arguments[0] if arguments else "status"
    try:
        if verb == "start":
            engine = ensure(say)
            say(f"Docker Engine {engine.version} at {engine.host}, {' '.join(engine.compose)}")
        elif verb in {"stop", "stop-if-idle"}:
            stop(say, only_if_idle=verb == "stop-if-idle")
        else:
            found = find()
            say(f"Docker Engine {found.version} at {found.host}" if found else "no Docker Engine answers")
            return 0 if found else 1
    except PodwireError as error:
        say(f"{error.message}; {error.hint}" if error.hint else error.message)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
