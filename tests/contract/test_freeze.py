"""freeze(), thaw(), frozen(): nobody runs meanwhile, and a stop is not held up; with process-group, Unsupported."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.backends import BackendUnderTest
from support.supervisors import Supervisor, say

import allgone

HEEDS = "import os, signal, sys\nsignal.signal(signal.SIGTERM, lambda *_: os._exit(7))\nprint('ready', flush=True)\n"
ECHOES = HEEDS + "for line in sys.stdin: print('heard', flush=True)"
COUNTS = """
import mmap, sys, os, time
file = open(sys.argv[1], 'r+b')
counters = mmap.mmap(file.fileno(), 4)
own = (os.fork() == 0) * 2 + (os.fork() == 0)
os.write(1, b'ready\\n')
end = time.monotonic() + 100
while time.monotonic() < end:
    counters[own] = (counters[own] + 1) % 256
"""


@pytest.fixture
def cgroup(cgroup_base: str) -> BackendUnderTest:
    return BackendUnderTest("cgroup", sweep=False)


@pytest.fixture
def process(cgroup: BackendUnderTest) -> Iterator[Any]:
    """One that answers to every line, while it runs."""
    with cgroup.Popen([sys.executable, "-c", ECHOES], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"ready\n"
        yield process
        process.stop(allgone.StopPolicy(timeout_stop=0))


def asked(process: Any) -> None:
    process.stdin.write(b"\n")
    process.stdin.flush()


def events(held: Any) -> str:
    with open(f"{held._containment.where()}/cgroup.events", encoding="ascii") as f:
        return f.read()


def test_frozen_when_it_returns_and_going_on_after_the_thaw(process: Any) -> None:
    process.freeze()
    assert "frozen 1" in events(process)
    asked(process)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.05)
    os.set_blocking(process.stdout.fileno(), False)
    assert process.stdout.read() is None
    os.set_blocking(process.stdout.fileno(), True)
    process.thaw()
    assert process.stdout.readline() == b"heard\n"


def test_every_member_stands_still_also_those_that_burn_cpu(cgroup: BackendUnderTest, tmp_path: Path) -> None:
    counters = tmp_path / "counters"
    counters.write_bytes(bytes(4))
    args = [sys.executable, "-c", COUNTS, str(counters)]
    with cgroup.Popen(args, stdout=subprocess.PIPE) as process:
        for _ in range(4):
            assert process.stdout.readline() == b"ready\n"
        for _ in range(5):
            with process.frozen():
                before = counters.read_bytes()
                with pytest.raises(subprocess.TimeoutExpired):
                    process.wait(0.02)
                assert counters.read_bytes() == before
        process.stop(allgone.StopPolicy(timeout_stop=0))


def test_freezing_and_thawing_twice_is_as_once(process: Any) -> None:
    process.thaw()
    process.freeze()
    process.freeze()
    assert "frozen 1" in events(process)
    process.thaw()
    process.thaw()
    asked(process)
    assert process.stdout.readline() == b"heard\n"


def test_a_block_in_a_block_and_one_after_freeze_leave_it_frozen(process: Any) -> None:
    with process.frozen():
        with process.frozen():
            pass
        assert "frozen 1" in events(process)
    asked(process)
    assert process.stdout.readline() == b"heard\n"
    process.freeze()
    with process.frozen():
        pass
    assert "frozen 1" in events(process)


def test_a_stop_of_what_is_frozen_is_a_stop_as_any(process: Any) -> None:
    with process.frozen():
        report = process.stop()
    assert report.returncode == 7
    assert report.killed == ()
    process.thaw()
    with pytest.raises(ValueError, match="has been stopped"):
        process.freeze()
    with pytest.raises(ValueError, match="has been stopped"), process.frozen():
        pass


def test_kill_reaches_what_is_frozen(process: Any) -> None:
    process.freeze()
    process.kill()
    assert process.wait() == -signal.SIGKILL


def test_a_frozen_block_left_by_an_exception_thaws(process: Any) -> None:
    with pytest.raises(ZeroDivisionError), process.frozen():
        _ = 1 / 0
    asked(process)
    assert process.stdout.readline() == b"heard\n"


def test_both_blocks_left_by_an_exception_leave_nothing(cgroup: BackendUnderTest) -> None:
    with pytest.raises(ZeroDivisionError), cgroup.Popen(["sleep", "1000"]) as process, process.frozen():
        _ = 1 / 0
    assert process.returncode == -signal.SIGTERM


def test_leaving_the_block_of_the_process_thaws_it(cgroup: BackendUnderTest) -> None:
    with cgroup.Popen(["cat"], stdin=subprocess.PIPE) as process:
        process.freeze()
    assert process.returncode == 0


def test_a_fixture_can_be_frozen_and_its_end_is_its_stop(cgroup: BackendUnderTest) -> None:
    args = [sys.executable, "-c", HEEDS + "signal.pause()"]
    with allgone.process_fixture(args, ready=allgone.log_line("ready"), **cgroup.options) as process:
        process.freeze()
    assert process.returncode == 7


def test_a_group_is_frozen_with_all_and_each_can_be_frozen_inside(cgroup: BackendUnderTest) -> None:
    with cgroup.group() as group:
        one, two = group.Popen(["sleep", "1000"]), group.Popen(["cat"], stdin=subprocess.PIPE)
        group.freeze()
        assert "frozen 1" in events(one)
        one.freeze()
        one.thaw()
        assert "frozen 1" in events(one)  # with its group
        one.freeze()
        group.thaw()
        assert "frozen 1" in events(one)  # by itself
        two.stdin.close()
        assert two.wait() == 0
        one.thaw()


def test_one_of_a_frozen_group_is_stopped_alone_though_it_can_not_heed_the_signal(cgroup: BackendUnderTest) -> None:
    with cgroup.group() as group:
        one = group.Popen([sys.executable, "-c", HEEDS + "signal.pause()"], stdout=subprocess.PIPE)
        assert one.stdout.readline() == b"ready\n"
        with group.frozen():
            assert one.stop(allgone.StopPolicy(timeout_stop=0.05)).returncode == -signal.SIGKILL


def test_nothing_is_started_in_a_frozen_group_for_it_would_not_run(cgroup: BackendUnderTest) -> None:
    with cgroup.group() as group:
        with group.frozen(), pytest.raises(ValueError, match="is frozen"):
            group.Popen(["true"])
        assert group.Popen(["true"]).wait() == 0
        group.freeze()
        with open(f"{group._containment.where()}/cgroup.freeze", "w", encoding="ascii") as f:
            f.write("0")  # as a person does with allgone top
        assert group.Popen(["true"]).wait() == 0


def test_an_empty_group_can_be_frozen(cgroup: BackendUnderTest) -> None:
    with cgroup.group() as group, group.frozen():
        assert "frozen 1" in events(group)


def test_a_process_group_cannot_be_frozen() -> None:
    with allgone.Popen(["sleep", "1000"], backend="process-group") as process:
        for attempt in (process.freeze, process.thaw, process.frozen().__enter__):
            with pytest.raises(allgone.Unsupported, match="is a process group; only what is in a cgroup can be frozen"):
                attempt()
        assert process.members() == {process.pid}
        process.stop()


@pytest.mark.parametrize(("timeout", "error"), [("1", TypeError), (True, TypeError), (-1, ValueError)])
def test_what_makes_no_sense_is_refused(process: Any, timeout: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="timeout must be"):
        process.freeze(timeout)
    assert "frozen 0" in events(process)


def test_too_late_is_an_error_and_all_go_on(process: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from allgone._linux.freezer import FreezeWatch

    monkeypatch.setattr(FreezeWatch, "frozen", lambda self: False)
    with pytest.raises(allgone.FreezeTimeout, match=r"was not frozen within 0.05 s, and goes on.*state D"):
        process.freeze(0.05)
    asked(process)
    assert process.stdout.readline() == b"heard\n"


def test_ctrl_c_while_it_is_frozen_thaws_it(process: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from allgone._linux.freezer import FreezeWatch

    def interrupted(self: FreezeWatch) -> bool:
        raise KeyboardInterrupt

    monkeypatch.setattr(FreezeWatch, "frozen", interrupted)
    with pytest.raises(KeyboardInterrupt):
        process.freeze()
    asked(process)
    assert process.stdout.readline() == b"heard\n"


def test_before_linux_5_2_it_is_unsupported(process: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from allgone._linux import freezer

    write = freezer.write

    def old(path: str, text: bytes) -> None:
        if path.endswith("/cgroup.freeze"):
            raise FileNotFoundError(2, "No such file or directory", path)
        write(path, text)

    monkeypatch.setattr(freezer, "write", old)
    with pytest.raises(allgone.Unsupported, match=r"Linux 5\.2"):
        process.freeze()


def in_a_fork(what: Callable[[], object]) -> int:
    """The exit status of a fork of this process that does it: 3 for `WrongProcess`."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            what()
            status = 0
        except allgone.WrongProcess:
            status = 3
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_a_fork_may_neither_freeze_nor_thaw_and_leaves_the_block_as_if_nothing_were(process: Any) -> None:
    block = process.frozen()
    with block:
        assert in_a_fork(process.thaw) == in_a_fork(process.freeze) == 3
        assert in_a_fork(lambda: block.__exit__(None, None, None)) == 0
        assert "frozen 1" in events(process)


def frozen_for_ever(options: dict) -> None:
    process = allgone.Popen(["sleep", "1000"], **options)
    process.freeze()
    say("leader", process.pid)
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_supervisor_that_is_killed_leaves_nothing_frozen_behind(cgroup: BackendUnderTest) -> None:
    with Supervisor(frozen_for_ever, cgroup) as supervisor:
        assert supervisor.lines.wait_for("leader")
        assert supervisor.lines.are_over(within=30)


def ends_with_it_frozen(options: dict) -> None:
    allgone.Popen(["sleep", "1000"], **options).freeze()


def test_what_is_frozen_at_exit_is_stopped(cgroup: BackendUnderTest) -> None:
    with Supervisor(ends_with_it_frozen, cgroup) as supervisor:
        supervisor.succeeds()
        assert supervisor.lines.are_over(within=30)
