"""A supervisor's life, disturbed at its Nth system call (ptrace(2)), and what must be left of it then: nothing.

Each system call has two stops, at its entry and at its exit. What the traced process starts is not traced.
"""

from __future__ import annotations

import ctypes
import errno
import importlib
import json
import os
import platform
import signal
import subprocess
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import psutil  # noqa: F401  # for reports: imported when there is somebody to name, which is not so in each life

import allgone
from allgone._process import driver
from support import procfs
from support.backends import BackendUnderTest
from support.programs import Lines

PATIENCE = 20.0  # seconds: what takes a tenth of one, on a machine that does a hundred other things

_TRACEME, _CONT, _GETREGS, _SETREGS, _DETACH, _SYSCALL = 0, 7, 12, 13, 17, 24
_SETOPTIONS, _SEIZE, _INTERRUPT, _GET_SYSCALL_INFO = 0x4200, 0x4206, 0x4207, 0x420E
_ENTRY = 1  # in ptrace_syscall_info
_SYSGOOD, _FORKS, _EXECS, _EXITKILL = 1, 2 | 4 | 8, 16, 1 << 20
_EVENT_EXEC = 4
_WALL = 0x40000000
_RAX, _ORIG_RAX = 10, 15  # in user_regs_struct of x86_64, counted in 8 bytes
CAN_FAIL_CALLS = platform.machine() == "x86_64"

# What each system call can say on a healthy machine that is full, or forbids something. Left out are
# - those that have no errors of that kind: getpid, getsid, lseek, fstat, rt_sig*, clock_*, exit_group…;
# - close, which has closed whatever it says, and wait4 and waitid, which are repeated after EINTR by CPython itself;
# - mmap, munmap, mprotect, brk, futex: malloc and the interpreter's own locks, which CPython does not survive;
# - kill and pidfd_send_signal, which need nothing and are allowed for whoever was allowed to start the process.
ERRORS: dict[int, tuple[str, tuple[int, ...]]] = {
    0: ("read", (errno.EINTR, errno.ENOMEM)),
    1: ("write", (errno.EINTR, errno.ENOMEM)),
    7: ("poll", (errno.EINTR, errno.ENOMEM)),
    17: ("pread64", (errno.EINTR, errno.ENOMEM)),
    18: ("pwrite64", (errno.EINTR, errno.ENOSPC, errno.ENOMEM)),
    41: ("socket", (errno.EMFILE,)),
    56: ("clone", (errno.EAGAIN, errno.ENOMEM)),
    57: ("fork", (errno.EAGAIN, errno.ENOMEM)),
    58: ("vfork", (errno.EAGAIN, errno.ENOMEM)),
    59: ("execve", (errno.ENOMEM, errno.EACCES)),
    72: ("fcntl", (errno.EMFILE,)),
    73: ("flock", (errno.EINTR, errno.ENOLCK)),
    83: ("mkdir", (errno.ENOSPC, errno.EACCES, errno.ENOMEM)),
    84: ("rmdir", (errno.EBUSY, errno.ENOMEM)),
    89: ("readlink", (errno.ENOMEM,)),
    90: ("chmod", (errno.ENOMEM,)),
    157: ("prctl", (errno.EPERM,)),
    188: ("setxattr", (errno.ENOSPC, errno.ENOMEM)),
    191: ("getxattr", (errno.ENOMEM,)),
    213: ("epoll_create", (errno.EMFILE, errno.ENOMEM)),
    217: ("getdents64", (errno.ENOMEM,)),
    232: ("epoll_wait", (errno.EINTR,)),
    233: ("epoll_ctl", (errno.ENOMEM, errno.ENOSPC)),
    257: ("openat", (errno.EMFILE, errno.EACCES, errno.ENOMEM, errno.EINTR)),
    262: ("newfstatat", (errno.ENOMEM, errno.EACCES)),
    271: ("ppoll", (errno.EINTR, errno.ENOMEM)),
    281: ("epoll_pwait", (errno.EINTR,)),
    291: ("epoll_create1", (errno.EMFILE, errno.ENOMEM)),
    293: ("pipe2", (errno.EMFILE,)),
    302: ("prlimit64", (errno.EPERM,)),
    318: ("getrandom", (errno.EINTR,)),
    319: ("memfd_create", (errno.EMFILE, errno.ENOMEM)),
    332: ("statx", (errno.ENOMEM, errno.EACCES)),
    434: ("pidfd_open", (errno.EMFILE, errno.ENOMEM)),
    435: ("clone3", (errno.EAGAIN, errno.ENOMEM)),
    439: ("faccessat2", (errno.ENOMEM,)),
}
_STDERR = 2


def errors_of(call: int, first: int) -> tuple[int, ...]:
    """What this system call, with this first argument, may say."""
    name, codes = ERRORS.get(call, ("", ()))
    return () if name == "write" and first == _STDERR else codes  # where tests that fail tell why


def any_that_can_fail(call: int, first: int) -> int | None:
    """For `Tree`, to count them."""
    return next(iter(errors_of(call, first)), None)


def failing_with(code: int) -> Callable[[int, int], int | None]:
    """For `failed_at()`: a system call that may say this."""
    return lambda call, first: code if code in errors_of(call, first) else None


_ptrace = ctypes.CDLL(None, use_errno=True).ptrace
_ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
_ptrace.restype = ctypes.c_long


def _trace(request: int, pid: int, data: object = None) -> None:
    if _ptrace(request, pid, None, data) < 0:
        raise OSError(ctypes.get_errno(), f"ptrace({request})")


def _registers(pid: int) -> ctypes.Array[ctypes.c_ulonglong]:
    registers = (ctypes.c_ulonglong * 27)()
    _trace(_GETREGS, pid, ctypes.cast(registers, ctypes.c_void_p))
    return registers


def _entered(pid: int) -> tuple[int, int] | None:
    """The number of the system call at whose entry it is, and its first argument; None at an exit."""
    facts = (ctypes.c_uint64 * 10)()  # struct ptrace_syscall_info: op, arch; ip; sp; nr; args
    if _ptrace(_GET_SYSCALL_INFO, pid, ctypes.sizeof(facts), ctypes.cast(facts, ctypes.c_void_p)) < 0:
        raise OSError(ctypes.get_errno(), "ptrace(PTRACE_GET_SYSCALL_INFO)")
    return (facts[3], facts[4]) if facts[0] & 0xFF == _ENTRY else None


def _leave_out(pid: int) -> None:
    """At the entry of a system call: don't do it."""
    registers = _registers(pid)
    registers[_ORIG_RAX] = ctypes.c_ulonglong(-1).value
    _trace(_SETREGS, pid, ctypes.cast(registers, ctypes.c_void_p))


def _return_from(pid: int, code: int) -> None:
    """At the exit of a system call: it returns an error."""
    registers = _registers(pid)
    registers[_RAX] = ctypes.c_ulonglong(-code).value
    _trace(_SETREGS, pid, ctypes.cast(registers, ctypes.c_void_p))


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


def fork() -> int:
    """os.fork(), which warns since Python 3.12 that there are threads: pytest-timeout's, which has no locks of ours."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


def exits_with(function: Callable[[], int]) -> NoReturn:
    """In a fork of the test: end with what `function` returns."""
    try:
        os._exit(function())
    except BaseException:  # noqa: BLE001  # nobody else would tell
        traceback.print_exc()
    finally:
        os._exit(99)


class Traced:
    """A forked child that runs `function`, from one system call to the next."""

    def __init__(self, function: Callable[[], int]) -> None:
        self.status: int | None = None  # as from waitpid(2), once it has ended
        self._is_inside = False  # a system call
        self.pid = fork()
        if self.pid == 0:

            def traced() -> int:
                _trace(_TRACEME, 0)
                os.kill(os.getpid(), signal.SIGSTOP)
                return function()

            exits_with(traced)
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
        return _entered(self.pid)

    def fail_this_call(self, code: int) -> None:
        """At its entry: don't do it, return an error."""
        _leave_out(self.pid)
        if self.to_next_stop():
            _return_from(self.pid, code)

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
    pid = fork()
    if pid == 0:

        def told() -> int:
            status = function()
            os.write(writer, " ".join(sys.modules).encode())
            return status

        exits_with(told)
    os.close(writer)
    with open(reader, encoding="ascii") as f:
        names = f.read().split()
    _, status = os.waitpid(pid, 0)
    assert status == 0
    for name in names:
        if name not in sys.modules:
            try:
                importlib.import_module(name)
            except ImportError:
                continue  # an extension module put in something of its own


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


def failed_at(function: Callable[[], int], call: int, nth: int, code: int) -> int | None:
    """Run it, and have the `nth` of those system calls that are `call` fail with this error.

    Returns the exit code; None if there were fewer.
    """
    traced = Traced(function)
    try:
        with bounded(2 * PATIENCE):
            while nth and (found := traced.to_next_call()) is not None:
                nth -= found[0] == call and code in errors_of(*found)
            if nth:
                return None
            traced.fail_this_call(code)
        return traced.let_go(2 * PATIENCE) if traced.status is None else os.waitstatus_to_exitcode(traced.status)
    finally:
        traced.kill()


class Tree:
    """A process with all that it starts, traced by a process of its own: its stops are counted, and something happens.

    What happens at stop `at`: with `alone`, the process that is there is killed, else all that are traced. With `fail`
    only such system calls count as it knows an errno for, and the one at `at` fails with that. (No such stop: nothing.)
    `counts(pid)`: whether the stops of that process are to be counted; `leaves(pid)`, asked after an
    exec: whether it is of no interest any more.
    """

    def __init__(
        self,
        begin: Callable[[], int],
        at: int,
        *,
        alone: bool = True,
        counts: Callable[[int], bool] = lambda pid: True,
        leaves: Callable[[int], bool] = lambda pid: False,
        fail: Callable[[int, int], int | None] | None = None,
    ) -> None:
        self._at, self._alone, self._counts, self._leaves, self._fail = at, alone, counts, leaves, fail
        self._failing: tuple[int, int] | None = None  # a process that is inside a system call, and what that returns
        self._count = 0
        self._calls: list[tuple[int, int]] = []
        self.calls: list[tuple[int, int]] = []  # those that count, once it is over
        self._began, begun = os.pipe()
        self._said, saying = os.pipe()
        self._tracer = fork()
        if self._tracer == 0:
            try:
                signal.alarm(int(3 * PATIENCE))  # ends us, and with us all that is traced
                main = begin()
                os.write(begun, b"!")
                status = self._follow(main)
                with open(saying, "w") as f:
                    json.dump([self._count, status, self._calls], f)
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
            said = f.read()
        os.waitpid(self._tracer, 0)
        assert said, "it hangs, or could not be traced"
        count, status, calls = json.loads(said)
        self.calls = [(call, first) for call, first in calls]
        return count, status

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
                if self._failing is not None and self._failing[0] == pid:
                    _return_from(pid, self._failing[1])
                    self._failing, request = None, _CONT
                elif self._counts(pid) and (code := self._code(pid)) is not None:
                    self._count += 1
                    if self._count == self._at and self._fail is not None:
                        _leave_out(pid)
                        self._failing = pid, code
                    elif self._count == self._at and not self._alone:
                        return status  # and as we exit, all of them are killed
                    elif self._count == self._at:
                        os.kill(pid, signal.SIGKILL)  # stopped by us, so it is it
                        request = _CONT
                        continue
            elif not event:
                deliver = signum
            try:
                _trace(request if self._counts(pid) else _CONT, pid, deliver)
            except ProcessLookupError:
                continue  # somebody else has killed it

    def _code(self, pid: int) -> int | None:
        """What the system call is to fail with, 0 where that is not the question; None: this stop does not count."""
        if self._fail is None:
            return 0
        call = _entered(pid)
        code = None if call is None else self._fail(*call)
        if call is not None and code is not None:
            self._calls.append(call)
        return code


def traced_from_now_on(pid: int) -> int:
    """For `Tree`: begin to trace a process that runs."""
    _trace(_SEIZE, pid, _SYSGOOD | _FORKS | _EXECS | _EXITKILL)
    _trace(_INTERRUPT, pid)
    return pid


def traced_from_its_signal_on(function: Callable[[], int]) -> int:
    """For `Tree`: fork a process that runs `function`, traced from when that sends itself SIGSTOP."""
    pid = fork()
    if pid == 0:
        exits_with(function)
    os.waitpid(pid, os.WUNTRACED)
    _trace(_SEIZE, pid, _SYSGOOD | _FORKS | _EXECS | _EXITKILL)
    os.kill(pid, signal.SIGCONT)
    return pid


SCRIPT = "echo ready; trap '' TERM; sleep 1000 & {daemon} sleep 1000 & wait"
SUCCEEDED, FAILED, ODDLY = 0, 1, 2


class Trial:
    """One supervisor's life: it starts something that would outlive it, uses it, stops it, ends."""

    def __init__(self, backend: BackendUnderTest, base: str | None, **options: Any) -> None:
        self._backend = backend
        self._base = base
        self._options = options
        reader, self._writer = os.pipe()
        self.pipe = os.fstat(reader).st_ino
        self.lines = Lines(reader)

    def live(self) -> int:
        """The life; to be run in a fork."""
        self._use()
        driver.stop_everything()
        return 0

    def live_with_errors(self) -> int:
        """The same where something may fail: SUCCEEDED, FAILED with an error that a caller can expect, or ODDLY."""
        result = SUCCEEDED
        at_exit = [driver.stop_everything] if self._options.get("guard", True) else [driver.stop_everything] * 2
        for step in (self._use, *at_exit):  # which may fail where a guard will do it again
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
        with self._started() as child:
            child.members()
            child.stop()

    def _started(self) -> allgone.Popen:
        script = SCRIPT.format(daemon="setsid" if self._backend.ends_daemons else "")
        policy = allgone.StopPolicy(timeout_stop=0.01)
        options = {"stdout": self._writer, "stdin": subprocess.DEVNULL, "policy": policy, **self._options}
        try:
            return self._backend.Popen(["sh", "-c", script], **options)
        except BaseException:
            assert not driver._live, "what could not be started leaves no containment for the exit"
            raise

    def live_on(self) -> int:
        """It never comes to the stop; it says its pid when all is started."""
        child = self._started()
        os.write(self._writer, b"started %d\n" % os.getpid())
        while child:
            signal.pause()
        return ODDLY

    def live_on_from_here(self) -> int:
        """The same; SIGSTOP to itself first."""
        os.kill(os.getpid(), signal.SIGSTOP)
        try:
            return self.live_on()
        except (OSError, allgone.AllgoneError, allgone.GuardLostWarning):  # warnings are errors here
            return FAILED

    def live_from_a_second_start_on(self) -> int:
        """The life, from where the guard and all else that is needed is there: SIGSTOP to itself tells."""
        self._backend.run(["true"])
        os.kill(os.getpid(), signal.SIGSTOP)
        return self.live_with_errors()

    def close(self) -> None:
        self.close_writer()
        self.lines.close()

    def close_writer(self) -> None:
        writer, self._writer = self._writer, -1
        if writer >= 0:
            os.close(writer)

    def has(self, pid: int) -> bool:
        """Whether that process is of this trial: by the pipe, for others' tests run on the machine as well."""
        try:
            return os.stat(f"/proc/{pid}/fd/1").st_ino == self.pipe
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            return False

    def nothing_is_left(self) -> str:
        """Wait for it; what is left if it does not come to pass."""
        self.close_writer()
        if not self.lines.are_over(PATIENCE):
            return "processes"
        return "" if self._base is None else directories_left(self._base)


def directories_left(base: str, within: float = PATIENCE) -> str:
    """Those of supervisors that are gone, after a while: there is no event for a directory that goes."""
    deadline = time.monotonic() + within
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


def end_guards_of(supervisor: int) -> None:
    """It is stopped, so that none is started; but one that is just moving becomes another process."""
    while found := guards_of(supervisor):
        for each in found:
            procfs.end(each)


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
