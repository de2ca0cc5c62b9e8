"""Every containment on the machine that the caller may see: from directories' marks, and from guards' registers."""

from __future__ import annotations

import errno
import math
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from allgone._backends import marks
from allgone._backends.cgroup_containment import CgroupContainment
from allgone._core.containment import Containment
from allgone._core.policy import StopPolicy
from allgone._core.report import Process
from allgone._linux import cgroupfs, freezer, processes, register
from allgone._linux.register import GroupEntry, UnknownVersion
from allgone._upkeep import janitor, leftovers
from allgone._upkeep.leftovers import LeftGroups, LeftHome


class Foreign(CgroupContainment):
    """A containment of another supervisor: it can be ended, and its directory is that one's to remove."""

    def remove(self) -> bool:
        return not cgroupfs.populated(self.where())


class ForeignGroup(LeftGroups):
    """A process-group containment of another supervisor. Of a user's, only what is that user's is touched: who can
    write a register can write any tag into it."""

    def __init__(self, entry: GroupEntry, uid: int) -> None:
        super().__init__([entry])
        self._uid = uid

    def _entry_of(self, pid: int) -> GroupEntry | None:
        try:
            if self._uid != 0 and os.stat(f"/proc/{pid}").st_uid != self._uid:
                return None
        except FileNotFoundError:
            return None
        return super()._entry_of(pid)

    def tags(self) -> frozenset[int]:
        return frozenset((*self._soft, *self._hard))

    def has(self, pid: int) -> bool:
        return self._is_member(pid) and processes.is_alive(pid)


@dataclass(frozen=True, slots=True)
class Item:
    """A containment that was found."""

    name: str
    id: str  # unique on the machine
    backend: str
    uid: int
    owner: int | None  # pid; None where it is not known, or of another pid namespace
    owner_command: str
    command: str
    unit: str  # "" where it is in none of systemd's
    where: str
    since: float | None  # seconds since 1970
    state: str  # "live", "stale", "released", "frozen", "freezing"
    containment: Containment
    policy: StopPolicy

    def memory(self) -> int | None:
        """Bytes; None where the controller is missing."""
        return _number(self.where, "memory.current", "") if self.backend == "cgroup" else None

    def cpu(self) -> float | None:
        """Seconds; None where it is not counted."""
        spent = _number(self.where, "cpu.stat", "usage_usec") if self.backend == "cgroup" else None
        return None if spent is None else spent / 1e6


class _Guard(NamedTuple):
    pid: int
    uid: int
    register: int  # the number of its fd
    supervisor: int


def items() -> list[Item]:
    """In the order of their names."""
    return sorted([*_in_cgroups(), *_groups()], key=lambda item: (item.owner or 0, item.id))


def members(found: Sequence[Item]) -> list[frozenset[int]]:
    """Who is in each of them. For all process groups together, every process on the machine is looked at once."""
    groups = [(item.containment, set[int]()) for item in found if isinstance(item.containment, ForeignGroup)]
    by_tag: dict[int, list[tuple[ForeignGroup, set[int]]]] = {}
    for group, pids in groups:
        for tag in group.tags():
            by_tag.setdefault(tag, []).append((group, pids))
    for pid in processes.all_pids() if groups else ():
        for tag in set(processes.limits(pid) or ()):
            for group, pids in by_tag.get(tag, ()):
                if group.has(pid):
                    pids.add(pid)
    of_groups = {group: frozenset(pids) for group, pids in groups}
    return [
        of_groups[item.containment] if isinstance(item.containment, ForeignGroup) else item.containment.members()
        for item in found
    ]


def freeze(item: Item, frozen: bool) -> None:
    """Freeze all its processes, or let them go on (cgroup.freeze). They take a moment.

    Raises `Unsupported` for process groups, and before Linux 5.2; OSError where it is another user's.
    """
    if not frozen:
        item.containment.thaw()
        return
    try:
        with item.containment.freezing():
            pass  # no wait: the next look shows it
    except ValueError:
        pass  # gone


def homes() -> Iterator[str]:
    """All directories that supervisors have made, in every cgroup2 file system that is mounted here."""
    return filter(janitor.is_home, _cgroups())


def of_unknown_versions() -> list[str]:
    """What was made by versions of allgone that this one doesn't know, in words. All that is here leaves it alone."""
    which = "of version {}, which this allgone does not know"
    found = [
        f"{folder}: its mark is {which.format(version)}"
        for folder in _cgroups()
        if (version := marks.unknown_version(folder))
    ]
    for guard in _guards():
        try:
            _read(guard)
        except UnknownVersion as e:
            found.append(
                f"process groups of process {guard.supervisor}: its guard's register is {which.format(e.version)}"
            )
    return found


def _cgroups() -> Iterator[str]:
    """The directories of all cgroups that are to be seen here."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as f:
        mounts = cgroupfs.mounts(f.read())
    seen: set[int] = set()  # one may be mounted twice
    todo = [mount.point for mount in mounts]
    while todo:
        folder = todo.pop()
        try:
            inode = os.stat(folder, follow_symlinks=False).st_ino
            if inode in seen:
                continue
            seen.add(inode)
            with os.scandir(folder) as entries:
                todo += [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
        except (FileNotFoundError, PermissionError):
            continue  # removed meanwhile; or closed to us by another user
        except OSError as e:
            if e.errno != errno.ENAMETOOLONG:  # so deep only who means harm goes
                raise
            continue
        yield folder


def _in_cgroups() -> Iterator[Item]:
    for folder in homes():
        owner = marks.owner(folder)
        home = LeftHome(folder, leftovers.mount_of(folder))
        with janitor.held(folder, shared=True) as is_stale:
            state = "stale" if is_stale else "live"
        for found in leftovers.containments(home, released=True):
            try:
                uid = os.stat(found.where()).st_uid
            except FileNotFoundError:
                continue
            noted = marks.containment(found.where())
            is_here = owner is not None and owner.is_alive()
            yield Item(
                name=found.name,
                id=f"{os.path.basename(folder)}/{found.name}",
                backend="cgroup",
                uid=uid,
                owner=owner.pid if owner is not None and owner.is_here() else None,
                owner_command=processes.command(owner.pid) if owner is not None and is_here else "",
                command=" ".join(noted.command) if noted is not None else "",
                unit=next((part for part in reversed(folder.split("/")) if part.endswith((".scope", ".service"))), ""),
                where=found.where(),
                since=noted.since if noted is not None else None,
                state=_frozen(found.where()) or ("released" if marks.is_released(found.where()) else state),
                containment=Foreign(found.name, found.where(), home, lambda _: None, exists=True),
                policy=leftovers.noted_policy(found),
            )


def _groups() -> Iterator[Item]:
    for guard in _guards():
        for entry in _entries(guard):
            found = ForeignGroup(entry, guard.uid)
            yield Item(
                name=entry.name,
                id=f"{guard.supervisor}/{entry.name}",
                backend="process-group",
                uid=guard.uid,
                owner=guard.supervisor,
                owner_command=processes.command(guard.supervisor),
                command=processes.command(entry.leader),
                unit="",
                where=f"session {entry.leader}",
                since=entry.since,
                state="live",
                containment=found,
                policy=StopPolicy.unpacked(entry.policy),
            )


def _entries(guard: _Guard) -> list[GroupEntry]:
    try:
        return list(filter(_makes_sense, _read(guard)))
    except UnknownVersion:
        return []  # see of_unknown_versions()


def _read(guard: _Guard) -> list[GroupEntry]:
    """What is in a guard's register. Raises `UnknownVersion`."""
    try:
        fd = os.open(f"/proc/{guard.pid}/fd/{guard.register}", os.O_PATH | os.O_CLOEXEC)
    except OSError:  # it ended; or it is another user's
        return []
    try:
        # Anybody can be called allgone-guard: a pipe would wait for a writer, and a device may do anything.
        facts = os.fstat(fd)
        if not stat.S_ISREG(facts.st_mode) or facts.st_size > _MOST_OF_REGISTER:
            return []
        with open(f"/proc/self/fd/{fd}", "rb") as f:
            return list(register.groups(f.fileno()))
    except UnknownVersion:
        raise
    except (PermissionError, ValueError):
        return []  # another user's; none of ours
    finally:
        os.close(fd)


def _makes_sense(entry: GroupEntry) -> bool:
    try:
        StopPolicy.unpacked(entry.policy)
    except ValueError:
        return False
    return processes.is_tag(entry.tag[0]) and math.isfinite(entry.since)


def _guards() -> Iterator[_Guard]:
    for pid in processes.all_pids():
        words = processes.words(pid)
        at = next((n for n, word in enumerate(words[:5]) if os.path.basename(word) in _PROGRAMS), None)
        try:
            if at is not None and words[at + 4] != "-" and len(words[-1]) < _DIGITS:
                yield _Guard(pid, os.stat(f"/proc/{pid}").st_uid, int(words[at + 4]), int(words[-1]))
        except (ValueError, IndexError, FileNotFoundError):
            continue  # called so by somebody else, or gone


_PROGRAMS = ("allgone-guard", "interpreted_guard.py")
_DIGITS = 10  # more than a pid has
_MOST_OF_REGISTER = 64 << 20  # bytes; half a million groups


def strays() -> tuple[Process, ...]:
    """Processes from process-group containments that no guard knows (any more): what left one of them and outlived it,
    above all. Only those of the user that we are, unless that is root: other guards' registers can't be read."""
    known = {tag for guard in _guards() for entry in _entries(guard) for tag in entry.tag}
    found = []
    for pid in processes.all_pids():
        limits = processes.limits(pid)
        if limits is not None and processes.is_tag(limits[0]) and not known.intersection(limits):
            found.append(pid)
    return processes.described(pid for pid in found if processes.is_alive(pid) and _is_ours(pid))


def _is_ours(pid: int) -> bool:
    try:
        return os.geteuid() in (0, os.stat(f"/proc/{pid}").st_uid)
    except FileNotFoundError:
        return False


def _frozen(folder: str) -> str:
    """ "frozen" or "freezing", or "" for what runs."""
    try:
        if not freezer.is_frozen(folder):
            return ""
        return "frozen" if b"frozen 1" in cgroupfs.read(folder + "/cgroup.events") else "freezing"
    except OSError:  # gone meanwhile
        return ""


def _number(folder: str, file: str, key: str) -> int | None:
    try:
        text = cgroupfs.read(f"{folder}/{file}").decode()
    except OSError:  # no such controller; or gone
        return None
    for line in text.splitlines():
        name, _, value = line.rpartition(" ")
        if name == key:
            return int(value)
    return None
