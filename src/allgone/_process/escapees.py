"""What a traced command left outside of its containment: who that is, how it got out, its end where that is wanted."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from allgone._core.containment import Containment
from allgone._core.genealogy import Genealogy, Life
from allgone._core.report import Process
from allgone._core.stop import KILL_TIMEOUT, Wait
from allgone._linux import cgroupfs, pidfd, processes
from allgone._linux.systemd import transient_units
from allgone._process import driver

if TYPE_CHECKING:
    from allgone._linux.tracer import Trace

_MOST_WAITED_FOR = 100  # at a time
# Programs that have others start something, which is not descended from who asked then, or that move it elsewhere.
ASKERS = frozenset({
    "at", "batch", "busctl", "crontab", "ctr", "dbus-send", "docker", "doas", "gdbus", "kubectl", "login", "lxc",
    "machinectl", "nerdctl", "pkexec", "podman", "run0", "runuser", "ssh", "su", "sudo", "systemctl", "systemd-run",
    "virsh",
})  # fmt: skip


def outside(trace: Trace, containment: Containment) -> frozenset[int]:
    """Live descendants that are no members."""
    alive = trace.alive()
    return frozenset(pid for pid in alive - containment.members() if not _is_guard(pid))


def _is_guard(pid: int) -> bool:
    found = processes.stat(pid)  # that of a supervisor inside, which ends with what it guards
    return found is not None and found.comm == "allgone-guard"


def kill(trace: Trace, containment: Containment) -> frozenset[int]:
    """SIGKILL to all that are outside, until there are none; returns those that are left after `KILL_TIMEOUT`."""
    deadline = time.monotonic() + KILL_TIMEOUT
    while (left := outside(trace, containment)) and time.monotonic() < deadline:
        for pid in left:
            try:
                pidfd.signal_if(pid, (signal.SIGKILL,), trace.is_descendant)
            except PermissionError:
                continue  # another user's: it is among those left
        _wait_for(left, deadline)
    return left


def _wait_for(pids: frozenset[int], deadline: float) -> None:
    """Until one of them has ended; there is always one that was sent SIGKILL, or a deadline."""
    held = []
    try:
        for pid in sorted(pids)[:_MOST_WAITED_FOR]:
            try:
                held.append(pidfd.hold(pid))
            except ProcessLookupError:
                return  # one has
        driver.wait_for(Wait(tuple(held), min(deadline, time.monotonic() + 1)))
    finally:
        for fd in held:
            os.close(fd)


def described(pids: frozenset[int], genealogy: Genealogy) -> tuple[Process, ...]:
    """As `processes.described`, with where they are and, if a program is known for that, by what."""
    lives = {life.pid: life for life in genealogy.lives}  # of a number that came twice, the last
    return tuple(replace(each, how=_how(each.pid, lives)) for each in processes.described(pids))


def _how(pid: int, lives: dict[int, Life]) -> str:
    try:
        where = cgroupfs.own_cgroup(cgroupfs.read(f"/proc/{pid}/cgroup").decode("utf-8", "replace"))
    except (FileNotFoundError, ProcessLookupError):
        where = None
    by = next(filter(None, map(_asks, _ancestry(pid, dict(lives)))), "")
    return " ".join(filter(None, (where and f"in cgroup {where}", by and f"by {by}")))


def _ancestry(pid: int, lives: dict[int, Life]) -> Iterator[Life]:
    """Takes out of `lives` whom it has met: a number that came twice may lead back to itself."""
    while (life := lives.pop(pid, None)) is not None:
        yield life
        pid = life.parent


def _asks(life: Life) -> str:
    """The program of its that asks others, if it was one."""
    for each in life.execs:
        program = each.command.split(" ", 1)[0].rpartition("/")[2]
        if program in ASKERS:
            return program
    return ""


def may_have_started(genealogy: Genealogy) -> tuple[str, ...]:
    """What others may have started for it. Guesses, good for telling people: nothing of that is ever ended."""
    programs = {_asks(life): life for life in reversed(genealogy.lives)}
    programs.pop("", None)
    asked = [f"{program} (pid {life.pid})" for program, life in sorted(programs.items())]
    return (*asked, *transient_units(genealogy.since))
