"""agnhost's behaviour in hosted pods, as upstream's network tests rely on it."""

from __future__ import annotations

import asyncio
import http.client
import re
import socket
import ssl
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from nodeagent.pods.base import RunId
from tests.conformance.workload_lab import HostProcess, NameServer, TestPod, workload_host

pytestmark = pytest.mark.kernel


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[HostProcess]:
    async with workload_host(tmp_path) as started:
        yield started


@pytest.fixture
def pod(tmp_path: Path) -> Iterator[TestPod]:
    made = TestPod(tmp_path)
    yield made
    made.namespace.close()


def text_and_mode(path: str) -> tuple[str, int]:
    return Path(path).read_text(), Path(path).stat().st_mode & 0o777


async def test_netexec_says_who_it_and_the_client_are(host: HostProcess, pod: TestPod) -> None:
    """Every informational path, over both families, with upstream's words."""
    run = pod.run("netexec")
    await host.runner.start(run)
    assert re.fullmatch(r"NOW: \d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d+ \+0000 UTC", (await pod.http("/")).body)
    assert (await pod.http("/no/such/path")).body.startswith("NOW: ")
    assert (await pod.http("/hostname")).body == "pod-a"
    assert (await pod.http("/hostName")).body == "pod-a"
    assert re.fullmatch(r"127\.0\.0\.1:\d+", (await pod.http("/clientip")).body)
    assert re.fullmatch(r"\[::1\]:\d+", (await pod.http("/clientip", host="::1")).body)
    assert (await pod.http("/serverport")).body == "8080"
    assert (await pod.http("/header?key=X-Thing", X_Thing="seen")).body == "seen"
    assert (await pod.http("/header", X_Thing="seen")).json["X-Thing"] == ["seen"]
    assert (await pod.http("/healthz")).status == 200
    assert (await pod.http("/readyz")).body == "ok"
    assert "stderr F GET /hostname\n" in host.log(run)


@pytest.mark.parametrize(
    ("target", "status", "body"),
    [
        ("/echo?msg=hello", 200, "hello"),
        ("/echo?msg=hello&code=404", 404, "hello"),
        ("/echo?msg=hello&code=x", 200, "argument 'code' must be an integer or empty, got \"x\"\n"),
        ("/dial?host=127.0.0.1&port=8080", 400, "request parameter not specified. <nil>\n"),
        ("/dial?host=127.0.0.1&port=8080&request=hostname&protocol=ftp", 400, "unsupported protocol. ftp\n"),
        (
            "/dial?host=127.0.0.1&port=8080&request=hostname&tries=x",
            400,
            'tries parameter is invalid. strconv.Atoi: parsing "x": invalid syntax\n',
        ),
        ("/dial?host=127.0.0.1&port=8080&request=hostname&tries=2", 200, '{"responses":["pod-a","pod-a"]}'),
        ("/dial?host=127.0.0.1&port=8081&request=hostname&protocol=udp", 200, '{"responses":["pod-a"]}'),
        ("/dial?host=pod-a&port=8080&request=echo?msg=hi", 200, '{"responses":["hi"]}'),
        (
            "/dial?host=127.0.0.1&port=8080&request=redirect?location=/echo%253Fmsg=there",
            200,
            '{"responses":["there"]}',
        ),
        (
            "/dial?host=127.0.0.1&port=9&request=hostname",
            200,
            '{"errors":["Get \\"http://127.0.0.1:9/hostname\\": dial tcp 127.0.0.1:9: connect: connection refused"]}',
        ),
        ("/exit?timeout=soon", 200, "argument 'timeout' must be a valid golang duration or empty, got \"soon\"\n"),
        ("/exit?code=x", 200, "argument 'code' must be an integer [0-127] or empty, got \"x\"\n"),
    ],
)
async def test_netexec_answers(host: HostProcess, pod: TestPod, target: str, status: int, body: str) -> None:
    """A failed dial is 200 all the same, a wrong question 400, and a wrong argument a sentence."""
    await host.runner.start(pod.run("netexec"))
    answer = await pod.http(target)
    assert (answer.status, answer.body) == (status, body)


async def test_netexec_redirects_and_takes_uploads(host: HostProcess, pod: TestPod) -> None:
    """`/redirect` is 302 unless told otherwise; an upload is an executable file. (`/shell` needs the node's helper: tests/kernel/helper.)"""
    await host.runner.start(pod.run("netexec"))
    redirect = await pod.http("/redirect?location=/echo%3Fmsg=foobar")
    assert (redirect.status, redirect.headers["Location"]) == (302, "/echo?msg=foobar")
    assert (await pod.http("/redirect?location=/x&code=307")).status == 307
    form = (
        b'--XX\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\n#!/bin/sh\necho ran\n\r\n--XX--\r\n'
    )
    upload = await pod.http("/upload", method="POST", body=form, Content_Type="multipart/form-data; boundary=XX")
    assert upload.status == 201
    assert text_and_mode(upload.json["output"]) == ("#!/bin/sh\necho ran\n", 0o700)
    failed = await pod.http("/upload", method="POST", body=b"no form")
    assert (failed.status, failed.json) == (200, {"error": "Unable to upload file."})


async def test_netexec_udp_commands(host: HostProcess, pod: TestPod) -> None:
    """Trimmed, lower-cased commands are answered over both families; anything else is silence."""
    await host.runner.start(pod.run("netexec"))
    assert await pod.udp(b"hostName\n") == b"pod-a"
    assert await pod.udp(b"hostname", host="::1") == b"pod-a"
    assert await pod.udp(b"ECHO Some Words ") == b"some words"
    assert re.fullmatch(rb"127\.0\.0\.1:\d+", await pod.udp(b"clientip") or b"")
    assert await pod.udp(b"what", timeout_s=0.3) is None
    assert await pod.udp(b"echo " + b"x" * 1900) == b"x" * 1900


async def test_netexec_without_udp_is_never_healthy(host: HostProcess, pod: TestPod) -> None:
    """`/healthz` and `/readyz` are 412 until a datagram server is up."""
    await host.runner.start(pod.run("netexec", "--http-port=80", "--udp-port", "-1"))
    assert (await pod.http("/healthz", 80)).status == 412
    assert (await pod.http("/readyz", 80)).status == 412


async def test_netexec_override_and_listen_addresses(host: HostProcess, pod: TestPod) -> None:
    """`--http-override` answers every request alike; UDP is bound to the addresses named and to no other."""
    await host.runner.start(
        pod.run("netexec", "--http-override=/echo?msg=same&code=202", "--udp-listen-addresses=127.0.0.2")
    )
    answer = await pod.http("/hostname", method="POST", body=b"x")
    assert (answer.status, answer.body) == (202, "same")
    assert await pod.udp(b"hostname", host="127.0.0.2") == b"pod-a"
    with pytest.raises(ConnectionRefusedError):
        await pod.udp(b"hostname")


@pytest.mark.parametrize(("target", "code"), [("/exit?code=7", 7), ("/exit?code=3&timeout=5s", 3), ("/shutdown", 0)])
async def test_netexec_ends_with_the_code_asked_for(host: HostProcess, pod: TestPod, target: str, code: int) -> None:
    """The exit is on disk when it is announced, and the port is free again."""
    run = pod.run("netexec")
    await host.runner.start(run)
    try:
        await pod.http(target)
    except ConnectionError:
        assert "timeout" not in target
    end = await host.ended(run)
    assert (end.code, end.signal, end.reason) == (code, 0, "Completed" if code == 0 else "Error")
    assert (run.directory / "exit.json").exists()
    await host.runner.start(pod.run("netexec", attempt=1))
    assert (await pod.http("/hostname")).body == "pod-a"


async def test_netexec_serves_on_after_term_for_the_delay(host: HostProcess, pod: TestPod) -> None:
    """`--delay-shutdown` keeps serving, unready, and ends with 0; without it TERM ends at once."""
    run = pod.run("netexec", "--delay-shutdown=1")
    await host.runner.start(run)
    stopping = asyncio.ensure_future(host.runner.stop(run.id, 30))
    async with asyncio.timeout(5):
        while (await pod.http("/readyz")).status != 503:
            pass
    assert (await pod.http("/hostname")).body == "pod-a"
    await stopping
    assert (await host.ended(run)).code == 0
    assert "Sleeping 1 seconds before terminating..." in host.log(run)


async def test_serve_hostname(host: HostProcess, pod: TestPod) -> None:
    """HTTP on any path by default; it lingers after TERM until KILL."""
    run = pod.run("serve-hostname", "--close")
    await host.runner.start(run)
    answer = await pod.http("/any/path", 9376)
    assert (answer.body, answer.headers["Connection"]) == ("pod-a", "close")
    await host.runner.stop(run.id, 0.2)
    end = await host.ended(run)
    assert (end.code, end.signal) == (137, 9)


async def test_serve_hostname_raw(host: HostProcess, pod: TestPod) -> None:
    """`--tcp` writes the name and closes, `--udp` answers any datagram; with `--http` they do not go together."""
    await host.runner.start(pod.run("serve-hostname", "--http=false", "--tcp", "--udp", "--port", "77"))

    def ask() -> bytes:
        with socket.create_connection(("127.0.0.1", 77), timeout=5) as client:
            return client.makefile("rb").read()

    assert await asyncio.to_thread(pod.namespace.run, ask) == b"pod-a"
    assert await pod.udp(b"?", 77) == b"pod-a"
    both = pod.run("serve-hostname", "--tcp", container="both")
    await host.runner.start(both)
    assert (await host.ended(both)).code == 1


@pytest.mark.parametrize(
    ("args", "code", "line"),
    [
        (("127.0.0.1:8080",), 0, ""),
        (("pod-a:8080",), 0, ""),
        (("[::1]:8080",), 0, ""),
        (("--protocol", "udp", "127.0.0.1:8081"), 0, ""),
        (("127.0.0.1:9",), 1, "REFUSED"),
        (("--protocol=udp", "127.0.0.1:9"), 1, "REFUSED: read udp"),
        (("--protocol=udp", "--udp-data=nonsense", "--timeout=300ms", "127.0.0.1:8081"), 1, "TIMEOUT: read udp"),
        (("10.9.9.9:80",), 1, "OTHER: dial tcp 10.9.9.9:80: connect: network is unreachable"),
        (("--timeout=3s", "no-such-name:80"), 1, "DNS: lookup no-such-name on 127.0.0.1:53: "),
        (("no-port",), 1, "UNKNOWN: address no-port: missing port in address"),
        (("--protocol=icmp", "127.0.0.1:8080"), 1, "Unsupported protocol"),
        ((), 1, "Error: accepts 1 arg(s), received 0"),
    ],
)
async def test_connect(host: HostProcess, pod: TestPod, args: tuple[str, ...], code: int, line: str) -> None:
    """Exit code 0 and silence, or 1 and a line whose first word says what went wrong."""
    await host.runner.start(pod.run("netexec", container="server"))
    run = pod.run("connect", *args)
    await host.runner.start(run)
    assert (await host.ended(run)).code == code
    if line:
        assert f"stderr F {line}" in host.log(run)
    else:
        assert not (run.directory / "log").exists()


async def test_porter_serves_what_the_environment_says(host: HostProcess, pod: TestPod) -> None:
    """One server per variable; what cannot be served is a line in the log."""
    env = {"SERVE_PORT_80": "eighty", "SERVE_PORT_81": "a=b", "SERVE_UDP_PORT_82": "data", "SERVE_PORT_x": "no"}
    run = pod.run("porter", env=env)
    await host.runner.start(run)
    assert (await pod.http("/any", 80)).body == "eighty"
    assert (await pod.http("/", 81)).body == "a=b"
    assert await pod.udp(b"?", 82) == b"data"
    assert 'server on port "x" failed' in host.log(run)
    await host.runner.start(pod.run("porter", "--json-response", container="j", env={"SERVE_PORT_83": "v"}))
    assert (await pod.http("/", 83, method="POST")).body == '{"Body":"v","Method":"POST"}'


async def test_tls_servers(host: HostProcess, pod: TestPod) -> None:
    """HTTPS with upstream's default file names works though the files are not there; a file that is missing is exit 1."""
    await host.runner.start(pod.run("porter", container="p", env={"SERVE_TLS_PORT_443": "secret"}))
    cert = ("--tls-cert-file=/localhost.crt", "--tls-private-key-file=/localhost.key")
    await host.runner.start(pod.run("netexec", "--http-port=444", *cert, container="n"))

    def ask(port: int) -> bytes:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        client = http.client.HTTPSConnection("127.0.0.1", port, timeout=5, context=context)
        try:
            client.request("GET", "/hostname")
            return client.getresponse().read()
        finally:
            client.close()

    assert await asyncio.to_thread(pod.namespace.run, lambda: ask(443)) == b"secret"
    assert await asyncio.to_thread(pod.namespace.run, lambda: ask(444)) == b"pod-a"
    missing = pod.run("netexec", "--udp-port=-1", "--tls-cert-file=/no/such.crt", container="m")
    await host.runner.start(missing)
    assert (await host.ended(missing)).message == "open /no/such.crt: no such file or directory"


async def test_names_come_from_the_pods_own_files(host: HostProcess, pod: TestPod) -> None:
    """A name is asked of the server in the pod's resolv.conf, with the search list; a truncated answer is asked for by TCP."""
    await host.runner.start(pod.run("netexec"))
    with NameServer(pod.namespace, {"svc-x.ns.svc.test": "127.0.0.1", "big.svc.test": "127.0.0.1"}) as server:
        assert (await pod.http("/dial?host=svc-x&port=8080&request=hostname")).json == {"responses": ["pod-a"]}
        assert (await pod.http("/dial?host=big.svc.test.&port=8080&request=hostname")).json == {"responses": ["pod-a"]}
        answer = await pod.http("/dial?host=svc-y&port=8080&request=hostname")
    assert (answer.status, answer.body) == (
        400,
        "host and/or port param are invalid. lookup svc-y on 127.0.0.1:53: no such host\n",
    )
    asked = [name for name in server.asked if name.startswith("svc-y")]
    assert list(dict.fromkeys(asked)) == ["svc-y.ns.svc.test", "svc-y.svc.test", "svc-y"]
    assert ("tcp", "big.svc.test") in server.by_protocol
    assert ("udp", "svc-x.ns.svc.test") in server.by_protocol


async def test_stand_in_answers_on_declared_ports(host: HostProcess, pod: TestPod) -> None:
    """A line that says what it is on TCP ports, an echo on UDP ports, and 0 after TERM."""
    run = pod.run("nginx", "-g", program="stand-in", image="nginx:1.27", ports=[(80, "TCP"), (53, "UDP")])
    await host.runner.start(run)
    answer = await pod.http("/", 80)
    assert (answer.status, answer.body) == (
        200,
        "podwire stand-in: pod default/pod-a, container c, image nginx:1.27, port 80\n",
    )
    assert await pod.udp(b"Any Data", 53) == b"Any Data"
    await host.runner.stop(run.id, 5)
    assert (await host.ended(run)).code == 0


async def test_small_programs(host: HostProcess, pod: TestPod) -> None:
    """What prints the resolver's files prints and ends; pause ends with 2; what nobody knows ends with 1."""
    for argv, code, line in (
        (("dns-suffix",), 0, "stdout F ns.svc.test,svc.test"),
        (("dns-server-list",), 0, "stdout F 127.0.0.1"),
        (("etc-hosts",), 0, "stdout F 127.0.0.1 pod-a"),
        (("bogus",), 1, 'stderr F Error: unknown command "bogus" for "app"'),
        (("netexec", "--bogus"), 1, "stderr F Error: unknown flag: --bogus"),
    ):
        run = pod.run(*argv, container="-".join(("c", *argv)))
        await host.runner.start(run)
        assert (await host.ended(run)).code == code
        assert line in host.log(run)
    run = pod.run("pause")
    await host.runner.start(run)
    await host.runner.stop(run.id, 5)
    assert (await host.ended(run)).code == 2
    assert "stdout F Paused\n" in host.log(run)


async def test_two_containers_cannot_have_one_port(host: HostProcess, pod: TestPod) -> None:
    """The second ends with 1 and says so; the first serves on, and they meet on 127.0.0.1."""
    first, second = pod.run("netexec", container="one"), pod.run("netexec", "--udp-port=-1", container="two")
    await host.runner.start(first)
    await host.runner.start(second)
    end = await host.ended(second)
    assert (end.code, end.message) == (1, "listen tcp :8080: bind: address already in use")
    assert "listen tcp :8080: bind: address already in use" in host.log(second)
    other = pod.run("netexec", "--http-port=8090", "--udp-port=-1", container="three")
    await host.runner.start(other)
    dialled = await pod.http("/dial?host=127.0.0.1&port=8080&request=hostname", 8090)
    assert dialled.json == {"responses": ["pod-a"]}


async def test_test_webserver_serves_files(host: HostProcess, pod: TestPod) -> None:
    """Any file by its path; nothing above the root, and 404 for what is not there."""
    await host.runner.start(pod.run("test-webserver"))
    target = pod.files / "page.html"
    target.write_text("<p>here</p>")
    answer = await pod.http(str(target), 80)
    assert (answer.body, answer.headers["Content-Type"]) == ("<p>here</p>", "text/html")
    assert (await pod.http("/no/such/file", 80)).status == 404


async def test_start_and_stop_may_be_repeated(host: HostProcess, pod: TestPod) -> None:
    """Starting what runs, stopping what is gone or never was: no error. A pin that is another namespace's is refused."""
    run = pod.run("netexec")
    await host.runner.start(run)
    await host.runner.start(run)
    assert await host.runner.running() == {run.id}
    await host.runner.stop(run.id, 5)
    await host.runner.stop(run.id, 5)
    await host.runner.stop(RunId("nobody", "c", 0), 5)
    assert await host.runner.running() == frozenset()
    await host.runner.start(run)  # it has run: an attempt is never used twice
    assert await host.runner.running() == frozenset()


async def test_a_reused_pin_is_not_believed(host: HostProcess, pod: TestPod) -> None:
    """A sandbox whose pin leads to another namespace than recorded gets no listener there."""
    run = pod.run("netexec")
    object.__setattr__(run.sandbox, "netns_inode", 1)
    await host.runner.start(run)
    assert (await host.ended(run)).code == 1
    assert "not 1 as recorded" in host.log(run) or "stale" in host.log(run).lower()
