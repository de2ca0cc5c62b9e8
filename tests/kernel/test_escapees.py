"""Traced descendants that left the containment: named, and ended where that is wanted. They are root, and can go anywhere."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from support import cgroups
from support.backends import BackendUnderTest
from support.programs import PROGRAMS, Started, command

import allgone
from allgone._process import escapees as module

LEFT_WITH_A_CHILD = "here('left')\nif not fork():\n    here('child')\n    ready()\nsleep_on()"
AT_ONCE = allgone.StopPolicy(timeout_stop=0)


@pytest.fixture
def elsewhere(cgroup_base: str) -> Iterator[str]:
    """A cgroup that is none of ours."""
    folder = f"{cgroup_base}/elsewhere"
    os.mkdir(folder)
    yield folder
    cgroups.remove_all(folder)


def leaver(folder: str, program: str = LEFT_WITH_A_CHILD) -> list[str]:
    """A command one of whose children moves itself to another cgroup, and what that does there."""
    code = f"""
import os, sys
sys.path.insert(0, {str(PROGRAMS)!r})
from unruly import *
if fork():
    sleep_on()
with open({folder + "/cgroup.procs"!r}, "w") as f:
    f.write("0")
{program}
"""
    return [sys.executable, "-S", "-B", "-c", code]


def of(report: allgone.Report, pid: int) -> allgone.Process:
    (found,) = [each for each in report.escapees if each.pid == pid]
    return found


def test_who_moved_to_another_cgroup_is_named_and_lives_on(elsewhere: str) -> None:
    with Started(allgone.Popen, leaver(elsewhere), trace=True, backend="cgroup") as started:
        pids = {started["left"].pid, started["child"].pid}
        assert started.process.escapees() == pids
        with pytest.warns(allgone.EscapedProcessWarning, match=f"left the cgroup: .*pid {started['left'].pid}"):
            report = started.stop()
        assert {each.pid for each in report.escapees} == pids
        assert of(report, started["left"].pid).how.startswith("in cgroup /")
        assert of(report, started["left"].pid).how.endswith("/elsewhere")
        assert "elsewhere" in str(report)
        assert started["left"].is_alive()
        assert started["child"].is_alive()
        assert report.genealogy is not None
        assert {life.ended for life in report.genealogy.lives if life.pid in pids} == {None}


def test_it_can_be_ignored_and_is_in_the_report_all_the_same(elsewhere: str) -> None:
    with Started(allgone.Popen, leaver(elsewhere), trace=True, backend="cgroup", escapees="ignore") as started:
        report = started.stop()  # without a warning, which would be an error
        assert len(report.escapees) == 2
        assert started["left"].is_alive()


def test_it_can_be_killed_with_all_that_it_started_there(elsewhere: str) -> None:
    with Started(allgone.Popen, leaver(elsewhere), trace=True, backend="cgroup", escapees="kill") as started:
        report = started.stop()
        assert started.all_gone()
        assert {each.pid for each in report.escapees} == {started["left"].pid, started["child"].pid}
        assert report.genealogy is not None
        assert all(life.ended is not None for life in report.genealogy.lives)
        ends = {life.pid: life.returncode for life in report.genealogy.lives}
        assert ends[started["left"].pid] == -signal.SIGKILL


def test_one_that_goes_on_as_another_process_all_the_time_is_ended(elsewhere: str) -> None:
    hop = "here('left'); ready()\nfor _ in range(20_000):\n    if fork():\n        os._exit(0)"
    with Started(allgone.Popen, leaver(elsewhere, hop), trace=True, backend="cgroup", escapees="kill") as started:
        report = started.stop(AT_ONCE)
        assert started.all_gone()
        assert report.genealogy is not None
        assert all(life.ended is not None for life in report.genealogy.lives)


def test_a_daemon_of_a_process_group_can_be_killed_too(backend: BackendUnderTest) -> None:
    options = {"trace": True, "escapees": "kill"}
    with Started(backend.Popen, command("double_fork_daemon"), **options) as started:
        report = started.stop()
        assert started.all_gone()
        escaped = {started["escaped"].pid} if backend.name == "process-group" else set()
        assert {each.pid for each in report.escapees} == escaped


def test_in_a_group_as_well(elsewhere: str) -> None:
    with allgone.Group(backend="cgroup") as group, Started(group.Popen, leaver(elsewhere), trace=True) as started:
        with pytest.warns(allgone.EscapedProcessWarning, match="left the cgroup"):
            report = group.stop()
        assert {each.pid for each in report.escapees} == {started["left"].pid, started["child"].pid}


def test_members_that_a_stop_left_running_have_not_escaped(backend: BackendUnderTest) -> None:
    policy = allgone.StopPolicy(kill_mode="process")
    with Started(backend.Popen, command("forking_server"), trace=True, policy=policy) as started:
        report = started.stop()
        assert report.escapees == ()
        assert report.left_running


def test_another_process_of_that_number_is_left_alone(elsewhere: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with Started(allgone.Popen, leaver(elsewhere), trace=True, backend="cgroup", escapees="kill") as started:
        traced = started.process._traced
        assert traced is not None
        assert traced._trace.is_descendant(started["left"].pid)
        tracer = traced._trace.tracer
        since_boot = tracer.since_boot  # as if it had started a second after the one that was told of
        monkeypatch.setattr(tracer, "since_boot", lambda at: since_boot(at) - 1)
        assert not traced._trace.is_descendant(started["left"].pid)
        report = started.stop()
        assert report.escapees == ()
        assert started["left"].is_alive()


def test_one_that_outlives_sigkill_is_no_success(elsewhere: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "pidfd", SimpleNamespace(signal_if=lambda *_: True, hold=module.pidfd.hold))
    monkeypatch.setattr(module, "KILL_TIMEOUT", 0.01)
    with Started(allgone.Popen, leaver(elsewhere), trace=True, backend="cgroup", escapees="kill") as started:
        with pytest.raises(allgone.StopTimeout, match="in spite of SIGKILL") as raised:
            started.stop()
        assert raised.value.survivors == {started["left"].pid, started["child"].pid}
        assert started.process.report is not None


@pytest.mark.parametrize("options", [{"escapees": "kill"}, {"escapees": "leave"}, {"escapees": "x", "trace": True}])
def test_what_makes_no_sense_is_an_error_and_nothing_is_started(options: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="escapees"):
        allgone.Popen(["touch", str(tmp_path / "touched")], **options)
    assert list(tmp_path.iterdir()) == []


def test_programs_that_ask_others_are_named(tmp_path: Path) -> None:
    for name in ("docker", "systemd-run"):
        (tmp_path / name).symlink_to(shutil.which("sleep") or "")
    script = f"{tmp_path}/docker 0.1; {tmp_path}/systemd-run 0.1; {tmp_path}/docker 0.1"
    report = allgone.run(["sh", "-c", script], trace=True).report
    assert report.genealogy is not None
    expected = (f"docker (pid {report.genealogy.lives[1].pid})", f"systemd-run (pid {report.genealogy.lives[2].pid})")
    assert report.may_have_started[:2] == expected
    assert f"others may have started something for it: {expected[0]}" in str(report)


def test_how_one_got_out_has_the_program_that_did_it(elsewhere: str, tmp_path: Path) -> None:
    (tmp_path / "su").symlink_to(sys.executable)
    code = leaver(elsewhere)[-1]
    with Started(
        allgone.Popen, [str(tmp_path / "su"), "-S", "-B", "-c", code], trace=True, backend="cgroup", escapees="kill"
    ) as started:
        assert of(started.stop(), started["left"].pid).how.endswith("/elsewhere by su")
