"""Leaving a `with` block: what is waited for, what is stopped, and which exception arrives."""

from __future__ import annotations

import errno
import signal
import sys
import warnings
from typing import NoReturn

import pytest
from support import procfs
from support.backends import BackendUnderTest
from support.programs import Started, command

import allgone
from allgone._core import stop as stop_sequence

AT_ONCE = allgone.StopPolicy(timeout_stop=0)


def test_leaving_the_block_waits_for_the_leader_then_stops_the_rest(backend: BackendUnderTest) -> None:
    with backend.Popen(["sh", "-c", "sleep 1000 & echo $!; exec sleep 0.05"], stdout=allgone.PIPE) as process:
        child = int(process.stdout.readline())
    assert process.returncode == 0
    assert not procfs.is_alive(child)
    assert process.members() == frozenset()
    assert {p.pid for p in process.report.members} == {child}


def test_leaving_the_block_by_an_exception_does_not_wait_for_the_leader(backend: BackendUnderTest) -> None:
    with pytest.raises(ZeroDivisionError), backend.Popen(["sleep", "1000"]) as process:
        _ = 1 / 0
    assert process.returncode == -signal.SIGTERM


def test_leaving_the_block_reaps_the_leader(backend: BackendUnderTest) -> None:
    with backend.Popen(["true"]) as process:
        pass
    assert not procfs.is_unreaped_child(process.pid)


def test_leaving_the_block_closes_the_pipes(backend: BackendUnderTest) -> None:
    with backend.Popen(["cat"], stdin=allgone.PIPE, stdout=allgone.PIPE, stderr=allgone.PIPE) as process:
        pass
    assert process.stdin.closed
    assert process.stdout.closed
    assert process.stderr.closed


def test_a_stop_within_the_block_is_the_one_that_counts(backend: BackendUnderTest) -> None:
    with backend.Popen(["sleep", "1000"]) as process:
        report = process.stop()
    assert process.report is report


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt, SystemExit, GeneratorExit])
def test_the_exception_of_the_body_arrives(backend: BackendUnderTest, kind: type[BaseException]) -> None:
    error = kind("of the body")
    started = Started(backend.Popen, command("ignores_sigterm"), policy=AT_ONCE)
    with pytest.raises(kind) as caught, started, started.process:
        raise error
    assert caught.value is error
    assert started.process.members() == frozenset()


def _busy(*_: object) -> bool:
    return False


def test_a_stop_that_fails_is_noted_on_the_exception_of_the_body(
    backend: BackendUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = ValueError("of the body")
    process = backend.Popen(["sleep", "1000"], policy=AT_ONCE)
    try:
        with monkeypatch.context() as patch:
            patch.setattr(type(process._containment), "remove", _busy)
            patch.setattr(stop_sequence, "KILL_TIMEOUT", 0.05)
            with pytest.raises(ValueError, match="of the body") as caught, process:
                raise error
        assert caught.value is error
        if sys.version_info >= (3, 11):
            assert "StopTimeout" in "".join(error.__notes__)
        else:
            assert isinstance(error.__context__, allgone.StopTimeout)
    finally:
        process.stop()


def test_a_stop_that_fails_by_an_os_error_is_noted_on_the_exception_of_the_body(
    backend: BackendUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_more_fds(*_: object) -> NoReturn:
        raise OSError(errno.EMFILE, "Too many open files")

    process = backend.Popen(["sleep", "1000"], policy=AT_ONCE)
    try:
        with monkeypatch.context() as patch:
            patch.setattr(type(process._containment), "watch", no_more_fds)
            with pytest.raises(ValueError, match="of the body"), process:
                raise ValueError("of the body")
    finally:
        process.stop()


def test_a_warning_of_escapees_made_an_error_does_not_replace_the_exception_of_the_body() -> None:
    plain = BackendUnderTest("process-group", sweep=False)
    with Started(plain.Popen, command("setsid_child"), policy=AT_ONCE) as started, warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ValueError, match="of the body"), started.process:
            raise ValueError("of the body")
        assert not started["leader"].is_alive()


def test_a_warning_of_escapees_made_an_error_comes_after_the_stop_is_done() -> None:
    plain = BackendUnderTest("process-group", sweep=False)
    with Started(plain.Popen, command("setsid_child"), policy=AT_ONCE) as started:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with pytest.raises(allgone.EscapedProcessWarning):
                started.process.stop()
        assert not started["leader"].is_alive()
        assert started.process.returncode == -signal.SIGKILL
        assert started.process.report is not None
        assert [p.pid for p in started.process.report.escapees] == [started["escaped"].pid]


@pytest.mark.usefixtures("searchable_path")
def test_a_command_that_can_not_be_executed_leaves_nothing(backend: BackendUnderTest) -> None:
    with pytest.raises(FileNotFoundError, match="no-such-command") as caught:
        backend.Popen(["no-such-command"])
    assert caught.value.filename == "no-such-command"


def test_one_that_is_forgotten_while_it_runs_warns_as_the_standard_library_and_is_cleaned_up(
    backend: BackendUnderTest,
) -> None:
    process = backend.Popen(["cat"], stdin=allgone.PIPE)
    pid, stdin = process.pid, process.stdin
    with pytest.warns(ResourceWarning, match="still running"):
        del process
    stdin.close()
    assert procfs.ends_within(pid, 10)
    with backend.Popen(["true"]):  # the standard library looks after forgotten ones when another is made
        pass
    assert not procfs.is_unreaped_child(pid)
