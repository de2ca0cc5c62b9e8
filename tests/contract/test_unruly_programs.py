"""Whatever the program does, nothing of it is left when its stop returns; where that can't be had, it is reported."""

from __future__ import annotations

import platform
import signal
from pathlib import Path

import pytest
from support.backends import BackendUnderTest
from support.programs import PATIENCE, Started, command

import allgone

SOON = allgone.StopPolicy(timeout_stop=0.3)
AT_ONCE = allgone.StopPolicy(timeout_stop=0)


@pytest.mark.parametrize(
    "program",
    ["ignores_sigterm", "forking_server", "own_process_group", "leader_exits_first", "stops_itself", "respawns"],
)
def test_nothing_is_left_of_a_program_that_keeps_its_session(backend: BackendUnderTest, program: str) -> None:
    with Started(backend.Popen, command(program), policy=SOON) as started:
        assert not started.all_gone()
        report = started.process.stop()
        assert started.all_gone()
        assert report.escapees == ()
        assert started.process.members() == frozenset()


@pytest.mark.parametrize(
    "program",
    ["setsid_child", "double_fork_daemon", "daemon_whose_parent_exits_first", "wipes_its_traces"],
)
def test_a_daemon_is_stopped_or_else_reported_by_pid_and_name(backend: BackendUnderTest, program: str) -> None:
    with Started(backend.Popen, command(program), policy=SOON) as started:
        escaped = started["escaped"]
        if backend.ends_daemons:
            started.process.stop()
            assert started.all_gone()
            return
        with pytest.warns(allgone.EscapedProcessWarning, match=rf"\(pid {escaped.pid}\)"):
            report = started.process.stop()
        assert escaped.is_alive()
        (who,) = report.escapees
        assert who.pid == escaped.pid
        assert who.name == ("kworker/u8:3" if program == "wipes_its_traces" else "python")
        assert all(not started[role].is_alive() for role in started.roles - {"escaped"})


def test_a_hopper_within_its_session_is_not_outrun(backend: BackendUnderTest) -> None:
    with Started(backend.Popen, command("hopper"), policy=SOON) as started:
        report = started.process.stop()
        assert started.all_gone()
        assert signal.SIGKILL in {sent.signum for sent in report.sent}


def test_a_hopper_that_makes_a_session_at_each_hop_is_not_outrun_or_else_reported(
    backend: BackendUnderTest, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    leash = tmp_path / "leash"
    leash.touch()
    request.addfinalizer(lambda: leash.unlink(missing_ok=True))
    with Started(backend.Popen, command("hopper", "setsid", str(leash)), policy=SOON) as started:
        if backend.ends_daemons:
            started.process.stop()
            assert started.all_gone()
            return
        with pytest.warns(allgone.EscapedProcessWarning, match=r"python \(pid \d+\)"):
            report = started.process.stop()
        assert report.escapees
        assert not started["leader"].is_alive()
        assert not started.all_gone()
        leash.unlink()
        assert started.lines.are_over(PATIENCE)


@pytest.mark.parametrize("policy", [AT_ONCE, SOON], ids=["at once", "after asking"])
def test_a_fork_bomb_is_not_outrun(backend: BackendUnderTest, policy: allgone.StopPolicy) -> None:
    with Started(backend.Popen, command("fork_bomb"), policy=policy) as started:
        started.process.stop()
        assert started.all_gone()


def test_a_process_whose_main_thread_has_ended_is_killed(backend: BackendUnderTest) -> None:
    with Started(backend.Popen, command("zombie_leader"), policy=AT_ONCE) as started:
        assert started["leader"].is_alive()
        assert started.process.poll() is None
        assert started.process.pid in started.process.members()
        started.process.stop()
        assert started.all_gone()
        # Linux 5.10 tells what its main thread, which had ended long before, had ended with.
        is_old = tuple(map(int, platform.release().split(".")[:2])) < (5, 11)
        assert started.process.returncode == (0 if is_old else -signal.SIGKILL)


def test_a_flood_of_output_that_nobody_reads_does_not_hold_up_the_stop(backend: BackendUnderTest) -> None:
    with Started(backend.Popen, command("floods"), policy=SOON, stderr=allgone.STDOUT) as started:
        report = started.process.stop()
        assert report.killed == ()
        assert started.all_gone()
