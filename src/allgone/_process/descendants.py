"""The live processes below this one: who they are, and an end to those that are not wanted.

While `held()`, this process is a child subreaper, so that orphans come back to it and stay findable.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from allgone._core.names import printable
from allgone._core.report import Process
from allgone._core.stop import Wait
from allgone._linux import pidfd, processes
from allgone._process import driver

_LOOKS = 10  # until two in a row find the same
_ROUNDS = 5  # of killing what came meanwhile
_MOST_WAITED_FOR = 200  # at a time


class Who(NamedTuple):
    """One process, and no other that has its number later."""

    pid: int
    started: float  # seconds since boot


Found = dict[Who, int]  # and the parent's pid


@contextmanager
def held() -> Iterator[bool]:
    """Whether orphans come back meanwhile: not where the kernel or a seccomp filter refuses that."""
    from allgone._linux import subreaper  # which needs ctypes

    if not subreaper.is_available():
        yield False
        return
    subreaper.hold()
    try:
        yield True
    finally:
        subreaper.release()


def look() -> Found:
    """All of them, but for guards. An orphan may be missed while it changes its parent, so it looks again."""
    found = _look()
    for _ in range(_LOOKS if found else 1):
        before, found = found, _look()
        if found == before:
            break
    return found


def _look() -> Found:
    children = processes.children if processes.lists_children() else _children_by_parents()
    found: Found = {}
    todo = children(os.getpid())
    while todo:
        pid = todo.pop()
        stat = processes.stat(pid)
        if stat is None or stat.comm == "allgone-guard":  # ours, or that of a supervisor below: it ends by itself
            continue
        if stat.alive:
            found[Who(pid, stat.started)] = stat.ppid
        todo += children(pid)
    return found


def _children_by_parents() -> Callable[[int], list[int]]:
    """Where the kernel has no PROC_CHILDREN: from everybody's parent."""
    parents = {pid: stat.ppid for pid in processes.all_pids() if (stat := processes.stat(pid)) is not None}
    return lambda of: [pid for pid, parent in parents.items() if parent == of]


def above(who: Who, found: Found) -> Iterator[Who]:
    """Its ancestors among those found, the nearest first."""
    by_pid = {each.pid: each for each in found}
    seen = {who}
    while (parent := by_pid.get(found[who])) is not None and parent not in seen:
        seen.add(parent)
        yield parent
        who = parent


def helpers() -> frozenset[int]:
    """Pids of what multiprocessing keeps for this process until its end, once it was needed."""
    tracker = getattr(sys.modules.get("multiprocessing.resource_tracker"), "_resource_tracker", None)
    server = getattr(sys.modules.get("multiprocessing.forkserver"), "_forkserver", None)
    pids = (getattr(tracker, "_pid", None), getattr(server, "_forkserver_pid", None))
    return frozenset(pid for pid in pids if pid is not None)


def in_words(whom: Collection[Who]) -> list[str]:
    """What people want to know of them: command, number, whose child, since when."""
    return [_in_words(each) for each in processes.named(who.pid for who in whom)]


def _in_words(process: Process) -> str:
    what = printable(process.command or process.name, 200)
    if process.command and process.command == processes.command(os.getpid()):
        what = "a fork of this process"
    if process.parent == os.getpid():
        parent = "this process, or of one that has ended"
    else:
        parent = f"{printable(processes.command_or_name(process.parent), 80)} (pid {process.parent})"
    since = "" if process.started is None else time.strftime(", since %H:%M:%S", time.localtime(process.started))
    return f"{what} (pid {process.pid}), a child of {parent}{since}"


def are_gone(whom: Collection[Who], within: float) -> bool:
    """Whether all of them have ended, or do within so many seconds."""
    deadline = time.monotonic() + within
    while alive := [who for who in whom if _is_alive(who)]:
        if time.monotonic() >= deadline:
            return False
        with _pidfds(alive[:_MOST_WAITED_FOR]) as fds:
            if len(fds) == len(alive[:_MOST_WAITED_FOR]):  # else one has ended just now
                driver.wait_for(Wait(tuple(fds), deadline))
    return True


@contextmanager
def _pidfds(whom: Collection[Who]) -> Iterator[list[int]]:
    fds: list[int] = []
    try:
        for who in whom:
            try:
                fds.append(pidfd.hold(who.pid))
            except ProcessLookupError:
                continue
        yield fds
    finally:
        for fd in fds:
            os.close(fd)


def _is_alive(who: Who) -> bool:
    stat = processes.stat(who.pid)
    return stat is not None and stat.alive and stat.started == who.started


def end(unwanted: Callable[[], Collection[Who]], within: float) -> Collection[Who]:
    """SIGKILL to those that are unwanted, until nobody is, and nobody else: each is held while it is made sure that it
    is the one, and below this process. Returns those that are left.
    """
    deadline = time.monotonic() + within
    for _ in range(_ROUNDS):
        whom = unwanted()
        if not whom:
            return whom
        for who in whom:
            try:
                pidfd.signal_if(who.pid, (signal.SIGKILL,), lambda _, who=who: _is_below_us(who))  # type: ignore[misc]
            except PermissionError:
                continue  # another user's now
        if not are_gone(whom, max(0.0, deadline - time.monotonic())):
            break
    return unwanted()


def _is_below_us(who: Who) -> bool:
    if not _is_alive(who):
        return False
    pid, ours = who.pid, os.getpid()
    for _ in range(1 << 15):  # nobody is that deep: a parent that changed meanwhile may lead in a circle
        stat = processes.stat(pid)
        if stat is None:
            return False
        if stat.ppid == ours:
            return True
        pid = stat.ppid
    return False
