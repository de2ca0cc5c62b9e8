"""group(): several processes in one containment."""

from __future__ import annotations

import os
import signal

import pytest
from support import procfs
from support.backends import BackendUnderTest
from support.programs import Lines, command

import allgone

SOON = allgone.StopPolicy(timeout_stop=0.3)


@pytest.fixture
def pipe() -> object:
    """(what is written to the pipe as lines, its write end)."""
    reader, writer = os.pipe()
    lines = Lines(reader)
    yield lines, writer
    os.close(writer)
    lines.close()


Pipe = tuple[Lines, int]


def test_all_processes_of_a_group_and_what_they_started_are_stopped_together(
    backend: BackendUnderTest, pipe: Pipe
) -> None:
    lines, writer = pipe
    with backend.group(policy=SOON) as group:
        one = group.Popen(command("forking_server"), stdout=writer)
        lines.wait_for("ready")
        two = group.Popen(["sh", "-c", "sleep 1000 & echo two $$; exec sleep 1000"], stdout=writer)
        lines.wait_for("two")
        assert {one.pid, two.pid} < group.members() == one.members() | two.members()
        assert len(one.members()) == 5
    assert group.members() == frozenset()
    assert one.returncode == two.returncode == -signal.SIGTERM
    assert {one.pid, two.pid} < {p.pid for p in group.report.members}


def test_one_process_of_a_group_can_be_stopped_alone(backend: BackendUnderTest) -> None:
    with backend.group() as group:
        one, two = group.Popen(["sleep", "1000"]), group.Popen(["sleep", "1000"])
        one.stop()
        assert group.members() == {two.pid}
        assert two.poll() is None
    assert one.returncode == two.returncode == -signal.SIGTERM


def test_a_group_outlives_its_first_process(backend: BackendUnderTest) -> None:
    with backend.group() as group:
        with group.Popen(["true"]) as one:
            pass
        assert one.returncode == 0
        two = group.Popen(["sleep", "1000"])
        assert group.members() == {two.pid}
    assert not procfs.is_alive(two.pid)


def test_daemons_of_a_group_are_stopped_or_else_reported(backend: BackendUnderTest, pipe: Pipe) -> None:
    lines, writer = pipe
    group = backend.group(policy=SOON)
    group.Popen(command("double_fork_daemon"), stdout=writer)
    daemon = int(lines.wait_for("escaped").split()[1])
    lines.wait_for("ready")
    if backend.ends_daemons:
        group.stop()
        assert not procfs.is_alive(daemon)
        return
    with pytest.warns(allgone.EscapedProcessWarning, match=rf"\(pid {daemon}\)"):
        report = group.stop()
    assert [p.pid for p in report.escapees] == [daemon]
    procfs.end(daemon)


def test_signal_all_reaches_every_process_of_the_group(backend: BackendUnderTest) -> None:
    with backend.group() as group:
        one, two = group.Popen(["sleep", "1000"]), group.Popen(["sleep", "1000"])
        assert group.signal_all(signal.SIGINT) == {one.pid, two.pid}
        assert one.wait() == two.wait() == -signal.SIGINT


def test_a_group_can_be_left_by_an_exception(backend: BackendUnderTest) -> None:
    group = backend.group()
    process = group.Popen(["sleep", "1000"])
    with pytest.raises(ZeroDivisionError), group:
        _ = 1 / 0
    assert process.returncode == -signal.SIGTERM


def test_an_empty_group_can_be_stopped(backend: BackendUnderTest) -> None:
    with backend.group() as group:
        assert group.members() == frozenset()
    assert group.report.members == ()


def test_a_group_that_was_stopped_starts_nothing(backend: BackendUnderTest) -> None:
    with backend.group() as group:
        pass
    with pytest.raises(ValueError, match="stopped"):
        group.Popen(["true"])


def test_a_second_stop_of_a_group_returns_the_first_report(backend: BackendUnderTest) -> None:
    group = backend.group()
    group.Popen(["sleep", "1000"])
    assert group.stop() is group.stop()


@pytest.mark.usefixtures("searchable_path")
def test_a_command_that_can_not_be_executed_leaves_the_group_as_it_was(backend: BackendUnderTest) -> None:
    with backend.group() as group:
        with pytest.raises(FileNotFoundError):
            group.Popen(["no-such-command"])
        assert group.members() == frozenset()
        process = group.Popen(["sleep", "1000"])
        assert group.members() == {process.pid}


def test_names_within_a_group_are_taken_once(backend: BackendUnderTest) -> None:
    with backend.group(name="servers") as group:
        one = group.Popen(["sleep", "1000"], name="redis")
        assert (group.name, one.name) == ("servers", "redis")
        with pytest.raises(ValueError, match="redis"):
            group.Popen(["true"], name="redis")


def test_a_process_of_a_group_has_the_backend_of_the_group(backend: BackendUnderTest) -> None:
    with backend.group() as group:
        assert group.Popen(["sleep", "1000"]).backend == group.backend == backend.name
        with pytest.raises(TypeError, match="backend"):
            group.Popen(["true"], backend="auto")


def test_a_process_of_a_group_that_ended_before_keeps_its_status(backend: BackendUnderTest) -> None:
    with backend.group() as group:
        process = group.Popen(["sh", "-c", "exit 5"])
        assert procfs.ends_within(process.pid, 30)
    assert process.returncode == 5
    assert not procfs.is_unreaped_child(process.pid)
