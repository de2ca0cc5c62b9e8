"""The blocking driver: carries out a stop with poll(), and stops at exit what nobody stopped before."""

from __future__ import annotations

import atexit
import math
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar, cast

from allgone._backends.cgroup_containment import CgroupContainment
from allgone._backends.keeper import KEEPER
from allgone._core.containment import Backend, Containment, Leader
from allgone._core.policy import StopPolicy
from allgone._core.stop import Outcome, Steps, Stop, Wait
from allgone._linux import cgroupfs, fds
from allgone._linux.pidfd import Child
from allgone._upkeep import telling
from allgone.errors import StopTimeout

if TYPE_CHECKING:
    from allgone._process.reporting import Stopping

_T = TypeVar("_T")
_LONGEST_POLL = (1 << 31) - 1  # milliseconds, the most that poll(2) can be told: 24 days

# What this process has made and not yet removed, in order.
_live: dict[Containment, None] = {}
_backends: dict[Backend, None] = {}
_has_swept = False
_worker = 0  # pid of the multiprocessing child whose end we have been told to watch


def will_use(backend: Backend) -> None:
    """Close it at exit. Raises ValueError where the environment asks to be told of ends in a way that there is not."""
    if backend not in _backends:  # once will do
        telling.check()
    _backends[backend] = None
    _stop_at_the_end_of_a_worker()


def track(containment: Containment) -> None:
    """Stop it at exit, unless it was removed before."""
    global _has_swept
    _live[containment] = None
    if not _has_swept and isinstance(containment, CgroupContainment):
        _has_swept = True
        _sweep_beside(containment.home.folder)


def _sweep_beside(home: str) -> None:
    """The janitor's work, once in a process: what killed supervisors have left where our own directory is."""
    try:
        if cgroupfs.beside(home, "allgone-"):
            from allgone._upkeep import janitor  # a few milliseconds, where there is something to look at

            janitor.sweep_beside(home)
    except OSError as e:  # no fds left, say: of no concern to a caller, who only wants to start something
        import logging

        logging.getLogger("allgone").warning("killed supervisors were not looked for: %s", e)


def forget(containment: Containment) -> None:
    _live.pop(containment, None)


def run(steps: Generator[Wait, None, _T]) -> _T:
    """Carry out a stop, or whatever else takes steps: wait whenever it says so."""
    while True:
        try:
            wait = next(steps)
        except StopIteration as end:
            return cast("_T", end.value)
        wait_for(wait)


class Hurry(Exception):
    """Raised by what carries out a stop: whoever waits for it has lost patience, so kill what is left, and go on."""


def carry_out(stopping: Stopping, how: Callable[[Steps], None]) -> None:
    """As `stop()`, of what is to be reported."""
    if stopping.outcome is None:
        stopping.outcome = stop(stopping.containment, stopping.leaders, stopping.policy, how)


def stop(
    containment: Containment,
    leaders: Sequence[Leader],
    policy: StopPolicy,
    carry_out: Callable[[Steps], None] = run,
) -> Outcome:
    """Stop it and remove it. An exception from outside (a second Ctrl-C, an alarm) kills at once, then goes its way.

    Raises `StopTimeout`, or what interrupted the wait.
    """
    first = Stop(containment, leaders, policy)
    try:
        carry_out(first.steps())
    except Hurry:
        first.hurry()
        run(first.steps())
    except StopTimeout:
        raise
    except BaseException:  # goes its way, with everything gone
        _kill(containment, leaders, policy)
        raise
    return first.outcome


def _kill(containment: Containment, leaders: Sequence[Leader], policy: StopPolicy) -> None:
    despite_ctrl_c(lambda: run(Stop(containment, leaders, policy.at_once()).steps()))


def despite_ctrl_c(do: Callable[[], object]) -> None:
    """What takes milliseconds, and is what a Ctrl-C asks for: begun again should another one interrupt it."""
    for _ in range(100):  # somebody leans on it
        try:
            do()
        except KeyboardInterrupt:
            continue
        return


def wait_for(wait: Wait) -> None:
    """Block until an fd is readable, a signal comes or the deadline has come."""
    poller = select.poll()
    for fd in wait.writable:
        poller.register(fd, select.POLLOUT)
    for fd in wait.fds:
        poller.register(fd, select.POLLIN)
    _poll(poller, wait.deadline)


def _poll(poller: select.poll, deadline: float) -> None:
    with _woken_by_signals() as woken:
        if woken is not None:
            poller.register(woken, select.POLLIN)
        poller.poll(milliseconds_until(deadline))


def ends(child: Child, deadline: float) -> bool:
    """Wait for it to end, until `deadline` at most; whether it has."""
    while not child.has_ended():
        if time.monotonic() >= deadline:
            return False
        try:
            with child.own_pidfd() as fd:
                wait_for(Wait((fd,), deadline))
        except ProcessLookupError:
            continue  # reaped by someone else just now
    return True


@contextmanager
def _woken_by_signals() -> Iterator[int | None]:
    """An fd that becomes readable when a signal comes: Python notes one that comes just before poll(2), and sleeps on.

    None outside the main thread, where somebody else (an event loop) is to be woken, and where there are no fds left.
    """
    if threading.current_thread() is not threading.main_thread():
        yield None
        return
    try:
        reader, writer = fds.pipe()
    except OSError:
        yield None
        return
    try:
        os.set_blocking(writer, False)
        others = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        if others != -1:
            signal.set_wakeup_fd(others)
        yield reader if others == -1 else None
    finally:
        # First this, whatever interrupted us: the number of a closed fd would soon be somebody else's file.
        now = signal.set_wakeup_fd(-1)
        if now != writer:
            signal.set_wakeup_fd(now)
        os.close(reader)
        os.close(writer)


def milliseconds_until(deadline: float) -> int | None:
    """From now to `deadline` (monotonic seconds), rounded up, for poll(); None for inf. Perhaps less: look again."""
    if deadline == math.inf:
        return None
    return math.ceil(min(max(0.0, deadline - time.monotonic()) * 1000, _LONGEST_POLL))


def stop_everything() -> None:
    """At the end of this process, however that is brought about: stop and remove all that is its own."""
    left = [containment for containment in _live if containment.owner == os.getpid()]
    if left:
        _ignore_ctrl_c()
    for containment in left:
        members = containment.members() if telling.is_wanted() else ()
        outcome = stop(containment, (), StopPolicy(timeout_stop=0.0))
        telling.ended(containment, "supervisor", outcome, owner=containment.owner, members=members)
        containment.close()
        forget(containment)
    for backend in list(_backends):
        backend.close()
    KEEPER.close()


for _ in range(3):  # a Ctrl-C that comes just as it is entered is raised in it, before it can do anything about that
    atexit.register(stop_everything)


def _ignore_ctrl_c() -> None:
    """It can't end what is ending, and must not interrupt the kill."""
    despite_ctrl_c(lambda: signal.signal(signal.SIGINT, signal.SIG_IGN))  # one that came before is raised by this call


def _stop_at_the_end_of_a_worker() -> None:
    """multiprocessing ends its children by os._exit(), which runs no atexit handlers; it has finalizers instead."""
    global _worker
    process = sys.modules.get("multiprocessing.process")
    if process is not None and process.parent_process() is not None and _worker != os.getpid():
        from multiprocessing.util import Finalize

        Finalize(None, stop_everything, exitpriority=0)
        _worker = os.getpid()


def _after_fork_in_child() -> None:
    _live.clear()
    for backend in list(_backends):
        backend.after_fork_in_child()


os.register_at_fork(after_in_child=_after_fork_in_child)
