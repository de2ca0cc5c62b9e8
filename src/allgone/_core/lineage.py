"""From events about processes to a `Genealogy`: who descends from a traced leader, and what has become of them.

Fed by `_linux/tracer.py`. Times are the kernel's, in nanoseconds, until `Lineage.genealogy()` makes seconds of them.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from allgone._core.genealogy import Exec, Genealogy, Life

MOST_LIVES = 100_000  # recorded of one leader, so that a fork bomb does not fill the supervisor's memory
MOST_MOMENTS = 400_000  # execs and sessions of all of them


class Descendant:
    """The leader, or a process that was forked by a descendant."""

    __slots__ = (
        "began", "ended", "execs", "is_recorded", "lineage", "main_status", "parent", "pid", "sessions", "status",
        "threads",
    )  # fmt: skip

    def __init__(self, lineage: Lineage, pid: int, parent: int, began: int | None) -> None:
        self.lineage = lineage
        self.pid = pid
        self.parent = parent
        self.began = began
        self.ended: int | None = None
        self.status: int | None = None  # as of waitpid(2)
        self.execs: tuple[tuple[int, str], ...] = ()
        self.sessions: tuple[int, ...] = ()
        self.threads: set[int] | None = None  # besides the main thread, where there ever was one
        self.main_status: int | None = None  # of a main thread that has ended while others ran
        self.is_recorded = lineage.admit(self)

    def life(self, zero: int) -> Life:
        return Life(
            pid=self.pid,
            parent=self.parent,
            began=_seconds(self.began, zero),
            ended=_seconds(self.ended, zero),
            returncode=None if self.status is None else os.waitstatus_to_exitcode(self.status),
            execs=tuple(Exec((at - zero) / 1e9, command) for at, command in self.execs),
            sessions=tuple((at - zero) / 1e9 for at in self.sessions),
        )


def _seconds(at: int | None, zero: int) -> float | None:
    return None if at is None else (at - zero) / 1e9


class Lineage:
    """A leader and its descendants.

    now
        Time 0 until that of the leader's beginning is known.
    epoch
        Nanoseconds from 1970 to the zero of the kernel's times.
    """

    def __init__(self, now: int, epoch: int) -> None:
        self._zero = now
        self._epoch = epoch
        self._recorded: list[Descendant] = []
        self._moments = 0
        self._unrecorded = 0
        self.living = 0
        self.leader: Descendant | None = None
        self.launching = 0  # programs that the leader has yet to become, the last of which is the user's command
        self.command = ""

    @property
    def is_over(self) -> bool:
        """Whether the leader and all its descendants have ended."""
        return self.leader is not None and self.living == 0

    def admit(self, process: Descendant) -> bool:
        """Count it, and record it if there is room."""
        self.living += 1
        if len(self._recorded) >= MOST_LIVES:
            self._unrecorded += 1
            return False
        self._recorded.append(process)
        return True

    def has_room(self, process: Descendant) -> bool:
        """For one exec or session more."""
        if not process.is_recorded or self._moments >= MOST_MOMENTS:
            self._unrecorded += process.is_recorded  # else it was counted as a whole
            return False
        self._moments += 1
        return True

    def starts(self, at: int) -> None:
        self._zero = at

    def genealogy(self, lost: int) -> Genealogy:
        """What is known now; `lost` as in `Genealogy`."""
        lives = tuple(process.life(self._zero) for process in self._recorded)
        return Genealogy((self._zero + self._epoch) / 1e9, lives, lost, self._unrecorded)


class Living:
    """The live descendants of all leaders, by pid; events change them."""

    def __init__(self) -> None:
        self.by_pid: dict[int, Descendant] = {}

    def lead(self, lineage: Lineage, pid: int, parent: int, programs: int, command: str) -> None:
        """`pid`, whose events come next, leads it. It becomes so many `programs`, the last being `command`."""
        lineage.launching, lineage.command = programs, command
        self.by_pid[pid] = lineage.leader = Descendant(lineage, pid, parent, None)

    def forget(self, lineage: Lineage) -> None:
        for process in [each for each in self.by_pid.values() if each.lineage is lineage]:
            del self.by_pid[process.pid]

    def of(self, lineage: Lineage) -> list[Descendant]:
        return [each for each in self.by_pid.values() if each.lineage is lineage]

    def forked(self, at: int, parent: int, pid: int) -> None:
        known = self.by_pid.get(pid)
        if known is not None and known.began is None and known is known.lineage.leader:
            known.began = at
            known.lineage.starts(at)
        elif (by := self.by_pid.get(parent)) is not None:
            if known is not None:
                self._gone(known)  # its end was lost, for here is another of that number
            self.by_pid[pid] = Descendant(by.lineage, pid, parent, at)

    def thread_started(self, pid: int, tid: int) -> None:
        process = self.by_pid.get(pid)
        if process is not None:
            process.threads = process.threads or set()
            process.threads.add(tid)

    def execed(self, at: int, pid: int, command_of: Callable[[int], str]) -> None:
        process = self.by_pid.get(pid)
        if process is None:
            return
        process.threads = process.main_status = None  # all but the one that called it, which has the pid now
        lineage, command = process.lineage, None
        if process is lineage.leader and lineage.launching:
            lineage.launching -= 1
            if lineage.launching:
                return
            command = lineage.command
        if lineage.has_room(process):
            process.execs += ((at, command_of(pid) if command is None else command),)

    def left_session(self, at: int, pid: int) -> None:
        process = self.by_pid.get(pid)
        if process is None or (process is process.lineage.leader and process.lineage.launching):
            return
        if process.lineage.has_room(process):
            process.sessions += (at,)

    def exited(self, at: int, pid: int, tid: int, status: int) -> Lineage | None:
        """A thread has; returns the lineage where it was the last one of a process."""
        process = self.by_pid.get(pid)
        if process is None:
            return None
        if pid == tid:
            process.main_status = status
        elif process.threads is not None:
            process.threads.discard(tid)
        if process.main_status is None or process.threads:
            return None
        # All end with what exit_group(2) was told. Without it, what the main thread said counts (wait_task_zombie).
        process.status, process.ended = status or process.main_status, at
        self._gone(process)
        return process.lineage

    def _gone(self, process: Descendant) -> None:
        del self.by_pid[process.pid]
        process.lineage.living -= 1
