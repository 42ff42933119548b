"""The life of a pod's containers: order, restarts, probes, stopping, and what a new agent makes of it."""

from __future__ import annotations

import asyncio

import pytest

from nodeagent.pods.restarts import LOST
from podwire.api.v1 import state_pb2 as state
from podwire.errors import NotFound
from tests.unit.lifecycle_world import OTHER_SANDBOX, UID, World, container, pod, probe, settle

PENDING, RUNNING = state.POD_PHASE_PENDING, state.POD_PHASE_RUNNING
SUCCEEDED, FAILED = state.POD_PHASE_SUCCEEDED, state.POD_PHASE_FAILED
STAND_IN = state.CONTAINER_KIND_STAND_IN


async def test_containers_start_and_are_ready() -> None:
    """A pod without probes is Running and ready as soon as its containers run; the same order again changes nothing."""
    world = World()
    await world.ensure(pod(container("a"), container("b")))
    report = world.report()
    assert report.phase == RUNNING
    assert [one.ready for one in report.containers] == [True, True]
    assert world.reasons() == ["Created", "Started", "Created", "Started"]
    assert set(world.changes) == {UID}
    before = len(world.changes)
    await world.ensure(pod(container("a"), container("b")))
    assert (len(world.hosted.started), len(world.changes)) == (2, before)


async def test_restarts_pause_as_the_kubelets() -> None:
    """The first restart is immediate, then 10 s doubling to 5 min; the pod stays Running and says CrashLoopBackOff."""
    world = World()
    await world.ensure(pod())
    for attempt, pause_s in enumerate([0, 10, 20, 40, 80, 160, 300, 300], start=1):
        world.hosted.finish("c", 1)
        await settle()
        if pause_s:
            one = world.container()
            assert (one.phase, one.reason) == (state.CONTAINER_PHASE_WAITING, "CrashLoopBackOff")
            assert one.message.startswith(f"back-off {pause_s}s restarting failed container=c pod=web_default(")
            assert (one.restart_count, one.last.exit_code) == (attempt - 1, 1)
            assert world.report().phase == RUNNING
            await world.clock.advance(pause_s - 1)
            assert world.hosted.attempts()[-1] == attempt - 1
            await world.clock.advance(1)
        assert world.hosted.attempts()[-1] == attempt
        assert world.container().restart_count == attempt
    assert world.reasons().count("BackOff") == 7


async def test_ten_quiet_minutes_forget_the_back_off() -> None:
    """A container that ran for longer than that starts again at once."""
    world = World()
    await world.ensure(pod())
    world.hosted.finish("c", 1)
    await settle()
    await world.clock.advance(601)
    world.hosted.finish("c", 0)
    await settle()
    assert world.hosted.attempts() == [0, 1, 2]


@pytest.mark.parametrize(
    ("policy", "code", "restarted", "phase"),
    [
        ("ALWAYS", 0, True, RUNNING),
        ("ALWAYS", 1, True, RUNNING),
        ("ON_FAILURE", 0, False, SUCCEEDED),
        ("ON_FAILURE", 1, True, RUNNING),
        ("NEVER", 0, False, SUCCEEDED),
        ("NEVER", 3, False, FAILED),
    ],
)
async def test_restart_policy(policy: str, code: int, *, restarted: bool, phase: int) -> None:
    """Who is run again, and what the pod then is; the exit code is in the report."""
    world = World()
    await world.ensure(pod(policy=policy))
    world.hosted.finish("c", code)
    await settle()
    assert world.hosted.attempts() == ([0, 1] if restarted else [0])
    report = world.report()
    assert report.phase == phase
    one = report.containers[0]
    assert (one.last.exit_code if restarted else one.exit_code) == code
    assert one.reason == ("" if restarted else "Error" if code else "Completed")


async def test_log_source_says_when_nothing_more_comes() -> None:
    """Not while it runs or will run again; yes when it has ended for good, or is stopped."""
    world = World()
    await world.ensure(pod(container("a"), container("b"), policy="ON_FAILURE"))
    a, b = world.lives.log_source(UID), world.lives.log_source(UID, "b", previous=True)
    assert (a.runs.name, b.runs.name, b.previous) == (f"{UID}.a", f"{UID}.b", True)
    assert not a.gone()
    world.hosted.finish("a", 0)
    world.hosted.finish("b", 1)
    await settle()
    assert a.gone()
    assert not b.gone()
    await world.lives.stop(UID, 0)
    assert b.gone()


async def test_death_of_the_host_restarts_at_once_every_time() -> None:
    """It was not the container's fault: no pause, however often; the count goes up all the same."""
    world = World()
    await world.ensure(pod())
    for attempt in range(1, 5):
        world.hosted.finish("c", 137, 9, "HostDied")
        await settle()
        assert world.hosted.attempts()[-1] == attempt
    assert (world.container().restart_count, world.container().last.exit_code) == (4, 137)


async def test_init_containers_run_in_order() -> None:
    """One after the other, each to success, before the others; a stand-in succeeds at once."""
    world = World()
    init = [container("i1"), container("i2", kind=STAND_IN), container("i3")]
    await world.ensure(pod(container("c"), init_containers=init))
    assert [run.id.container for run in world.hosted.started] == ["i1"]
    assert world.report().phase == PENDING
    world.hosted.finish("i1", 0)
    await settle()
    assert [run.id.container for run in world.hosted.started] == ["i1", "i3"]
    world.hosted.finish("i3", 0)
    await settle()
    assert world.report().phase == RUNNING
    assert [one.reason for one in world.report().init_containers] == ["Completed"] * 3


@pytest.mark.parametrize(("policy", "again", "phase"), [("ALWAYS", True, PENDING), ("NEVER", False, FAILED)])
async def test_failing_init_container(policy: str, *, again: bool, phase: int) -> None:
    """It is tried again, or it fails the pod; the others never start."""
    world = World()
    await world.ensure(pod(init_containers=[container("i")], policy=policy))
    world.hosted.finish("i", 1)
    await settle()
    assert world.hosted.attempts("i") == ([0, 1] if again else [0])
    assert world.hosted.attempts("c") == []
    assert world.report().phase == phase


async def test_start_that_cannot_work_is_reported() -> None:
    """128 and StartError, with the sentence, and tried again by the policy."""
    world = World()
    world.hosted.refuse = {"c"}
    await world.ensure(pod())
    one = world.container()
    assert (one.reason, one.last.exit_code, one.last.reason) == ("CrashLoopBackOff", 128, "StartError")
    assert "Failed" in world.reasons()
    world.hosted.refuse = set()
    await world.clock.advance(10)
    assert world.container().phase == state.CONTAINER_PHASE_RUNNING


async def test_readiness_follows_the_probe() -> None:
    """Not ready until it answers, unready after the threshold of failures, no restart."""
    world = World()
    world.checker.answers = {80: False}
    ready = probe(80, period_s=5, failure_threshold=2, initial_delay_s=3)
    await world.ensure(pod(container("c", readiness=ready)))
    assert not world.container().ready
    await world.clock.advance(2)
    assert world.checker.asked == []
    await world.clock.advance(1)
    assert "Unhealthy" in world.reasons()
    world.checker.answers[80] = True
    await world.clock.advance(5)
    assert world.container().ready
    world.checker.answers[80] = False
    await world.clock.advance(5)
    assert world.container().ready
    await world.clock.advance(5)
    assert not world.container().ready
    assert world.hosted.attempts() == [0]


async def test_liveness_failure_restarts() -> None:
    """After the threshold the container is stopped with the pod's grace, and restarted as any that ended."""
    world = World()
    world.checker.answers = {80: True}
    await world.ensure(pod(container("c", liveness=probe(80, period_s=1))))
    await world.clock.advance(5)
    world.checker.answers[80] = False
    await world.clock.advance(2)
    assert world.hosted.stopped == []
    await world.clock.advance(1)
    assert [grace for _, grace in world.hosted.stopped] == [30.0]
    assert world.hosted.attempts() == [0, 1]
    messages = [event.message for event in world.report().events]
    assert "Container c failed liveness probe, will be restarted" in messages
    assert "Liveness probe failed: no answer" in messages


async def test_startup_probe_holds_the_others_back() -> None:
    """Neither liveness nor readiness is asked before it has succeeded; its failure restarts."""
    world = World()
    world.checker.answers = {1: False, 2: False, 3: True}
    spec = container("c", startup=probe(1, period_s=1, failure_threshold=5), liveness=probe(2), readiness=probe(3))
    await world.ensure(pod(spec))
    await world.clock.advance(2)
    assert set(world.checker.asked) == {1}
    assert not world.container().started
    world.checker.answers = {1: True, 2: True, 3: True}
    await world.clock.advance(1)
    assert set(world.checker.asked) == {1, 2, 3}
    assert world.container().started
    assert world.container().ready
    failing = World()
    await failing.ensure(pod(container("c", startup=probe(1, period_s=1, failure_threshold=3))))
    await failing.clock.advance(2)
    assert failing.hosted.attempts() == [0, 1]


async def test_stop_terminates_all_at_once_and_restarts_nothing() -> None:
    """TERM to all in parallel; a deaf one is gone at the end of the grace, not after one grace each."""
    world = World()
    world.hosted.deaf = {"a", "b"}
    await world.ensure(pod(container("a"), container("b"), container("c")))
    stopping = asyncio.ensure_future(world.lives.stop(UID, 30))
    await settle()
    assert {run.container for run, _ in world.hosted.stopped} == {"a", "b", "c"}
    await world.clock.advance(29)
    assert not stopping.done()
    await world.clock.advance(1)
    await stopping
    assert [one.exit_code for one in world.report().containers] == [137, 137, 0]
    assert world.report().phase == FAILED
    await world.clock.advance(1000)
    assert len(world.hosted.started) == 3
    world.lives.forget(UID)
    assert world.lives.report(UID) is None
    await world.lives.stop(UID, 30)


async def test_stop_in_back_off_and_before_start() -> None:
    """What waits for its restart stays down; an init container in its turn is stopped and nothing follows it."""
    world = World()
    await world.ensure(pod())
    for _ in range(2):
        world.hosted.finish("c", 1)
        await settle()
    await world.lives.stop(UID, 30)
    await world.clock.advance(1000)
    assert world.hosted.attempts() == [0, 1]
    other = World()
    await other.ensure(pod(init_containers=[container("i")]))
    await other.lives.stop(UID, 30)
    assert other.hosted.attempts("c") == []
    early = World()
    early.lives.ensure(pod(), OTHER_SANDBOX)
    await early.lives.stop(UID, 30)
    await settle()
    assert early.hosted.live == {}


async def test_new_agent_adopts_what_runs() -> None:
    """Nothing is started or stopped; counts, readiness and start time are as before; the next end is treated as ever."""
    world = World()
    world.checker.answers = {80: True}
    desired = pod(container("c", readiness=probe(80, initial_delay_s=20)), init_containers=[container("i")])
    await world.ensure(desired)
    world.hosted.finish("i", 0)
    await settle()
    world.hosted.finish("c", 1)
    await world.clock.advance(25)
    before = world.report()
    assert (before.containers[0].restart_count, before.containers[0].ready) == (1, True)
    await world.restart_agent()
    world.lives.ensure(desired, world.hosted.started[0].sandbox)
    assert world.report().containers == before.containers
    await settle()
    after = world.report()
    assert (after.containers, after.started_unix_ms) == (before.containers, before.started_unix_ms)
    assert len(world.hosted.started) == 3
    assert world.hosted.stopped == []
    world.hosted.finish("c", 2)
    await settle()
    assert world.container().restart_count == 2


@pytest.mark.parametrize(
    ("policy", "code", "attempts", "phase"),
    [
        ("ALWAYS", 0, [0, 1], RUNNING),
        ("ON_FAILURE", 4, [0, 1], RUNNING),
        ("ON_FAILURE", 0, [0], SUCCEEDED),
        ("NEVER", 4, [0], FAILED),
    ],
)
async def test_ends_while_the_agent_is_dead(policy: str, code: int, attempts: list[int], phase: int) -> None:
    """Exit code and restart policy are right after the agent's return, and reported even where nothing is left to do."""
    world = World()
    desired = pod(policy=policy)
    await world.ensure(desired)
    await world.lives.close()
    world.hosted.finish("c", code)
    await world.restart_agent()
    world.changes.clear()
    await world.ensure(desired)
    assert UID in world.changes
    assert world.hosted.attempts() == attempts
    one = world.container()
    assert (one.last.exit_code if len(attempts) > 1 else one.exit_code) == code
    assert world.report().phase == phase


async def test_ends_between_adoption_and_ensure() -> None:
    """A run that was alive when the runners were asked, and ended before its pod was named, is no loss."""
    world = World()
    await world.ensure(pod())
    await world.restart_agent()
    world.hosted.finish("c", 6)
    await world.ensure(pod())
    assert world.hosted.attempts() == [0, 1]
    assert world.container().last.exit_code == 6


async def test_node_restart_brings_containers_back_at_once() -> None:
    """Runs that ended unseen with their node count as one restart, init containers run again, and nothing pauses."""
    world = World()
    desired = pod(init_containers=[container("i")])
    await world.ensure(desired)
    world.hosted.finish("i", 0)
    await settle()
    await world.lives.close()
    world.hosted.live.clear()
    world.disk.files = {path: data for path, data in world.disk.files.items() if path.parts[1] != "run"}
    await world.restart_agent()
    await world.ensure(desired, OTHER_SANDBOX)
    assert world.hosted.attempts("i") == [0, 1]
    world.hosted.finish("i", 0)
    await settle()
    assert world.hosted.attempts() == [0, 1]
    one = world.container()
    assert (one.last.exit_code, one.last.reason, one.restart_count) == (137, LOST, 1)


async def test_another_sandbox_means_all_anew_in_it() -> None:
    """What ran in the old one is killed, and started in the new one."""
    world = World()
    await world.ensure(pod())
    await world.ensure(pod(), OTHER_SANDBOX)
    assert [grace for _, grace in world.hosted.stopped] == [0]
    assert [run.sandbox.slot for run in world.hosted.started] == ["00000000000a", "00000000000b"]
    assert world.report().phase == RUNNING


async def test_orphans_of_a_pod_that_is_gone_are_stopped() -> None:
    """A pod deleted while no agent lived: its runs are known, and `stop` ends them without a spec."""
    world = World()
    await world.ensure(pod())
    await world.restart_agent()
    assert UID in world.lives.known()
    await world.lives.stop(UID, 5)
    assert world.hosted.live == {}


async def test_processes_go_to_their_runner_with_their_environment() -> None:
    """Downward API fields and references are resolved; the command line too; kinds choose the runner."""
    world = World()
    env = [
        state.EnvVar(name="IP", field_path="status.podIP"),
        state.EnvVar(name="NODE", field_path="spec.nodeName"),
        state.EnvVar(name="URL", value="http://$(IP):80/$$(IP)/$(NONE)"),
    ]
    kind = state.CONTAINER_KIND_PROCESS
    await world.ensure(pod(container("c", kind=kind, argv=["echo", "$(URL)"], env=env)))
    run = world.process.started[0]
    assert dict(run.env) == {"IP": "10.244.1.5", "NODE": "node-a", "URL": "http://10.244.1.5:80/$(IP)/$(NONE)"}
    assert run.argv == ("echo", "http://10.244.1.5:80/$(IP)/$(NONE)")
    assert (run.program, run.pod, run.hostname) == ("process", "default/web", "web")
    assert b"10.244.1.5\tweb\n" in (world.disk.read(run.files / "hosts") or b"")
    assert world.lives.container_run(UID).id == run.id
    with pytest.raises(NotFound):
        world.lives.container_run(UID, "nobody")
