"""Signals go to the process that was meant, held by a pidfd, or to nobody."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator

import pytest

from allgone._linux import pidfd
from allgone._linux.pidfd import Child, signal_if


@pytest.fixture
def stranger() -> Iterator[subprocess.Popen[bytes]]:
    """A process that nobody means to signal. The test fails if it has been, whatever the signal."""
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0) as process:
        yield process
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"alive\n")
        assert process.stdout.readline() == b"alive\n"


def spawn(*argv: str) -> int:
    return os.posix_spawnp(argv[0], argv, os.environ)


def reap(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_a_pid_that_is_no_longer_meant_is_not_signalled(stranger: subprocess.Popen[bytes]) -> None:
    asked = []
    assert not signal_if(stranger.pid, (signal.SIGKILL,), lambda pid: bool(asked.append(pid)))
    assert asked == [stranger.pid]


def test_a_pid_that_is_meant_is_signalled() -> None:
    pid = spawn("sleep", "1000")
    assert signal_if(pid, (signal.SIGTERM,), lambda _: True)
    assert reap(pid) == -signal.SIGTERM


def test_signals_are_sent_in_order_after_one_look() -> None:
    pid = spawn("sleep", "1000")
    os.kill(pid, signal.SIGSTOP)
    os.waitid(os.P_PID, pid, os.WSTOPPED)
    looks = []
    assert signal_if(pid, (signal.SIGUSR1, signal.SIGCONT), lambda pid: looks.append(pid) is None)
    assert reap(pid) == -signal.SIGUSR1
    assert looks == [pid]


def test_a_number_reused_between_the_look_and_the_signal_hits_nobody(
    stranger: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    # The process that was held has ended meanwhile, and its number is the stranger's: the signal goes to who was held.
    pid = spawn("true")
    monkeypatch.setattr(os, "pidfd_open", lambda _, open_=os.pidfd_open: open_(pid))
    assert not signal_if(stranger.pid, (signal.SIGKILL,), lambda _: reap(pid) == 0)


@pytest.mark.parametrize("number", [0, -1, -9, 1 << 30])
def test_what_is_no_process_number_is_not_signalled(number: int) -> None:
    assert not signal_if(number, (signal.SIGKILL,), lambda _: True)


def test_a_threads_number_is_not_a_processs() -> None:
    started, end = threading.Event(), threading.Event()
    thread = threading.Thread(target=lambda: (started.set(), end.wait()))
    thread.start()
    started.wait()
    try:
        assert thread.native_id != os.getpid()
        assert not signal_if(thread.native_id or 0, (signal.SIGKILL,), lambda _: True)
    finally:
        end.set()
        thread.join()


def test_a_child_that_somebody_else_has_reaped_is_not_signalled() -> None:
    child = Child(spawn("true"))
    reap(child.pid)
    child.send(signal.SIGKILL)
    assert child.has_ended()
    with pytest.raises(ChildProcessError):
        child.exit_status()


def test_a_number_that_is_a_strangers_by_now_is_not_signalled(
    stranger: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Somebody else reaps the child after we saw it alive, and its number is given to the stranger at once.
    child = Child(spawn("cat", "/dev/null"))

    def open_after_reuse(pid: int, open_: object = os.pidfd_open) -> int:
        assert pid == child.pid
        reap(pid)
        return open_(stranger.pid)  # type: ignore[no-any-return, operator]

    monkeypatch.setattr(Child, "has_ended", lambda _: False)
    monkeypatch.setattr(os, "pidfd_open", open_after_reuse)
    child.send(signal.SIGKILL)


def test_a_number_is_never_used_after_the_child_was_reaped(stranger: subprocess.Popen[bytes]) -> None:
    child = Child(spawn("true"))
    child.reap(block=True)
    child.pid = stranger.pid  # as if the kernel had given its number to another child of ours
    child.send(signal.SIGKILL)
    child.reap(block=True)
    assert not child.holds_its_number()
    with pytest.raises(ProcessLookupError):
        child.fileno()


def test_looking_does_not_reap() -> None:
    child = Child(spawn("sh", "-c", "exit 7"))
    assert child.exit_status(block=True) == 7
    assert child.exit_status() == 7
    assert child.holds_its_number()
    assert reap(child.pid) == 7


def test_an_end_by_a_signal_is_counted_as_subprocess_does() -> None:
    child = Child(spawn("sleep", "1000"))
    assert child.exit_status() is None
    child.send(signal.SIGKILL)
    assert child.exit_status(block=True) == -signal.SIGKILL
    assert child.exit_status() == -signal.SIGKILL
    child.reap()


def test_a_process_alive_at_the_end_of_the_interpreter_makes_no_noise() -> None:
    code = (
        "import allgone, sys\n"
        "p = allgone.Popen(['sleep', '1000'], backend='process-group')\n"
        "p._child.fileno()\n"
        "sys.modules['kept'] = p\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=30)
    assert (done.returncode, done.stderr) == (0, b"")


def at_once(first: Callable[[], object], second: Callable[[], object]) -> None:
    threads = [threading.Thread(target=each) for each in (first, second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_two_threads_that_need_the_pidfd_at_once_open_one(monkeypatch: pytest.MonkeyPatch) -> None:
    both = threading.Barrier(2)
    hold = pidfd.hold

    def held_up(pid: int) -> int:
        with contextlib.suppress(threading.BrokenBarrierError):  # the other one can't come: that is what is wanted
            both.wait(0.2)
        return hold(pid)

    monkeypatch.setattr(pidfd, "hold", held_up)
    child = Child(spawn("sleep", "1000"))
    at_once(child.fileno, child.fileno)  # the leak check of every test counts
    child.send(signal.SIGKILL)
    child.reap(block=True)


def test_the_pidfd_is_not_closed_by_another_thread_before_the_signal_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    child = Child(spawn("sleep", "1000"))
    seen = []
    send = signal.pidfd_send_signal

    def reaped_meanwhile(fd: int, signum: int) -> None:
        send(fd, signal.SIGKILL)
        thread = threading.Thread(target=child.reap, kwargs={"block": True})
        thread.start()
        thread.join(0.2)  # it can't end yet: that is what is wanted
        seen.append(os.readlink(f"/proc/self/fd/{fd}"))
        others.append(thread)
        send(fd, signum)

    others: list[threading.Thread] = []
    monkeypatch.setattr(signal, "pidfd_send_signal", reaped_meanwhile)
    child.send(signal.SIGTERM)
    others[0].join()
    assert seen == ["anon_inode:[pidfd]"]
    assert child.reaped
