"""PR_SET_CHILD_SUBREAPER (prctl(2), Linux 3.4): orphaned descendants become children of this process, not of init."""

from __future__ import annotations

import ctypes
import os
import threading

_PR_SET_CHILD_SUBREAPER, _PR_GET_CHILD_SUBREAPER = 36, 37

_lock = threading.Lock()
_users = 0
_was = 0


def _prctl(option: int, argument: object) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, argument, 0, 0, 0) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"prctl: {os.strerror(code)}")


def is_available() -> bool:
    """Whether the kernel knows of it."""
    try:
        _prctl(_PR_GET_CHILD_SUBREAPER, ctypes.byref(ctypes.c_int()))
    except OSError:  # EINVAL: Linux before 3.4. EPERM: a container's seccomp filter
        return False
    return True


def hold() -> None:
    """Be a subreaper until `release()` was called as often as this. A process-wide attribute, not inherited by fork."""
    global _users, _was
    with _lock:
        if _users == 0:
            before = ctypes.c_int()
            _prctl(_PR_GET_CHILD_SUBREAPER, ctypes.byref(before))
            _was = before.value
            _prctl(_PR_SET_CHILD_SUBREAPER, ctypes.c_ulong(1))
        _users += 1


def release() -> None:
    """The counterpart of `hold()`: the last one puts the attribute back to what it was."""
    global _users
    with _lock:
        _users -= 1
        if _users == 0 and not _was:
            _prctl(_PR_SET_CHILD_SUBREAPER, ctypes.c_ulong(0))


def _after_fork_in_child() -> None:
    global _lock, _users
    _lock = threading.Lock()
    _users = 0


os.register_at_fork(after_in_child=_after_fork_in_child)
