"""A function in a forked child, and something done to it at its Nth stop at a system call (ptrace(2)).

Each system call has two stops, at its entry and at its exit. The child's own children are not traced.
"""

from __future__ import annotations

import ctypes
import os
import platform
import signal
from collections.abc import Callable

_TRACEME, _GETREGS, _SETREGS, _SYSCALL, _SETOPTIONS = 0, 12, 13, 24, 0x4200
_SYSGOOD, _EXITKILL = 1, 1 << 20
_RAX, _ORIG_RAX = 10, 15  # in user_regs_struct of x86_64, counted in 8 bytes
CAN_FAIL_CALLS = platform.machine() == "x86_64"

_ptrace = ctypes.CDLL(None, use_errno=True).ptrace
_ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
_ptrace.restype = ctypes.c_long


def _trace(request: int, pid: int, data: object = None) -> None:
    if _ptrace(request, pid, None, data) < 0:
        raise OSError(ctypes.get_errno(), f"ptrace({request})")


class Traced:
    """A forked child that runs `function`, from one system call to the next."""

    def __init__(self, function: Callable[[], int]) -> None:
        self.status: int | None = None  # as from waitpid(2), once it has ended
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
                return True
            deliver = os.WSTOPSIG(status)

    def kill(self) -> None:
        if self.status is None:
            os.kill(self.pid, signal.SIGKILL)  # a child of ours, not reaped
            _, self.status = os.waitpid(self.pid, 0)

    def fail_this_call(self, errno: int) -> int:
        """At its entry: don't do it, return an error. Goes to its exit; returns the number of the system call."""
        registers = (ctypes.c_ulonglong * 27)()
        _trace(_GETREGS, self.pid, ctypes.cast(registers, ctypes.c_void_p))
        number = registers[_ORIG_RAX]
        registers[_ORIG_RAX] = ctypes.c_ulonglong(-1).value
        _trace(_SETREGS, self.pid, ctypes.cast(registers, ctypes.c_void_p))
        if self.to_next_stop():
            _trace(_GETREGS, self.pid, ctypes.cast(registers, ctypes.c_void_p))
            registers[_RAX] = ctypes.c_ulonglong(-errno).value
            _trace(_SETREGS, self.pid, ctypes.cast(registers, ctypes.c_void_p))
        return int(number)

    def system_call(self) -> int:
        """The number of the system call that it is stopped at."""
        registers = (ctypes.c_ulonglong * 27)()
        _trace(_GETREGS, self.pid, ctypes.cast(registers, ctypes.c_void_p))
        return int(registers[_ORIG_RAX])


def killed_at(function: Callable[[], int], stop: int) -> bool:
    """Run it up to its `stop`th stop and kill it there; False if it ended before."""
    traced = Traced(function)
    try:
        return all(traced.to_next_stop() for _ in range(stop))
    finally:
        traced.kill()


def stops_of(function: Callable[[], int]) -> int:
    """How many stops it has when nothing is done to it."""
    traced = Traced(function)
    count = 0
    while traced.to_next_stop():
        count += 1
    assert traced.status == 0
    return count
