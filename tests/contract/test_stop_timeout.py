"""A stop that can't be completed says so, and says who is left; it never reports success."""

from __future__ import annotations

import math
import os
import signal
import subprocess

import pytest
from support.actors import Actor, deaf
from support.backends import BACKENDS, BackendUnderTest
from support.fake import FakeStarted
from support.programs import Lines
from support.tiers import missing

import allgone
from allgone._core import stop as stop_sequence

AT_ONCE = allgone.StopPolicy(timeout_stop=0)
FREEZER_V1 = "/sys/fs/cgroup/freezer"


@pytest.mark.parametrize("policy", [AT_ONCE, allgone.StopPolicy("mixed", timeout_stop=3)], ids=["at once", "mixed"])
@pytest.mark.parametrize("who", ["leader", "worker"])
def test_who_outlives_sigkill_is_named(who: str, policy: allgone.StopPolicy) -> None:
    stage = FakeStarted(Actor("leader", (Actor("worker"),)), policy)
    stage[who].unkillable = True
    began = stage.world.now
    if who == "leader":
        stage[who].ignores = (signal.SIGTERM,)
    with pytest.raises(allgone.StopTimeout, match=str(stage[who].pid)) as caught:
        stage.stop()
    assert caught.value.survivors == {stage[who].pid}
    assert stage.world.now - began >= stop_sequence.KILL_TIMEOUT
    assert stage.report is None


def test_process_mode_names_a_leader_that_outlives_sigkill() -> None:
    stage = FakeStarted(deaf("leader", Actor("worker")), allgone.StopPolicy("process", timeout_stop=1))
    stage["leader"].unkillable = True
    with pytest.raises(allgone.StopTimeout) as caught:
        stage.stop()
    assert caught.value.survivors == {stage["leader"].pid}
    assert stage["worker"].is_alive()


def test_a_stop_that_timed_out_may_be_called_again_and_completes() -> None:
    stage = FakeStarted(Actor("leader"), AT_ONCE)
    stage["leader"].unkillable = True
    with pytest.raises(allgone.StopTimeout):
        stage.stop()
    stage["leader"].unkillable = False
    assert stage.stop().returncode == -signal.SIGKILL
    assert stage.containment.gone


def test_who_dies_late_is_waited_for() -> None:
    stage = FakeStarted(Actor("leader"), AT_ONCE)
    stage["leader"].unkillable = True
    stage.world.after(stop_sequence.KILL_TIMEOUT - 1, lambda: setattr(stage["leader"], "unkillable", False))
    stage.stop()
    assert stage.all_gone()


def test_what_the_kill_misses_is_killed_one_by_one_soon_after() -> None:
    stage = FakeStarted(Actor("leader", (Actor("worker"),)), AT_ONCE)
    stage["leader"].missed_by_kill = True
    began = stage.world.now
    stage.stop()
    assert stage.all_gone()
    assert stage.world.now - began < 0.1


def test_removal_is_tried_again_while_the_kernel_is_busy() -> None:
    stage = FakeStarted(Actor("leader"), AT_ONCE)
    stage.containment.busy = 10
    stage.stop()
    assert stage.containment.gone


def test_removal_that_never_succeeds_times_out() -> None:
    stage = FakeStarted(Actor("leader"), AT_ONCE)
    stage.containment.busy = 1_000_000
    with pytest.raises(allgone.StopTimeout, match="busy") as caught:
        stage.stop()
    assert caught.value.survivors == frozenset()


def test_an_infinite_timeout_stop_waits_as_long_as_it_takes() -> None:
    stage = FakeStarted(Actor("leader"), allgone.StopPolicy(timeout_stop=math.inf))
    stage["leader"].takes = 1e9
    report = stage.stop()
    assert report.killed == ()
    assert stage.all_gone()


def test_who_ends_just_in_time_is_not_killed() -> None:
    stage = FakeStarted(Actor("leader"), allgone.StopPolicy(timeout_stop=3))
    stage["leader"].takes = 2.9
    assert stage.stop().killed == ()
    stage = FakeStarted(Actor("leader"), allgone.StopPolicy(timeout_stop=3))
    stage["leader"].takes = 3.1
    assert [p.pid for p in stage.stop().killed] == [stage["leader"].pid]


def test_a_member_that_appears_while_it_waits_is_killed_in_the_end() -> None:
    stage = FakeStarted(Actor("leader"), allgone.StopPolicy(timeout_stop=3))
    stage["leader"].takes = 1
    stage.world.after(0.5, lambda: stage.containment.add(deaf("late")))
    report = stage.stop()
    assert stage.all_gone()
    assert [p.pid for p in report.killed] == [stage.containment.everyone[-1].pid]


@pytest.fixture
def freezer() -> object:
    """A cgroup of the v1 freezer: what it has frozen outlives SIGKILL, as in uninterruptible sleep, until thawed."""
    folder = f"{FREEZER_V1}/allgone-test-{os.getpid()}"
    try:
        os.mkdir(folder)
    except OSError as e:
        missing(f"no freezer of cgroup v1 to make a process unkillable with: {e}")
    yield folder
    os.rmdir(folder)


def _write(path: str, text: str) -> None:
    with open(path, "w", encoding="ascii") as f:
        f.write(text)


@pytest.mark.parametrize("backend", BACKENDS, ids=lambda each: each.label)
def test_a_real_process_that_sigkill_does_not_end_is_named(
    backend: BackendUnderTest, freezer: str, cgroup_base: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader, writer = os.pipe()
    lines = Lines(reader)
    process = backend.Popen(
        ["sh", "-c", 'echo $$ > "$0/cgroup.procs"; echo ready; exec sleep 1000', freezer],
        stdout=writer, policy=AT_ONCE,
    )  # fmt: skip
    os.close(writer)
    try:
        lines.wait_for("ready")
        _write(freezer + "/freezer.state", "FROZEN")
        with monkeypatch.context() as patch:
            patch.setattr(stop_sequence, "KILL_TIMEOUT", 0.2)
            with pytest.raises(allgone.StopTimeout, match=str(process.pid)) as caught:
                process.stop()
        assert caught.value.survivors == {process.pid}
        assert process.report is None
        _write(freezer + "/freezer.state", "THAWED")
        assert process.stop().returncode == -signal.SIGKILL
    finally:
        _write(freezer + "/freezer.state", "THAWED")
        process.stop()
        lines.close()
    assert subprocess.run(["cat", freezer + "/cgroup.procs"], capture_output=True, check=True).stdout == b""
