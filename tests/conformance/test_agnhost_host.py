"""The workload host as a process: its death, its return, and what hundreds of containers cost."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from nodeagent.pods.hosted import HOST_DIED, HostedRunner
from nodeagent.pods.lifecycle import PodLifecycles
from nodeagent.pods.runs import NodeFacts
from podwire.api.v1 import state_pb2 as state
from podwire.seams import SystemClock, SystemDisk
from tests.conformance.workload_lab import HostProcess, TestPod, now, workload_host

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


async def test_killed_host_is_137_and_serves_again_within_2_s(host: HostProcess, pod: TestPod) -> None:
    """Every container of a killed host ends with 137, on disk, and its next attempt serves on the same port."""
    runs = [pod.run("netexec"), pod.run("serve-hostname", container="other")]
    for run in runs:
        await host.runner.start(run)
    waits = [asyncio.ensure_future(host.ended(run)) for run in runs]
    await SystemClock().sleep(0)  # the waits begin
    killed = now()
    host.kill()
    host.start()
    for end, run in zip(await asyncio.gather(*waits), runs, strict=True):
        assert (end.code, end.signal, end.reason) == (137, 9, HOST_DIED)
        assert json.loads((run.directory / "exit.json").read_bytes())["code"] == 137
    await host.runner.start(pod.run("netexec", attempt=1))
    await host.runner.start(pod.run("serve-hostname", container="other", attempt=1))
    assert (await pod.http("/hostname")).body == "pod-a"
    assert (await pod.http("/", 9376)).body == "pod-a"
    took = now() - killed
    print("serves_again_s", round(took, 2))  # noqa: T201 - shown by pytest -s
    assert took < 2


async def test_new_agent_finds_what_runs_and_what_ended(host: HostProcess, pod: TestPod) -> None:
    """Another runner adopts by asking; ends that nobody saw, by exit or with the host, are known to it."""
    lives, leaves = pod.run("netexec"), pod.run("netexec", "--http-port=90", "--udp-port=-1", container="leaves")
    await host.runner.start(lives)
    await host.runner.start(leaves)
    await host.runner.close()
    with pytest.raises(ConnectionError):
        await pod.http("/exit?code=5", 90)
    host.runner = HostedRunner(host.place / "run" / "workload.sock", SystemClock(), SystemDisk())
    assert (await host.ended(leaves)).code == 5
    assert await host.runner.running() == {lives.id}
    await host.runner.close()
    host.kill()
    host.start()
    host.runner = HostedRunner(host.place / "run" / "workload.sock", SystemClock(), SystemDisk())
    assert (await host.ended(lives)).code == 137


async def test_stop_frees_the_namespace(host: HostProcess, pod: TestPod) -> None:
    """After a stop with connections open, the host holds nothing of the pod: the namespace goes with its last holder."""
    run = pod.run("netexec")
    await host.runner.start(run)
    pid = host.process.pid if host.process else 0

    def sockets() -> int:
        return sum(str(link.readlink()).startswith("socket:") for link in Path(f"/proc/{pid}/fd").iterdir())

    before = sockets()
    slow = asyncio.ensure_future(pod.http("/exit?wait=60s"))
    deadline = now() + 5
    while sockets() <= before and now() < deadline:
        await SystemClock().sleep(0.01)
    await host.runner.stop(run.id, 0)
    with pytest.raises(ConnectionError):
        await slow
    assert sockets() <= before - 2


@pytest.mark.timeout(120)
async def test_hundreds_of_containers_cost_sockets(host: HostProcess, tmp_path: Path) -> None:
    """300 pods with netexec start in seconds and cost tens of kilobytes each."""
    pid = host.process.pid if host.process else 0

    def resident_kb() -> int:
        status = Path(f"/proc/{pid}/status").read_text()
        return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))

    with ExitStack() as stack:
        pods = [TestPod(tmp_path, f"pod-{number}") for number in range(300)]
        for pod in pods:
            stack.callback(pod.namespace.close)
        first = pods[0].run("netexec")
        await host.runner.start(first)
        before, began = resident_kb(), now()
        await asyncio.gather(*(host.runner.start(pod.run("netexec")) for pod in pods[1:]))
        took = now() - began
        per_pod = (resident_kb() - before) / 299
        print("started_per_s", round(299 / took, 2))  # noqa: T201 - shown by pytest -s
        print("kib_per_pod", round(per_pod, 2))  # noqa: T201 - shown by pytest -s
        assert (await pods[299].http("/hostname")).body == "pod-299"
        began = now()
        await asyncio.gather(*(host.runner.stop(pod.run("netexec").id, 30) for pod in pods))
        print("stopped_in_s", round(now() - began, 2))  # noqa: T201 - shown by pytest -s
        assert await host.runner.running() == frozenset()
        assert took < 10
        assert per_pod < 200


async def test_life_cycle_over_a_real_host(host: HostProcess, pod: TestPod) -> None:
    """kill -9 of the host under a pod with restartPolicy Always: 137 in the report, one restart, serving within 2 s; probes see it."""
    lives = PodLifecycles(
        hosted=host.runner,
        process=host.runner,
        clock=SystemClock(),
        disk=SystemDisk(),
        state_dir=host.place / "state",
        on_change=lambda _: None,
        run_dir=host.place / "run",
        node=lambda: NodeFacts("node-a"),
    )
    container = state.ContainerState(
        name="c", image="agnhost", kind=state.CONTAINER_KIND_BUILT_IN, argv=["netexec", "--http-port=80"]
    )
    desired = state.PodState(
        uid="u1",
        namespace="default",
        name="pod-a",
        containers=[container],
        restart_policy=state.RESTART_POLICY_ALWAYS,
        termination_grace_s=30,
    )

    async def until_running(restarts: int) -> state.ContainerReport:
        deadline = now() + 10
        while now() < deadline:
            report = lives.report("u1")
            one = report.containers[0] if report else state.ContainerReport()
            if one.phase == state.CONTAINER_PHASE_RUNNING and one.restart_count == restarts:
                return one
            await SystemClock().sleep(0.005)
        raise AssertionError(lives.report("u1"))

    lives.ensure(desired, pod.sandbox)
    await until_running(0)
    assert (await pod.http("/hostname", 80)).body == "pod-a"
    killed = now()
    host.kill()
    host.start()
    one = await until_running(1)
    assert (await pod.http("/hostname", 80)).body == "pod-a"
    assert now() - killed < 2
    assert (one.last.exit_code, one.last.signal, one.last.reason) == (137, 9, HOST_DIED)
    assert one.last.started_unix_ms > 0
    began = now()
    await lives.stop("u1", 30)
    assert now() - began < 2
    lives.forget("u1")
    assert lives.known() == frozenset()
    await lives.close()
