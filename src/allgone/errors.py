"""Every exception and warning of allgone.

All derive from `AllgoneError` and from the standard class that a caller would catch, and all survive pickling
(pytest-xdist and multiprocessing need that): what a constructor takes is what ``args`` holds.
"""

from __future__ import annotations

from errno import EADDRINUSE
from subprocess import CalledProcessError
from typing import Any, NamedTuple


class AllgoneError(Exception):
    """Base class of the errors that allgone raises itself."""


class Reason(NamedTuple):
    """Why a way was not taken: what was tried, why it does not work here, and what would make it work."""

    tried: str
    why: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.tried}: {self.why}" + (f" ({self.remedy})" if self.remedy else "")


class BackendUnavailable(AllgoneError, RuntimeError):
    """The backend asked for by name does not work here; `reasons` says what was tried, why not, and the fix."""

    def __init__(self, backend: str, reasons: tuple[Reason, ...]) -> None:
        super().__init__(backend, reasons)
        self.backend = backend
        self.reasons = reasons

    def __str__(self) -> str:
        return f"backend {self.backend!r} is not available here:" + "".join(f"\n  - {r}" for r in self.reasons)


class Unsupported(AllgoneError, NotImplementedError):
    """This backend, or this machine, cannot do that; the message says why, and which one can or what would help."""


class LimitUnavailable(Unsupported):
    """There can't be such a limit here: `what` is the controller that is missing (cgroup-v2.rst), or the limit;
    `reasons` says what was tried, why not, and the fix. Nothing was started."""

    def __init__(self, what: str, reasons: tuple[Reason, ...]) -> None:
        super().__init__(what, reasons)
        self.what = what
        self.reasons = reasons

    def __str__(self) -> str:
        return f"no limit by {self.what!r} here: " + "; ".join(map(str, self.reasons))


class WrongProcess(AllgoneError, RuntimeError):
    """A forked copy of the supervisor tried to stop what its parent had started."""


class PlacementFailed(AllgoneError, OSError):
    """The child could not enter its containment. The command was not run; the child is already dead and reaped.

    ``errno``, ``strerror`` and ``filename`` (the containment) are set as in any `OSError`; `remedy` says what helps.
    """

    def __init__(self, errno: int, strerror: str, filename: str, remedy: str = "") -> None:
        super().__init__(errno, strerror, filename)
        self.remedy = remedy

    def __reduce__(self) -> tuple[type[PlacementFailed], tuple[int, str, str, str]]:
        return type(self), (self.errno or 0, self.strerror or "", str(self.filename), self.remedy)

    def __str__(self) -> str:
        return f"cannot enter {self.filename}: {self.strerror}" + (f". {self.remedy}" if self.remedy else "")


def _with_tail(message: str, tail: str) -> str:
    return f"{message}\nlast output:\n{tail}" if tail else message


class NotReady(AllgoneError, TimeoutError):
    """`ready=` was not true within `ready_timeout=`. Everything has been stopped; `tail` is the end of the output."""

    def __init__(self, message: str, tail: str = "") -> None:
        super().__init__(message, tail)
        self.tail = tail

    def __str__(self) -> str:
        return _with_tail(str(self.args[0]), self.tail)


class ExitedBeforeReady(AllgoneError, RuntimeError):
    """The leader ended before `ready=` was true. Everything has been stopped; `tail` is the end of the output."""

    def __init__(self, message: str, returncode: int, tail: str = "") -> None:
        super().__init__(message, returncode, tail)
        self.returncode = returncode
        self.tail = tail

    def __str__(self) -> str:
        return _with_tail(str(self.args[0]), self.tail)


class OutOfMemory(AllgoneError, CalledProcessError):
    """A command failed, and the kernel had killed processes of it for want of memory: `oom_kills` of them.

    All of a `subprocess.CalledProcessError` is set as there.
    """

    def __init__(self, returncode: int, cmd: Any, oom_kills: int, output: Any = None, stderr: Any = None) -> None:
        CalledProcessError.__init__(self, returncode, cmd, output, stderr)
        self.oom_kills = oom_kills

    def __reduce__(self) -> tuple[type[OutOfMemory], tuple[int, Any, int, Any, Any]]:
        return type(self), (self.returncode, self.cmd, self.oom_kills, self.output, self.stderr)

    def __str__(self) -> str:
        who = "a process" if self.oom_kills == 1 else f"{self.oom_kills} processes"
        return f"{CalledProcessError.__str__(self).rstrip('.')}: the kernel killed {who} of it for want of memory."


class WatchdogTimeout(AllgoneError, TimeoutError):
    """No ``WATCHDOG=1`` came for as long as ``ready=notify(watchdog=…)`` allows. The process was ended by that, and
    everything has been stopped; `tail` is the end of the output."""

    def __init__(self, message: str, tail: str = "") -> None:
        super().__init__(message, tail)
        self.tail = tail

    def __str__(self) -> str:
        return _with_tail(str(self.args[0]), self.tail)


class PortTaken(AllgoneError, OSError):
    """Somebody else listens where ``ready=listening(…)`` waits for the process to. Nothing was started, or all of it
    has been stopped. ``errno`` is EADDRINUSE.

    `holders` are the processes that hold the socket (`Process`; none where this user may not see them), `containment`
    says which one of allgone's they are in ("" if in none).
    """

    def __init__(self, address: str, holders: tuple[object, ...], containment: str, by: str) -> None:
        super().__init__(EADDRINUSE, f"{address} is taken {by}")
        self.address = address
        self.holders = holders
        self.containment = containment
        self._by = by

    def __reduce__(self) -> tuple[type[PortTaken], tuple[str, tuple[object, ...], str, str]]:
        return type(self), (self.address, self.holders, self.containment, self._by)

    def __str__(self) -> str:
        return str(self.strerror)


class StopTimeout(AllgoneError, TimeoutError):
    """Processes outlived SIGKILL for longer than the stop may take; `survivors` are their pids."""

    def __init__(self, message: str, survivors: frozenset[int] = frozenset()) -> None:
        super().__init__(message, survivors)
        self.survivors = survivors

    def __str__(self) -> str:
        return str(self.args[0])


class FreezeTimeout(AllgoneError, TimeoutError):
    """Processes could not be frozen in time; they go on."""


class SystemdError(AllgoneError, RuntimeError):
    """systemd could not do what it was asked, or did not answer; `dbus_name` is the D-Bus error's name."""

    def __init__(self, message: str, dbus_name: str) -> None:
        super().__init__(message, dbus_name)
        self.dbus_name = dbus_name

    def __str__(self) -> str:
        return str(self.args[0])


class EscapedProcessWarning(RuntimeWarning):
    """A process left its containment (a process group by ``setsid()``) and was still alive after the stop."""


class GuardLostWarning(RuntimeWarning):
    """The guard of this process was killed. Another one has been started; what ran meanwhile is in its care as well."""
