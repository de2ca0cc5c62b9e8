"""Containments whose supervisor is gone: ended by the same stop sequence as those of the living.

Used by the guard, which knows what its supervisor had, and by the janitor, which finds it.
"""

from __future__ import annotations

import math
import os
import select
import signal
import time
from collections.abc import Callable, Iterable, Sequence

from allgone._backends import marks
from allgone._backends.cgroup_containment import CgroupContainment
from allgone._backends.process_group import ProcessGroupContainment
from allgone._core.containment import Containment
from allgone._core.policy import DEFAULT, StopPolicy
from allgone._core.report import Process
from allgone._core.stop import Outcome, Steps, Stop, Wait
from allgone._core.usage import Spent
from allgone._linux import cgroupfs, processes
from allgone._linux.cgroupfs import Mount
from allgone._linux.register import GroupEntry
from allgone.errors import StopTimeout

AT_ONCE = DEFAULT.at_once()


class LeftHome:
    """A directory whose supervisor is gone."""

    def __init__(self, folder: str, mount: Mount) -> None:
        self.folder = self.top = folder
        self.mount = mount
        self.may_empty = ""

    def admits(self) -> bool:
        return False

    def admit(self, folder: str, leader: object) -> None:
        raise NotImplementedError("nothing is started here any more")

    def lost(self, *, suspected: bool = False) -> str:
        return ""

    def can_take_more(self) -> bool:
        return False

    def lives_on(self) -> bool:
        return True

    def let_go(self) -> None:
        pass

    def close(self) -> None:
        """Remove it with its ``guard/``; a scope is systemd's, which removes it when it is empty."""
        if not self.folder.endswith(".scope") and not cgroupfs.populated(self.folder):
            cgroupfs.remove_soon(self.folder)


def containments(home: LeftHome, *, released: bool = False) -> list[CgroupContainment]:
    """Those in a home, as far as it is still there; not those in which something was left running on purpose, unless
    `released`."""
    try:
        with os.scandir(home.folder) as entries:
            names = sorted(e.name for e in entries if e.is_dir(follow_symlinks=False) and e.name != "guard")
    except (FileNotFoundError, NotADirectoryError, PermissionError):  # the last: another user's, with a umask of 077
        return []
    found = [CgroupContainment(name, f"{home.folder}/{name}", home, lambda _: None, exists=True) for name in names]
    return [each for each in found if released or not marks.is_released(each.where())]


def noted_policy(containment: CgroupContainment) -> StopPolicy:
    """What its supervisor left word of; where it could not, to kill at once."""
    noted = marks.containment(containment.where())
    return AT_ONCE if noted is None else noted.policy


def mount_of(folder: str) -> Mount:
    """The cgroup2 mount that a directory is in. Raises ValueError where it is in none."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as f:
        mounts = cgroupfs.mounts(f.read())
    around = [m for m in mounts if folder == m.point or folder.startswith(m.point.rstrip("/") + "/")]
    if not around:
        raise ValueError(f"{folder} is in no cgroup2 file system")
    return max(around, key=lambda m: len(m.point))


class LeftGroups(ProcessGroupContainment):
    """Process-group containments of one supervisor that are gone with it: what carries one of their tags.

    As their leaders' numbers are not held any more, the tag alone is what tells that a process is theirs.
    """

    def __init__(self, entries: Sequence[GroupEntry]) -> None:
        super().__init__(
            ", ".join(entry.name for entry in entries), sweep=False, session=False, forget=lambda _: None,
            policy=AT_ONCE, keeper=None,
        )  # fmt: skip
        self._entries = entries
        self._soft = {entry.tag[0]: entry for entry in entries}
        self._hard = {entry.tag[1]: entry for entry in entries if entry.tag[0] == entry.tag[1]}

    def names(self) -> list[str]:
        return [entry.name for entry in self._entries]

    def _entry_of(self, pid: int) -> GroupEntry | None:
        limits = processes.limits(pid)
        return None if limits is None else self._soft.get(limits[0]) or self._hard.get(limits[1])

    def _is_tagged(self, pid: int) -> bool:
        return self._entry_of(pid) is not None

    def _is_member(self, pid: int) -> bool:
        entry = self._entry_of(pid)
        return entry is not None and (entry.sweep or not entry.leader or processes.session(pid) == entry.leader)

    def _is_inside(self, pid: int) -> bool:
        return self._is_member(pid)

    def kill(self) -> None:
        self._hold_still()
        self.kill_each()

    def where(self) -> str:
        return "their sessions"

    def leader_left(self) -> int:
        """A number that may be anybody's by now; 0 where it is not one leader's."""
        return self._entries[0].leader if len(self._entries) == 1 else 0


def end(
    ended: Iterable[tuple[Containment, StopPolicy]],
    tell: Callable[[Containment, Outcome | StopTimeout], None] = lambda *_: None,
) -> list[StopTimeout]:
    """Stop all of them at the same time; returns what could not be done. `tell` is told of each what came of it."""
    failed: list[StopTimeout] = []
    waiting: dict[int, tuple[Steps, Wait]] = {}
    jobs = [(each, Stop(each, _leaders(each, policy), policy)) for each, policy in ended]

    def go_on(number: int, steps: Steps) -> None:
        containment, stop = jobs[number]
        try:
            waiting[number] = steps, next(steps)
        except StopIteration:
            waiting.pop(number, None)
            tell(containment, stop.outcome)
        except StopTimeout as e:
            waiting.pop(number, None)
            failed.append(e)
            tell(containment, e)

    for number, (_, stop) in enumerate(jobs):
        go_on(number, stop.steps())
    while waiting:
        ready = _ready([wait for _, wait in waiting.values()])
        now = time.monotonic()
        for number, (steps, wait) in list(waiting.items()):
            if wait.deadline <= now or ready.intersection(wait.fds):
                go_on(number, steps)
    return failed


def _ready(waits: list[Wait]) -> set[int]:
    poller = select.poll()
    for wait in waits:
        for fd in wait.fds:
            poller.register(fd, select.POLLIN)
    soonest = min(wait.deadline for wait in waits)
    left = None if soonest == math.inf else math.ceil(max(0.0, soonest - time.monotonic()) * 1000)
    return {fd for fd, _ in poller.poll(left)}


class LeftLeader:
    """The leader of a containment whose supervisor is gone: nobody's child that we know of, so held by a pidfd."""

    counted = False
    used: Spent | None = None

    def __init__(self, pid: int, fd: int) -> None:
        self.pid = pid
        self._fd = fd

    def has_ended(self) -> bool:
        poller = select.poll()
        poller.register(self._fd, select.POLLIN)
        return bool(poller.poll(0))

    def holds_its_number(self) -> bool:
        return not self.has_ended()

    def fileno(self) -> int:
        return self._fd

    def send(self, signum: int) -> None:
        try:
            signal.pidfd_send_signal(self._fd, signum)
        except (ProcessLookupError, PermissionError):
            pass  # gone, which is as good; or another user's by now, which SIGKILL to the cgroup reaches


def _leaders(containment: Containment, policy: StopPolicy) -> tuple[LeftLeader, ...]:
    """Whom ``kill_mode="mixed"`` means, if it still is there."""
    if policy.timeout_stop == 0 or policy.kill_mode == "control-group":
        return ()
    pid = containment.leader_left() if isinstance(containment, LeftGroups) else marks.leader(containment.where())
    try:
        fd = os.pidfd_open(pid) if pid > 0 else -1
    except OSError:  # gone
        return ()
    if fd < 0 or pid not in containment.members():
        if fd >= 0:
            os.close(fd)
        return ()
    return (LeftLeader(pid, fd),)


def described(containment: Containment) -> tuple[Process, ...]:
    """Who is in it."""
    return processes.named(containment.members())
