"""The stop sequence: systemd's KillMode=, SendSIGHUP=, TimeoutStopSec=, FinalKillSignal= (systemd.kill(5))."""

from __future__ import annotations

import signal

import pytest
from support.actors import HEARD, Actor, deaf
from support.rigs import RIGS, Rig

import allgone

PATIENT = allgone.StopPolicy(timeout_stop=20)
BRIEF = 0.4
SHORT = allgone.StopPolicy(timeout_stop=BRIEF)


def signals(report: allgone.Report) -> list[int]:
    return [sent.signum for sent in report.sent]


def pids(processes: tuple[allgone.Process, ...]) -> set[int]:
    return {process.pid for process in processes}


def killed_after(report: allgone.Report) -> float:
    return next(sent.after for sent in report.sent if sent.signum == signal.SIGKILL)


def test_control_group_asks_everyone_and_kills_nobody_who_heeds(rig: Rig) -> None:
    with rig.start(Actor("leader", (Actor("worker", (Actor("worker's child"),)),)), PATIENT) as stage:
        report = stage.stop()
        assert stage.all_gone()
        assert {role: stage.heard(role) for role in ("leader", "worker", "worker's child")} == {
            "leader": ["SIGTERM"],
            "worker": ["SIGTERM"],
            "worker's child": ["SIGTERM"],
        }
        assert report.killed == ()
        assert signals(report) == [signal.SIGTERM, signal.SIGCONT]
        assert report.returncode == 0


def test_mixed_asks_the_leader_only_and_kills_the_rest_when_it_has_ended(rig: Rig) -> None:
    with rig.start(Actor("leader", (Actor("worker"),)), allgone.StopPolicy("mixed", timeout_stop=20)) as stage:
        report = stage.stop()
        assert stage.all_gone()
        assert stage.heard("leader") == ["SIGTERM"]
        assert stage.heard("worker") == []
        assert pids(report.killed) == {stage["worker"].pid}
        assert killed_after(report) < 15


def test_mixed_kills_a_leader_that_does_not_heed_and_the_rest_when_time_is_up(rig: Rig) -> None:
    policy = allgone.StopPolicy("mixed", timeout_stop=BRIEF)
    with rig.start(deaf("leader", Actor("worker")), policy) as stage:
        report = stage.stop()
        assert stage.all_gone()
        assert stage.heard("worker") == []
        assert pids(report.killed) == {stage["leader"].pid, stage["worker"].pid}
        assert killed_after(report) >= BRIEF


def test_process_stops_the_leader_and_leaves_the_rest_running_and_named(rig: Rig) -> None:
    policy = allgone.StopPolicy("process", timeout_stop=20)
    with rig.start(Actor("leader", (Actor("worker"),)), policy) as stage:
        report = stage.stop()
        assert not stage["leader"].is_alive()
        assert stage["worker"].is_alive()
        assert stage.heard("worker") == []
        assert pids(report.left_running) == {stage["worker"].pid}
        assert report.killed == ()


def test_process_kills_a_leader_that_does_not_heed_and_nobody_else(rig: Rig) -> None:
    policy = allgone.StopPolicy("process", timeout_stop=BRIEF)
    with rig.start(deaf("leader", Actor("worker")), policy) as stage:
        report = stage.stop()
        assert not stage["leader"].is_alive()
        assert stage["worker"].is_alive()
        assert stage.heard("worker") == []
        assert pids(report.killed) == {stage["leader"].pid}
        assert killed_after(report) >= BRIEF


def test_what_process_left_running_is_ended_by_a_second_stop_with_another_mode(rig: Rig) -> None:
    with rig.start(Actor("leader", (Actor("worker"),)), allgone.StopPolicy("process", timeout_stop=20)) as stage:
        stage.stop()
        assert stage["worker"].is_alive()
        report = stage.stop(PATIENT)
        assert stage.all_gone()
        assert stage.heard("worker") == ["SIGTERM"]
        assert report.left_running == ()
        assert report.returncode == 0


def test_process_with_nothing_left_behind_removes_the_containment(rig: Rig) -> None:
    with rig.start(Actor("leader"), allgone.StopPolicy("process", timeout_stop=20)) as stage:
        report = stage.stop()
        assert report.left_running == ()
        assert stage.all_gone()


def test_send_sighup_sends_it_right_after_the_kill_signal(rig: Rig) -> None:
    policy = allgone.StopPolicy(send_sighup=True, timeout_stop=BRIEF)
    with rig.start(deaf("leader", deaf("worker")), policy) as stage:
        report = stage.stop()
        assert sorted(stage.heard("leader")) == sorted(stage.heard("worker")) == ["SIGHUP", "SIGTERM"]
        assert signals(report) == [signal.SIGTERM, signal.SIGHUP, signal.SIGCONT, signal.SIGKILL]


def test_send_sighup_adds_nothing_where_sighup_is_the_kill_signal(rig: Rig) -> None:
    policy = allgone.StopPolicy(kill_signal=signal.SIGHUP, send_sighup=True, timeout_stop=20)
    with rig.start(Actor("leader"), policy) as stage:
        assert signals(stage.stop()) == [signal.SIGHUP, signal.SIGCONT]


def test_without_send_sighup_there_is_none(rig: Rig) -> None:
    with rig.start(deaf("leader"), SHORT) as stage:
        stage.stop()
        assert stage.heard("leader") == ["SIGTERM"]


def test_kill_signal_is_the_one_that_is_sent(rig: Rig) -> None:
    policy = allgone.StopPolicy(kill_signal=signal.SIGUSR1, timeout_stop=20)
    with rig.start(Actor("leader", (Actor("worker"),)), policy) as stage:
        stage.stop()
        assert stage.heard("leader") == stage.heard("worker") == ["SIGUSR1"]


def test_who_ignores_sigterm_is_killed_after_timeout_stop_and_not_before(rig: Rig) -> None:
    with rig.start(deaf("leader", deaf("worker"), Actor("heeds")), SHORT) as stage:
        report = stage.stop()
        assert stage.all_gone()
        assert BRIEF <= killed_after(report) < BRIEF + 5
        assert pids(report.killed) == {stage["leader"].pid, stage["worker"].pid}
        assert signals(report) == [signal.SIGTERM, signal.SIGCONT, signal.SIGKILL]


def test_timeout_stop_0_kills_at_once_without_asking(rig: Rig) -> None:
    with rig.start(Actor("leader", (Actor("worker"),)), allgone.StopPolicy(timeout_stop=0)) as stage:
        report = stage.stop()
        assert stage.all_gone()
        assert stage.heard("leader") == stage.heard("worker") == []
        assert signals(report) == [signal.SIGKILL]
        assert report.returncode == -signal.SIGKILL


def test_final_kill_signal_comes_after_timeout_stop_instead_of_sigkill(rig: Rig) -> None:
    policy = allgone.StopPolicy(timeout_stop=BRIEF, final_kill_signal=signal.SIGUSR2)
    with rig.start(Actor("leader", ignores=(signal.SIGTERM,)), policy) as stage:
        report = stage.stop()
        assert stage.heard("leader") == ["SIGTERM", "SIGUSR2"]
        assert signals(report) == [signal.SIGTERM, signal.SIGCONT, signal.SIGUSR2, signal.SIGCONT]
        assert report.sent[2].after >= BRIEF
        assert pids(report.killed) == {stage["leader"].pid}


def test_whom_final_kill_signal_does_not_end_sigkill_ends_another_timeout_stop_later(rig: Rig) -> None:
    policy = allgone.StopPolicy(timeout_stop=BRIEF, final_kill_signal=signal.SIGUSR2)
    with rig.start(deaf("leader"), policy) as stage:
        report = stage.stop()
        assert stage.all_gone()
        assert stage.heard("leader") == ["SIGTERM", "SIGUSR2"]
        assert killed_after(report) >= 2 * BRIEF


def test_mixed_sends_final_kill_signal_to_the_rest_when_the_leader_has_ended(rig: Rig) -> None:
    policy = allgone.StopPolicy("mixed", timeout_stop=20, final_kill_signal=signal.SIGUSR2)
    with rig.start(Actor("leader", (Actor("worker"),)), policy) as stage:
        report = stage.stop()
        assert stage.all_gone()
        assert stage.heard("leader") == ["SIGTERM"]
        assert stage.heard("worker") == ["SIGUSR2"]
        assert signals(report) == [signal.SIGTERM, signal.SIGCONT, signal.SIGUSR2, signal.SIGCONT]


def test_mixed_gives_the_rest_their_time_when_final_kill_signal_ends_the_leader(rig: Rig) -> None:
    policy = allgone.StopPolicy("mixed", timeout_stop=BRIEF, final_kill_signal=signal.SIGUSR2)
    with rig.start(Actor("leader", (deaf("worker"),), ignores=(signal.SIGTERM,)), policy) as stage:
        report = stage.stop()
        assert stage.heard("leader") == ["SIGTERM", "SIGUSR2"]
        assert stage.heard("worker") == ["SIGUSR2"]
        assert killed_after(report) >= 2 * BRIEF


@pytest.mark.parametrize("who", ["leader", "worker"])
def test_a_stopped_member_is_continued_so_that_it_can_act_on_the_signal(rig: Rig, who: str) -> None:
    worker = Actor("worker", stopped=who == "worker")
    with rig.start(Actor("leader", (worker,), stopped=who == "leader"), PATIENT) as stage:
        report = stage.stop()
        assert stage.all_gone()
        assert stage.heard(who) == ["SIGTERM"]
        assert report.killed == ()


def test_a_stopped_leader_is_continued_by_mixed(rig: Rig) -> None:
    with rig.start(Actor("leader", stopped=True), allgone.StopPolicy("mixed", timeout_stop=20)) as stage:
        report = stage.stop()
        assert stage.heard("leader") == ["SIGTERM"]
        assert report.killed == ()


def test_a_stopped_member_that_is_not_asked_is_killed(rig: Rig) -> None:
    worker = Actor("worker", stopped=True)
    with rig.start(Actor("leader", (worker,)), allgone.StopPolicy(timeout_stop=0)) as stage:
        stage.stop()
        assert stage.all_gone()


@pytest.mark.parametrize("policy", [PATIENT, allgone.StopPolicy("mixed", timeout_stop=20)], ids=lambda p: p.kill_mode)
@pytest.mark.parametrize("rig", [each for each in RIGS if each.freezes], ids=lambda each: each.label, indirect=True)
def test_what_was_frozen_is_thawed_so_that_it_can_act_on_the_signal(rig: Rig, policy: allgone.StopPolicy) -> None:
    with rig.start(Actor("leader", (Actor("worker"),)), policy) as stage:
        rig.freeze(stage)
        report = stage.stop()
        assert stage.all_gone()
        assert stage.heard("leader") == ["SIGTERM"]
        assert report.returncode == 0


def test_a_leader_that_ended_before_keeps_its_own_status_and_the_rest_is_stopped(rig: Rig) -> None:
    with rig.start(Actor("leader", (Actor("worker"),), ends_first=True), PATIENT) as stage:
        report = stage.stop()
        assert stage.all_gone()
        assert stage.heard("worker") == ["SIGTERM"]
        assert report.returncode == 7
        assert report.killed == ()


@pytest.mark.parametrize("kill_mode", ["mixed", "process"])
def test_a_leader_that_ended_before_is_not_waited_for(rig: Rig, kill_mode: str) -> None:
    policy = allgone.StopPolicy(kill_mode, timeout_stop=20)
    with rig.start(Actor("leader", (deaf("worker"),), ends_first=True), policy) as stage:
        report = stage.stop()
        assert stage["worker"].is_alive() == (kill_mode == "process")
        assert stage.heard("worker") == []
        assert report.returncode == 7


def test_a_second_stop_does_nothing_and_returns_the_first_report(rig: Rig) -> None:
    with rig.start(Actor("leader"), PATIENT) as stage:
        assert stage.stop() is stage.stop(SHORT)


def test_the_report_lists_who_was_alive_when_the_stop_began(rig: Rig) -> None:
    with rig.start(Actor("leader", (Actor("worker"),)), PATIENT) as stage:
        report = stage.stop()
        assert pids(report.members) == {stage["leader"].pid, stage["worker"].pid}
        assert report.sent[0].pids == tuple(sorted(pids(report.members)))


def test_what_forks_while_it_is_being_killed_is_not_outrun(rig: Rig) -> None:
    with rig.start_bomb(allgone.StopPolicy(timeout_stop=0)) as stage:
        stage.stop()
        assert stage.all_gone()


def test_everyone_ignoring_everything_is_gone_after_the_stop(rig: Rig) -> None:
    tree = Actor("leader", tuple(deaf(f"worker{n}") for n in range(3)), ignores=HEARD, stopped=True)
    with rig.start(tree, SHORT) as stage:
        stage.stop()
        assert stage.all_gone()
