"""A supervisor's life, disturbed at its Nth system call (ptrace(2)), and what must be left of it then: nothing.

Each system call has two stops, at its entry and at its exit. What the traced process starts is not traced.
"""

from __future__ import annotations

import ctypes
import importlib
import os
import platform
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import allgone
from allgone._process import driver
from support import procfs
from support.backends import BackendUnderTest
from support.programs import Lines

PATIENCE = 20.0  # seconds: what takes a tenth of one, on a machine that does a hundred other things

_TRACEME, _CONT, _GETREGS, _SETREGS, _DETACH, _SYSCALL = 0, 7, 12, 13, 17, 24
_SETOPTIONS, _SEIZE, _INTERRUPT = 0x4200, 0x4206, 0x4207
_SYSGOOD, _FORKS, _EXECS, _EXITKILL = 1, 2 | 4 | 8, 16, 1 << 20
_EVENT_EXEC = 4
_WALL = 0x40000000
_RDI, _RAX, _ORIG_RAX = 14, 10, 15  # in user_regs_struct of x86_64, counted in 8 bytes
CAN_FAIL_CALLS = platform.machine() == "x86_64"

_ptrace = ctypes.CDLL(None, use_errno=True).ptrace
_ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
_ptrace.restype = ctypes.c_long


def _trace(request: int, pid: int, data: object = None) -> None:
    if _ptrace(request, pid, None, data) < 0:
        raise OSError(ctypes.get_errno(), f"ptrace({request})")


@contextmanager
def bounded(seconds: float) -> Iterator[None]:
    """TimeoutError in the block after so long: a stop of a traced process has no fd to wait on."""

    def too_long(signum: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"it hangs: nothing happened for {seconds} s")

    before = signal.signal(signal.SIGALRM, too_long)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


class Traced:
    """A forked child that runs `function`, from one system call to the next."""

    def __init__(self, function: Callable[[], int]) -> None:
        self.status: int | None = None  # as from waitpid(2), once it has ended
        self._is_inside = False  # a system call
        self.pid = os.fork()
        if self.pid == 0:
            try:
                _trace(_TRACEME, 0)
                os.kill(os.getpid(), signal.SIGSTOP)
                os._exit(function())
            finally:
                os._exit(99)
        os.waitpid(self.pid, os.WUNTRACED)
        _trace(_SETOPTIONS, self.pid, _SYSGOOD | _EXITKILL)

    def to_next_stop(self) -> bool:
        """Let it run to the next entry or exit of a system call; False if it has ended instead."""
        deliver = 0
        while True:
            _trace(_SYSCALL, self.pid, deliver)
            _, status = os.waitpid(self.pid, 0)
            if not os.WIFSTOPPED(status):
                self.status = status
                return False
            if os.WSTOPSIG(status) == signal.SIGTRAP | 0x80:
                self._is_inside = not self._is_inside
                return True
            deliver = os.WSTOPSIG(status)

    def to_next_call(self) -> tuple[int, int] | None:
        """Let it run to the next entry: the number of the system call and its first argument; None if it has ended."""
        if not self.to_next_stop() or (not self._is_inside and not self.to_next_stop()):
            return None
        registers = self._registers()
        return int(registers[_ORIG_RAX]), int(registers[_RDI])

    def fail_this_call(self, errno: int) -> None:
        """At its entry: don't do it, return an error."""
        registers = self._registers()
        registers[_ORIG_RAX] = ctypes.c_ulonglong(-1).value
        _trace(_SETREGS, self.pid, ctypes.cast(registers, ctypes.c_void_p))
        if self.to_next_stop():
            registers = self._registers()
            registers[_RAX] = ctypes.c_ulonglong(-errno).value
            _trace(_SETREGS, self.pid, ctypes.cast(registers, ctypes.c_void_p))

    def _registers(self) -> ctypes.Array[ctypes.c_ulonglong]:
        registers = (ctypes.c_ulonglong * 27)()
        _trace(_GETREGS, self.pid, ctypes.cast(registers, ctypes.c_void_p))
        return registers

    def let_go(self, seconds: float) -> int:
        """Let it run to its end untraced; what os.waitstatus_to_exitcode() makes of that. TimeoutError if it hangs."""
        _trace(_DETACH, self.pid)
        if not procfs.ends_within(self.pid, seconds):
            raise TimeoutError(f"it hangs: it did not end within {seconds} s; {procfs.describe(self.pid)}")
        _, self.status = os.waitpid(self.pid, 0)
        return os.waitstatus_to_exitcode(self.status)

    def kill(self) -> None:
        if self.status is None:
            os.kill(self.pid, signal.SIGKILL)  # a child of ours, not reaped
            _, self.status = os.waitpid(self.pid, 0)


def warm_up(function: Callable[[], int]) -> None:
    """Import what it imports: an import that fails is a story of its own, not ours."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            status = function()
            os.write(writer, " ".join(sys.modules).encode())
            os._exit(status)
        finally:
            os._exit(99)
    os.close(writer)
    with open(reader, encoding="ascii") as f:
        names = f.read().split()
    _, status = os.waitpid(pid, 0)
    assert status == 0
    for name in names:
        if name not in sys.modules:
            importlib.import_module(name)


def killed_at(function: Callable[[], int], stop: int) -> bool:
    """Run it up to its `stop`th stop and kill it there; False if it ended before."""
    traced = Traced(function)
    try:
        with bounded(2 * PATIENCE):
            return all(traced.to_next_stop() for _ in range(stop))
    finally:
        traced.kill()


def stops_of(function: Callable[[], int]) -> int:
    """How many stops it has when nothing is done to it."""
    traced = Traced(function)
    count = 0
    try:
        with bounded(6 * PATIENCE):
            while traced.to_next_stop():
                count += 1
    finally:
        traced.kill()
    assert traced.status == 0
    return count


def calls_of(function: Callable[[], int]) -> list[tuple[int, int]]:
    """Its system calls, when nothing is done to it: their numbers and first arguments."""
    traced = Traced(function)
    found = []
    try:
        with bounded(6 * PATIENCE):
            while (call := traced.to_next_call()) is not None:
                found.append(call)
    finally:
        traced.kill()
    assert traced.status == 0
    return found


def failed_at(
    function: Callable[[], int], number: int, choose: Callable[[int, int], int | None]
) -> tuple[int, int, int] | None:
    """Run it, and have its `number`th system call, or the first after that for which `choose()` knows an errno, fail.

    Returns the system call, the errno and the exit code; None if there was no such call.
    """
    traced = Traced(function)
    try:
        with bounded(2 * PATIENCE):
            passed = 0
            while (call := traced.to_next_call()) is not None:
                passed += 1
                errno = choose(*call) if passed >= number else None
                if errno is not None:
                    traced.fail_this_call(errno)
                    break
            else:
                return None
        if traced.status is not None:
            return (call[0], errno, os.waitstatus_to_exitcode(traced.status))
        return (call[0], errno, traced.let_go(2 * PATIENCE))
    finally:
        traced.kill()


class Tree:
    """A process with all that it starts, traced by a process of its own: its stops are counted, and something happens.

    What happens at stop `at`: with `alone`, the process that is there is killed, else all that are traced. (No such
    stop: nothing.) `counts(pid)`: whether the stops of that process are to be counted; `leaves(pid)`, asked after an
    exec: whether it is of no interest any more.
    """

    def __init__(
        self,
        begin: Callable[[], int],
        at: int,
        *,
        alone: bool,
        counts: Callable[[int], bool] = lambda pid: True,
        leaves: Callable[[int], bool] = lambda pid: False,
    ) -> None:
        self._at, self._alone, self._counts, self._leaves = at, alone, counts, leaves
        self._count = 0
        self._began, begun = os.pipe()
        self._said, saying = os.pipe()
        self._tracer = os.fork()
        if self._tracer == 0:
            try:
                signal.alarm(int(3 * PATIENCE))  # ends us, and with us all that is traced
                main = begin()
                os.write(begun, b"!")
                status = self._follow(main)
                os.write(saying, f"{self._count} {status}".encode())
                os._exit(0)
            except BaseException:  # noqa: BLE001  # it is a fork of the test
                traceback.print_exc()
            finally:
                os._exit(1)
        os.close(begun)
        os.close(saying)

    def begins(self) -> None:
        """Wait until it is traced."""
        with open(self._began, "rb") as f:
            assert f.read(1) == b"!"

    def ends(self) -> tuple[int, int]:
        """Wait until it is over: how many stops there were, and the exit code of the first process (-9: it was killed).

        AssertionError if that takes too long.
        """
        with open(self._said, encoding="ascii") as f:
            words = f.read().split()
        os.waitpid(self._tracer, 0)
        assert words, "it hangs, or could not be traced"
        return int(words[0]), int(words[1])

    def _follow(self, main: int) -> int:
        status = -int(signal.SIGKILL)
        request = _SYSCALL
        while True:
            try:
                pid, told = os.waitpid(-1, _WALL)
            except ChildProcessError:
                return status
            if not os.WIFSTOPPED(told):
                if pid == main:
                    status = os.waitstatus_to_exitcode(told)
                continue
            event, signum = told >> 16, os.WSTOPSIG(told)
            deliver = 0
            if event == _EVENT_EXEC and self._leaves(pid):
                _trace(_DETACH, pid)
                continue
            if not event and signum == signal.SIGTRAP | 0x80:
                if self._counts(pid):
                    self._count += 1
                    if self._count == self._at and not self._alone:
                        return status  # and as we exit, all of them are killed
                    if self._count == self._at:
                        os.kill(pid, signal.SIGKILL)  # stopped by us, so it is it
                        request = _CONT
                        continue
            elif not event:
                deliver = signum
            try:
                _trace(request if self._counts(pid) else _CONT, pid, deliver)
            except ProcessLookupError:
                continue  # somebody else has killed it


def traced_from_now_on(pid: int) -> int:
    """For `Tree`: begin to trace a process that runs."""
    _trace(_SEIZE, pid, _SYSGOOD | _FORKS | _EXECS | _EXITKILL)
    _trace(_INTERRUPT, pid)
    return pid


def traced_from_its_signal_on(function: Callable[[], int]) -> int:
    """For `Tree`: fork a process that runs `function`, traced from when that sends itself SIGSTOP."""
    pid = os.fork()
    if pid == 0:
        try:
            os._exit(function())
        finally:
            os._exit(99)
    os.waitpid(pid, os.WUNTRACED)
    _trace(_SEIZE, pid, _SYSGOOD | _FORKS | _EXECS | _EXITKILL)
    os.kill(pid, signal.SIGCONT)
    return pid


SCRIPT = "echo ready; trap '' TERM; sleep 1000 & {daemon} sleep 1000 & wait"
SUCCEEDED, FAILED, ODDLY = 0, 1, 2


class Trial:
    """One supervisor's life: it starts something that would outlive it, uses it, stops it, ends."""

    def __init__(self, backend: BackendUnderTest, base: str | None) -> None:
        self._backend = backend
        self._base = base
        reader, self._writer = os.pipe()
        self.pipe = os.fstat(reader).st_ino
        self.lines = Lines(reader)

    def live(self) -> int:
        """The life; to be run in a fork."""
        self._use()
        driver._stop_everything()
        return 0

    def live_with_errors(self) -> int:
        """The same where something may fail: SUCCEEDED, FAILED with an error that a caller can expect, or ODDLY."""
        result = SUCCEEDED
        for step in (self._use, driver._stop_everything):  # the latter is what atexit does
            try:
                step()
            except (OSError, allgone.AllgoneError):
                result = FAILED
            except BaseException:  # noqa: BLE001  # what it should not be
                traceback.print_exc()
                result = ODDLY
                break
        return result

    def _use(self) -> None:
        driver._has_swept = False  # so that the janitor's work is a part of it
        script = SCRIPT.format(daemon="setsid" if self._backend.ends_daemons else "")
        options = {"stdout": self._writer, "stdin": subprocess.DEVNULL}
        with self._backend.Popen(["sh", "-c", script], **options) as child:
            child.members()
            child.stop(allgone.StopPolicy(timeout_stop=0.01))

    def live_on(self) -> int:
        """It never comes to the stop; it says its pid when all is started."""
        script = SCRIPT.format(daemon="setsid" if self._backend.ends_daemons else "")
        self._backend.Popen(["sh", "-c", script], stdout=self._writer, stdin=subprocess.DEVNULL)
        os.write(self._writer, b"started %d\n" % os.getpid())
        while True:
            signal.pause()

    def live_from_a_second_start_on(self) -> int:
        """The life, from where the guard and all else that is needed is there: SIGSTOP to itself tells."""
        self._backend.run(["true"])
        os.kill(os.getpid(), signal.SIGSTOP)
        return self.live_with_errors()

    def close(self) -> None:
        self._close_writer()
        self.lines.close()

    def _close_writer(self) -> None:
        writer, self._writer = self._writer, -1
        if writer >= 0:
            os.close(writer)

    def nothing_is_left(self) -> str:
        """Wait for it; what is left if it does not come to pass."""
        self._close_writer()
        if not self.lines.are_over(PATIENCE):
            return "processes"
        return "" if self._base is None else directories_left(self._base)


def directories_left(base: str) -> str:
    """Those of supervisors that are gone, after a while: there is no event for a directory that goes."""
    deadline = time.monotonic() + PATIENCE
    while True:
        left = [
            e.name
            for e in os.scandir(base)
            if e.is_dir() and not e.name.startswith((f"allgone-{os.getpid()}-", *BYSTANDING))
        ]
        if not left or time.monotonic() > deadline:
            return " ".join(left)
        time.sleep(0.002)


_GC = """
import sys
from allgone._upkeep import inventory, janitor
base = sys.argv[1]
janitor._FRESH = 0  # a minute later
for folder in list(inventory.homes()) if base else ():
    if folder.startswith(base + "/") and (swept := janitor.sweep(folder)) is not None:
        assert not swept.left, swept
for process in inventory.strays():
    print(process.pid)
"""


def gc(base: str | None) -> list[int]:
    """What ``allgone gc`` does, below `base` only; returns the pids that it says it leaves alone."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", _GC, base or ""], capture_output=True, text=True, timeout=3 * PATIENCE
    )
    assert done.returncode == 0, done.stderr
    return [int(word) for word in done.stdout.split()]


def guards_of(supervisor: int) -> list[int]:
    """The pids of its guard, and of what that runs."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                words = Path("/proc", name, "cmdline").read_bytes().rstrip(b"\0").split(b"\0")
            except (FileNotFoundError, ProcessLookupError):
                continue
            if words[-1] == b"%d" % supervisor and any(b"guard" in word for word in words):
                found.append(int(name))
    return found


BYSTANDING = ("allgone-1-", "allgone-x", "guard")


class Bystanders:
    """Processes and directories that look much like ours and are none of a killed supervisor's."""

    def __init__(self, base: str | None) -> None:
        names = ("allgone-1-0badcafe", "allgone-1-0badcafe/1-sleep", "allgone-x", "guard")
        self.folders = [f"{base}/{name}" for name in names] if base else []
        self.processes: list[subprocess.Popen[bytes]] = []
        try:
            for each in self.folders:
                os.mkdir(each)
            for _ in range(3):
                self.processes.append(subprocess.Popen(["sleep", "1000"], start_new_session=True))
            for folder, process in zip(self.folders[1:], self.processes, strict=False):
                Path(folder, "cgroup.procs").write_text(str(process.pid))
        except BaseException:
            self.close()
            raise

    def are_all_there(self) -> bool:
        return all(each.poll() is None for each in self.processes) and all(map(os.path.isdir, self.folders))

    def close(self) -> None:
        for each in self.processes:
            each.kill()
            each.wait()
        for folder in reversed(self.folders):
            if os.path.isdir(folder):
                os.rmdir(folder)
