"""wait, poll, members, and the four ways to send a signal."""

from __future__ import annotations

import os
import signal
import subprocess
import threading

import pytest
from support import procfs
from support.actors import Actor, deaf
from support.backends import BackendUnderTest
from support.programs import PATIENCE, Started, command
from support.supervisors import Supervisor, say

import allgone
from allgone._linux import subreaper

SOON = allgone.StopPolicy(timeout_stop=0.3)


def actors(backend: BackendUnderTest, actor: Actor) -> Started:
    return Started(backend.Popen, command("actors", actor.to_json()), policy=SOON)


TWO = Actor("leader", (Actor("worker"),))


def test_wait_returns_when_the_leader_has_ended_though_others_go_on(backend: BackendUnderTest) -> None:
    with actors(backend, Actor("leader", (Actor("worker"),), ends_first=True)) as started:
        assert started.process.wait() == started.process.wait() == started.process.poll() == 7
        assert started.process.members() == {started["worker"].pid}
        assert started["worker"].is_alive()


def test_wait_that_times_out_signals_nobody(backend: BackendUnderTest) -> None:
    with actors(backend, TWO) as started:
        for timeout in (0, 0.01):
            with pytest.raises(subprocess.TimeoutExpired):
                started.process.wait(timeout)
        assert started.process.poll() is None
        assert started.heard("leader") == started.heard("worker") == []


def test_members_are_the_leader_and_what_it_has_started(backend: BackendUnderTest) -> None:
    with actors(backend, Actor("leader", (Actor("worker", (Actor("child"),)),))) as started:
        assert started.process.members() == {started[role].pid for role in ("leader", "worker", "child")}
        started.process.stop()
        assert started.process.members() == frozenset()


def test_a_daemon_is_a_member_of_a_cgroup_and_an_escapee_of_a_process_group(backend: BackendUnderTest) -> None:
    with Started(backend.Popen, command("double_fork_daemon"), policy=SOON) as started:
        process, daemon = started.process, started["escaped"].pid
        assert process.pid in process.members()
        assert (daemon in process.members()) == backend.ends_daemons
        assert process.escapees() == (frozenset() if backend.name == "cgroup" else {daemon})
        assert process.guarantees.escape_proof == (backend.name == "cgroup")
        started["escaped"].end()


def test_terminate_reaches_every_member(backend: BackendUnderTest) -> None:
    with actors(backend, TWO) as started:
        started.process.terminate()
        assert started.lines.are_over(PATIENCE)
        assert started.heard("leader") == started.heard("worker") == ["SIGTERM"]
        assert started.process.wait() == 0


def test_kill_reaches_every_member(backend: BackendUnderTest) -> None:
    with actors(backend, deaf("leader", deaf("worker"))) as started:
        started.process.kill()
        assert started.lines.are_over(PATIENCE)
        assert started.process.wait() == -signal.SIGKILL


def test_kill_reaches_who_is_left_when_the_leader_has_ended(backend: BackendUnderTest) -> None:
    with actors(backend, Actor("leader", (deaf("worker"),), ends_first=True)) as started:
        assert started.process.wait() == 7
        started.process.kill()
        assert started.lines.are_over(PATIENCE)


def test_send_signal_reaches_the_leader_only(backend: BackendUnderTest) -> None:
    with actors(backend, TWO) as started:
        started.process.send_signal(signal.SIGUSR1)
        assert started.process.wait() == 0
        assert started["worker"].is_alive()
        assert started.heard("leader") == ["SIGUSR1"]
        assert started.heard("worker") == []


def test_signal_all_reaches_every_member_and_says_whom(backend: BackendUnderTest) -> None:
    with actors(backend, TWO) as started:
        reached = started.process.signal_all(signal.SIGUSR2)
        assert reached == {started["leader"].pid, started["worker"].pid}
        assert started.lines.are_over(PATIENCE)
        assert started.heard("leader") == started.heard("worker") == ["SIGUSR2"]


def test_signals_to_what_has_ended_reach_nobody_and_are_no_error(backend: BackendUnderTest) -> None:
    with backend.Popen(["true"]) as process:
        process.wait()
        process.terminate()
        process.kill()
        process.send_signal(signal.SIGTERM)
        assert process.signal_all(signal.SIGTERM) == frozenset()
    process.terminate()
    process.kill()
    process.send_signal(signal.SIGTERM)
    assert process.signal_all(signal.SIGTERM) == frozenset()
    assert process.returncode == 0


def test_the_containment_goes_when_poll_finds_nobody_left(backend: BackendUnderTest) -> None:
    process = backend.Popen(["true"])
    assert procfs.ends_within(process.pid, PATIENCE)
    assert process.poll() == 0
    assert not procfs.is_unreaped_child(process.pid)
    assert process._containment.gone


def test_the_containment_stays_while_somebody_is_left_and_is_stopped_later(backend: BackendUnderTest) -> None:
    with actors(backend, Actor("leader", (deaf("worker"),), ends_first=True)) as started:
        assert started.process.wait() == 7
        assert started.process.poll() == 7
        assert not started.process._containment.gone
        report = started.process.stop()
        assert started.all_gone()
        assert report.returncode == 7


def test_a_leader_that_somebody_else_has_reaped_is_as_the_standard_library_says(backend: BackendUnderTest) -> None:
    with Started(backend.Popen, command("leader_exits_first"), policy=SOON) as started:
        os.waitpid(started.process.pid, 0)
        assert started.process.wait() == 0  # it can't be known: subprocess says so as well
        started.process.stop()
        assert started.all_gone()


def sigchld_ignored(options: dict, args: list[str]) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with allgone.Popen(args, **options) as process:
        say("members", len(process.members()) > 0)
        process.stop()
        say("left", len(process.members()), process.returncode)
    say("run", allgone.run(["sh", "-c", "sleep 1000 & echo hi; exit 3"], capture_output=True, **options).stdout)


def test_with_sigchld_ignored_everything_is_stopped_all_the_same(backend: BackendUnderTest) -> None:
    with Supervisor(sigchld_ignored, backend, command("forking_server")) as supervisor:
        supervisor.succeeds()
        assert supervisor.lines.are_over()
        assert supervisor.lines.wait_for("left") == "left 0 0"
        assert supervisor.lines.wait_for("run") == r"run b'hi\n'"


def test_a_wait_in_another_thread_returns_when_it_is_stopped(backend: BackendUnderTest) -> None:
    codes: list[int] = []
    with backend.Popen(["sleep", "1000"]) as process:
        waits = threading.Thread(target=lambda: codes.append(process.wait()))
        waits.start()
        process.stop()
        waits.join(PATIENCE)
    assert codes == [-signal.SIGTERM]


def test_stops_from_several_threads_at_once_all_return(backend: BackendUnderTest) -> None:
    reports: list[allgone.Report] = []
    errors: list[BaseException] = []

    def stop() -> None:
        try:
            reports.append(started.process.stop())
        except BaseException as e:  # noqa: BLE001  # shown below, whatever it is
            errors.append(e)

    with actors(backend, deaf("leader", deaf("worker"))) as started:
        threads = [threading.Thread(target=stop) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
        assert errors == []
        assert len(reports) == 8
        assert started.all_gone()
        assert started.process.returncode == -signal.SIGKILL


def test_wait_from_several_threads_at_once_returns_the_same(
    backend: BackendUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    codes: list[int] = []
    released: list[int] = []
    release = subreaper.release
    monkeypatch.setattr(subreaper, "release", lambda: released.append(1) or release())
    with backend.Popen(["sh", "-c", "read x; exit 3"], stdin=allgone.PIPE) as process:
        threads = [threading.Thread(target=lambda: codes.append(process.wait())) for _ in range(8)]
        for thread in threads:
            thread.start()
        process.stdin.write(b"go\n")
        process.stdin.flush()
        for thread in threads:
            thread.join(PATIENCE)
    assert codes == [3] * 8
    assert released == [1] * backend.sweep  # what is held for the containment is let go of once
