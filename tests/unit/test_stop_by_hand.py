"""The stop sequence with a virtual clock: what can't be had from real processes at will, and when it gives up."""

from __future__ import annotations

import math
import signal

import pytest
from support.actors import Actor, deaf
from support.fake import FakeStarted

from allgone import StopPolicy, StopTimeout
from allgone._core.stop import KILL_AGAIN, KILL_TIMEOUT, Steps, Stop, Wait

POLITE = StopPolicy(timeout_stop=5.0)
AT_ONCE = StopPolicy(timeout_stop=0)


def waits(stage: FakeStarted, policy: StopPolicy) -> list[Wait]:
    """Carry the stop out; every wait that it asked for."""
    return carry_out(stage, stage.steps(policy)[1])


def carry_out(stage: FakeStarted, steps: Steps) -> list[Wait]:
    asked = []
    for wait in steps:
        asked.append(wait)
        stage.world.wait(wait, stage._is_ready)
    return asked


def test_nothing_alive_needs_no_wait() -> None:
    stage = FakeStarted(Actor("leader", ends_first=True), POLITE)
    assert waits(stage, POLITE) == []
    assert stage.containment.gone


def test_a_process_that_cannot_be_killed_is_named_and_success_is_not_reported() -> None:
    stage = FakeStarted(Actor("leader", (deaf("stuck"),)), POLITE)
    stage["stuck"].unkillable = True
    began = stage.world.now
    with pytest.raises(StopTimeout, match=str(stage["stuck"].pid)) as caught:
        stage.stop()
    assert caught.value.survivors == {stage["stuck"].pid}
    assert stage.world.now - began == pytest.approx(5.0 + KILL_TIMEOUT, abs=0.1)
    assert not stage.containment.gone


@pytest.mark.parametrize("kill_mode", ["mixed", "process", "control-group"])
def test_a_leader_that_cannot_be_killed_is_named_whatever_the_mode(kill_mode: str) -> None:
    stage = FakeStarted(deaf("leader"), POLITE)
    stage["leader"].unkillable = True
    with pytest.raises(StopTimeout) as caught:
        stage.stop(StopPolicy(kill_mode=kill_mode, timeout_stop=1))  # type: ignore[arg-type]
    assert caught.value.survivors == {stage["leader"].pid}


def test_a_stop_that_timed_out_can_be_done_again() -> None:
    stage = FakeStarted(deaf("leader"), AT_ONCE)
    stage["leader"].unkillable = True
    with pytest.raises(StopTimeout):
        stage.stop()
    stage["leader"].unkillable = False
    assert stage.stop().returncode == -signal.SIGKILL
    assert stage.containment.gone


def test_whom_the_kill_misses_is_killed_one_by_one_soon_after() -> None:
    stage = FakeStarted(Actor("leader", (deaf("missed"),)), AT_ONCE)
    stage["missed"].missed_by_kill = True
    began = stage.world.now
    report = stage.stop()
    assert stage.world.now - began <= 2 * KILL_AGAIN + 1e-6
    assert {process.pid for process in report.killed} == {stage["leader"].pid, stage["missed"].pid}


def test_a_kill_that_takes_its_time_but_makes_progress_is_left_to_do_its_work() -> None:
    stage = FakeStarted(Actor("leader", tuple(deaf(f"slow-{n}") for n in range(20))), AT_ONCE)
    kills: list[float] = []
    for n in range(20):
        slow = stage[f"slow-{n}"]
        slow.unkillable = True
        stage.world.after(0.015 * (n + 1), lambda slow=slow: setattr(slow, "returncode", -9))
    kill = stage.containment.kill
    stage.containment.kill = lambda: (kills.append(stage.world.now), kill())[1]  # type: ignore[method-assign]
    stage.stop()
    assert len(kills) == 1


def test_many_that_end_one_after_another_have_more_time_than_one_that_does_not() -> None:
    stage = FakeStarted(Actor("leader", tuple(deaf(f"slow-{n}") for n in range(3))), AT_ONCE)
    for n in range(3):
        slow = stage[f"slow-{n}"]
        slow.unkillable = True
        if n < 2:
            stage.world.after(0.7 * KILL_TIMEOUT * (n + 1), lambda slow=slow: setattr(slow, "returncode", -9))
    began = stage.world.now
    with pytest.raises(StopTimeout) as caught:
        stage.stop()
    assert caught.value.survivors == {stage["slow-2"].pid}
    assert stage.world.now - began == pytest.approx(2.4 * KILL_TIMEOUT, abs=0.1)


def test_of_many_that_cannot_be_killed_the_first_are_named_and_the_others_counted() -> None:
    stage = FakeStarted(Actor("leader", tuple(deaf(f"stuck-{n}") for n in range(25))), AT_ONCE)
    for n in range(25):
        stage[f"stuck-{n}"].unkillable = True
    with pytest.raises(StopTimeout, match=r"\d, \d+ and 5 more\. ") as caught:
        stage.stop()
    assert len(caught.value.survivors) == 25


def test_newcomers_that_end_do_not_put_off_the_giving_up() -> None:
    stage = FakeStarted(Actor("leader", (deaf("stuck"), deaf("fleeting"))), AT_ONCE)
    stage["stuck"].unkillable = True
    members, calls = stage.containment.members, iter(range(10**6))
    newcomers = lambda call: frozenset({10**6 + call} if call % 2 == 0 else ())  # noqa: E731  # at every other look
    stage.containment.members = lambda: members() | newcomers(next(calls))  # type: ignore[method-assign]
    began = stage.world.now
    with pytest.raises(StopTimeout):
        stage.stop()
    assert stage.world.now - began == pytest.approx(KILL_TIMEOUT, abs=0.1)


def test_removal_is_tried_again_while_the_kernel_is_busy() -> None:
    stage = FakeStarted(Actor("leader"), POLITE)
    stage.containment.busy = 5
    stage.stop()
    assert stage.containment.gone


def test_removal_that_never_succeeds_is_a_stop_timeout_that_says_where() -> None:
    stage = FakeStarted(Actor("leader"), POLITE)
    stage.containment.busy = 10**9
    began = stage.world.now
    with pytest.raises(StopTimeout, match="cannot remove /fake: it stays busy"):
        stage.stop()
    assert stage.world.now - began == pytest.approx(KILL_TIMEOUT, abs=0.1)


def test_an_infinite_timeout_waits_for_ever_and_no_fd_is_left_out() -> None:
    stage = FakeStarted(Actor("leader"), POLITE)
    stage["leader"].takes = 1e6
    asked = waits(stage, StopPolicy(timeout_stop=math.inf))
    assert [wait.deadline for wait in asked] == [math.inf]
    assert all(wait.fds for wait in asked)


def test_no_wait_is_without_an_event_and_without_a_deadline() -> None:
    stage = FakeStarted(Actor("leader", (deaf("worker"),)), POLITE)
    stage.containment.swarm = 50
    for wait in waits(stage, POLITE):
        assert wait.fds or wait.deadline < math.inf


def test_who_hurries_does_not_ask_anyone_again() -> None:
    stage = FakeStarted(deaf("leader"), POLITE)
    stop = Stop(stage.containment, [stage.leader], POLITE, lambda: stage.world.now)
    next(stop.steps())
    stop.hurry()
    carry_out(stage, stop.steps())
    assert stage.heard("leader") == ["SIGTERM"]
    assert [sent.signum for sent in stop.outcome.sent] == [signal.SIGTERM, signal.SIGCONT, signal.SIGKILL]


def test_what_was_done_can_be_read_after_an_error_too() -> None:
    stage = FakeStarted(deaf("leader"), POLITE)
    stage["leader"].unkillable = True
    stop = Stop(stage.containment, [stage.leader], POLITE, lambda: stage.world.now)
    with pytest.raises(StopTimeout):
        carry_out(stage, stop.steps())
    outcome = stop.outcome
    assert [sent.signum for sent in outcome.sent[:3]] == [signal.SIGTERM, signal.SIGCONT, signal.SIGKILL]
    assert outcome.killed == {stage["leader"].pid}


def test_the_watch_is_closed_when_the_driver_gives_up() -> None:
    stage = FakeStarted(deaf("leader"), POLITE)
    closed = []
    watch = stage.containment.watch()
    watch.__class__ = type("Watch", (type(watch),), {"__exit__": lambda *_: closed.append(True)})
    stage.containment.watch = lambda: watch  # type: ignore[method-assign]
    _, steps = stage.steps(POLITE)
    next(steps)
    steps.close()
    assert closed == [True]


def test_a_leader_killed_by_others_is_told_from_one_that_we_ended() -> None:
    child = deaf("leader")
    with FakeStarted(child, StopPolicy(timeout_stop=1.0)) as started:
        started.stop()
        assert started.report is not None
        assert started.report.returncode == -signal.SIGKILL
        assert started.report.ended_from_outside == ""
    # The same signal, but it had ended before the stop, which sends it to the one that is left.
    both = Actor("leader", (deaf("left"),))
    with FakeStarted(both, StopPolicy(timeout_stop=1.0)) as started:
        started["leader"].returncode = -signal.SIGKILL
        started.stop()
        assert started.report is not None
        assert [each.signum for each in started.report.sent][-1] == signal.SIGKILL
        assert started.report.ended_from_outside == "somebody"
