"""A tiny init for the test run: orphans that tests make stay below it, are reaped by it, and end with it.

Not the test process itself: a supervisor that is a child subreaper is something special, and most are not.
"""

from __future__ import annotations

import ctypes
import os
import signal
import time
from collections.abc import Callable
from typing import NoReturn

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36

pid: int | None = None
"""The init's; None where the tests run without one."""


def _prctl(option: int, value: int) -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(option, ctypes.c_ulong(value), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")


def run_below(clean_up: Callable[[int], None]) -> None:
    """Fork. The child returns; the parent is its init, calls `clean_up(child)` after its end and exits as it did."""
    global pid
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    init = os.getpid()
    child = os.fork()
    if child:
        _be_init(child, clean_up)
    pid = init
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != init:
        os._exit(1)
    _default_signals()


def _default_signals() -> None:
    """Whoever runs the tests may ignore some (nohup does, and a script for its background jobs): children inherit it."""
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    for each in signal.valid_signals() - {signal.SIGPIPE, signal.SIGXFSZ}:  # those two Python itself ignores
        if signal.getsignal(each) == signal.SIG_IGN:
            signal.signal(each, signal.default_int_handler if each == signal.SIGINT else signal.SIG_DFL)


def _be_init(child: int, clean_up: Callable[[int], None]) -> NoReturn:
    for each in (signal.SIGINT, signal.SIGQUIT):  # a terminal sends those to the child as well
        signal.signal(each, signal.SIG_IGN)
    for each in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, lambda signum, _: os.kill(child, signum))
    status = 1
    try:
        while True:
            ended, status = os.wait()
            if ended == child:
                break
        end_children()
        clean_up(child)
    finally:
        if os.WIFSIGNALED(status):
            signum = os.WTERMSIG(status)
            if signum not in (signal.SIGKILL, signal.SIGSTOP):
                signal.signal(signum, signal.SIG_DFL)
            os.kill(os.getpid(), signum)
        os._exit(os.waitstatus_to_exitcode(status))


def end_children() -> None:
    """SIGKILL to all children and, as they come to us, to their children; 10 seconds at most."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        for each in children(os.getpid()):
            os.kill(each, signal.SIGKILL)  # unreaped children of ours: their numbers can't be anybody else's
        try:
            os.wait()
        except ChildProcessError:
            return


def children(of: int) -> list[int]:
    """Direct children of a process; empty if it is gone."""
    found: list[int] = []
    try:
        for thread in os.listdir(f"/proc/{of}/task"):
            with open(f"/proc/{of}/task/{thread}/children", encoding="ascii") as f:
                found += map(int, f.read().split())
    except (FileNotFoundError, ProcessLookupError):
        pass
    return found
