"""pidfds: a process that can't be mistaken for another, unlike its number (pidfd_open(2), Linux 5.3)."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import struct
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from allgone._core.usage import Spent

_BLOCK = 512  # bytes, in which getrusage(2) counts what was read and written
# linux/pidfd.h: PIDFD_GET_INFO with the first version of struct pidfd_info, of which the first two words matter here.
_INFO = struct.Struct("=QQ48x")
_GET_INFO = 3 << 30 | _INFO.size << 16 | 0xFF << 8 | 11
_INFO_CGROUP, _INFO_EXIT = 1 << 2, 1 << 3


def unavailable_because() -> str | None:
    """Why processes can't be held by pidfds here; None where they can."""
    try:
        os.close(os.pidfd_open(os.getpid()))
    except OSError as e:
        return e.strerror  # ENOSYS: Linux before 5.3. EPERM: a container's seccomp filter
    except AttributeError:
        return "this Python was built without os.pidfd_open"
    return None


def hold(pid: int) -> int:
    """A pidfd, close-on-exec. Raises ProcessLookupError where there is no such process, or only a thread of one."""
    try:
        return os.pidfd_open(pid)
    except OSError as e:
        if e.errno in (errno.EINVAL, errno.ENOENT):  # a thread (6.18 says ENOENT), or no number of one
            raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH)) from None
        raise


def cgroup_id(fd: int) -> int | None:
    """The id of the cgroup that a pidfd's process is in, or was in when it ended; None where the kernel does not tell.

    Linux 6.13 tells it of those that live, 6.15 also of those that were reaped (PIDFD_INFO_EXIT in linux/pidfd.h).
    """
    info = bytearray(_INFO.pack(_INFO_CGROUP | _INFO_EXIT, 0))
    try:
        fcntl.ioctl(fd, _GET_INFO, info)
    except OSError:
        return None  # an older kernel, or gone: it is all the same to who asks
    told, cgroup = _INFO.unpack(info)
    return int(cgroup) if told & _INFO_CGROUP else None


def signal_if(pid: int, signums: tuple[int, ...], still_meant: Callable[[int], bool]) -> bool:
    """Send `signums`, in order, to `pid` if `still_meant(pid)` once it is held; whether it was sent.

    The check comes after the process is held: had its number been reused in between, either the check fails or
    the signal goes to the process that was held, which is gone.

    Raises PermissionError where the process is another user's.
    """
    try:
        fd = hold(pid)
    except ProcessLookupError:
        return False
    try:
        if not still_meant(pid):
            return False
        for signum in signums:
            signal.pidfd_send_signal(fd, signum)
    except ProcessLookupError:
        return False  # gone, which is as good
    finally:
        os.close(fd)
    return True


def reap_and_count(pid: int, flags: int) -> Spent | None:
    """Reap a child, with the `flags` of wait4(2): what it has used, and those that it had waited for (getrusage(2)).
    None if it lives. Not the memory: after vfork(2) the peak is that of the parent.

    Raises ChildProcessError.
    """
    reaped, _, used = os.wait4(pid, flags)
    return Spent(used.ru_utime, used.ru_stime, used.ru_inblock * _BLOCK, used.ru_oublock * _BLOCK) if reaped else None


class Child:
    """A direct child, from its start until it is reaped. Opens its pidfd when that is first needed.

    A number is safe to use while the child is unreaped, and `waitid` refuses (ECHILD) once it is not ours any more.
    From `reap()` on the number is never used again: it may be another child's by then.
    """

    __slots__ = ("_fd", "_lock", "_status", "counted", "pid", "reaped", "used")

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.reaped = False
        self.counted = False
        self.used: Spent | None = None
        self._status: int | None = None
        self._fd: int | None = None
        self._lock = threading.RLock()  # while _fd is opened, closed, or signalled through: a closed number is reused

    def exit_status(self, *, block: bool = False) -> int | None:
        """Its return code as `subprocess` counts (negative: signal), without reaping it; None while it runs.

        Raises ChildProcessError where somebody else has reaped it.
        """
        if self._status is None:
            if self.reaped:
                raise ChildProcessError(errno.ECHILD, os.strerror(errno.ECHILD))
            found = os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT | (0 if block else os.WNOHANG))
            if found is not None:
                self._status = found.si_status if found.si_code == os.CLD_EXITED else -found.si_status
        return self._status

    def has_ended(self) -> bool:
        try:
            return self.exit_status() is not None
        except ChildProcessError:
            return True

    def holds_its_number(self) -> bool:
        """Whether it runs or is unreaped, so that the kernel can't have given its number to anybody else."""
        if self.reaped:
            return False
        try:
            os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG)
        except ChildProcessError:
            return False
        return True

    def fileno(self) -> int:
        """Its pidfd: readable once it has ended. Raises ProcessLookupError when it is reaped already."""
        with self._lock:
            if self._fd is None:
                if self.reaped:
                    raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH))
                fd = hold(self.pid)
                if not self.holds_its_number():  # somebody reaped it just before: this may be anybody
                    os.close(fd)
                    raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH))
                self._fd = fd
            return self._fd

    def send(self, signum: int) -> None:
        """Signal it unless it has ended, or is another user's by now."""
        if self.has_ended():
            return
        try:
            with self._lock:
                signal.pidfd_send_signal(self.fileno(), signum)
        except ProcessLookupError:
            pass  # reaped by someone else meanwhile: ended, which is all we wanted to know
        except PermissionError:
            pass  # a setuid program: cgroup.kill reaches it all the same; without one the stop will name it

    @contextmanager
    def own_pidfd(self) -> Iterator[int]:
        """A pidfd that no other thread closes by reaping the child. Raises ProcessLookupError as `fileno()`."""
        fd = hold(self.pid)
        try:
            if not self.holds_its_number():  # somebody reaped it just before: this may be anybody
                raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH))
            yield fd
        finally:
            os.close(fd)

    def reap(self, *, block: bool = False) -> None:
        """Let the kernel forget it, if it has ended (or when it has: `block`); its number is free from then on."""
        if not self.reaped:
            try:
                self.reaped = self._reap(0 if block else os.WNOHANG)
            except ChildProcessError:
                self.reaped = True  # by somebody else
        if self.reaped:
            self.close()

    def _reap(self, flags: int) -> bool:
        if not self.counted or sys.is_finalizing():  # wait4() needs a module, and none can be imported any more
            return os.waitid(os.P_PID, self.pid, os.WEXITED | flags) is not None
        self.used = reap_and_count(self.pid, flags)
        return self.used is not None

    def close(self) -> None:
        with self._lock:
            self._close()

    def _close(self, *, close: Callable[[int], None] = os.close) -> None:
        fd, self._fd = self._fd, None
        if fd is not None:
            close(fd)  # a default, for at the end of the interpreter `os` may be gone

    def __del__(self) -> None:
        if getattr(self, "_fd", None) is not None:  # a Ctrl-C may have come before it had one
            self._close()  # nobody else has it; and in a fork, the lock may be held by a thread that is not there
