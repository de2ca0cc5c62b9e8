"""How this process ends: by the signal that ended its child (signal(7))."""

from __future__ import annotations

import ctypes
import os
import signal

_PR_SET_DUMPABLE = 4


def by_signal(signum: int) -> None:
    """End by `signum`, without a core dump of our own: shells see from it that Ctrl-C ended the command, say.

    Runs no atexit handlers. Returns if the signal does not end us: pid 1 of a container is immune to its own.
    """
    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, ctypes.c_ulong(0), 0, 0, 0)
    if signum not in (signal.SIGKILL, signal.SIGSTOP):
        signal.signal(signum, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signum])
    os.kill(os.getpid(), signum)
