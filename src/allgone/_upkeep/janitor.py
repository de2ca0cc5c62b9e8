"""What lost both its supervisor and its guard: found by the lock that nobody holds, ended, and removed.

A home is left alone unless it is certain that nobody will take care of it: its lock can be taken, no guard is in its
``guard/``, its owner is not seen to run, and it is of the user that we are.
"""

from __future__ import annotations

import errno
import fcntl
import itertools
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from allgone._backends import marks
from allgone._core.containment import Containment
from allgone._core.report import Process
from allgone._core.stop import Outcome
from allgone._linux import cgroupfs, systemd
from allgone._upkeep import leftovers, telling
from allgone._upkeep.leftovers import AT_ONCE, LeftHome
from allgone.errors import StopTimeout, SystemdError

_NAME = re.compile(r"allgone-[0-9]+-[0-9a-f]{8}(\.scope)?")
_FRESH = 60.0  # seconds in which one without a mark may be just being made
_AT_A_TIME = 8  # containments: each takes three fds, and a user's process may have few


class Swept(NamedTuple):
    """What a janitor found in a home, and whether it is gone now."""

    folder: str
    owner: marks.Owner | None
    processes: tuple[Process, ...]
    left: tuple[str, ...]  # what could not be ended, in words; empty is good

    def __str__(self) -> str:
        who = ", ".join(map(str, self.processes)) or "nothing ran in it"
        whose = f"of process {self.owner.pid}, which is gone" if self.owner is not None else "of an unknown process"
        return f"{self.folder}, {whose}: {who}"


def is_home(folder: str) -> bool:
    """Whether a supervisor made it. (One that was killed while it did, long enough ago, has left no mark, but then
    nothing runs in it either; else it is somebody else's, with a name like ours.)"""
    if marks.owner(folder) is not None:
        return True
    if marks.unknown_version(folder):
        return False  # what that version takes for certain, this one can't know
    if not _NAME.fullmatch(os.path.basename(folder)):
        return False
    if marks.owner_could_be_noted(folder) and cgroupfs.populated(folder):
        return False
    try:
        return time.time() - os.stat(folder).st_ctime > _FRESH
    except FileNotFoundError:
        return False


@contextmanager
def held(folder: str, *, shared: bool = False) -> Iterator[bool]:
    """Whether it is stale, and inside the block nobody else's to sweep (`shared`: by others who only look, as well)."""
    try:
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except (FileNotFoundError, PermissionError):
        yield False
        return
    try:
        mine = os.fstat(fd).st_uid == os.geteuid() or shared
        yield mine and _lock(fd, fcntl.LOCK_SH if shared else fcntl.LOCK_EX) and _is_left(folder, fd)
    finally:
        os.close(fd)


def _lock(fd: int, kind: int) -> bool:
    try:
        fcntl.flock(fd, kind | fcntl.LOCK_NB)
    except OSError as e:
        if e.errno != errno.EWOULDBLOCK:
            raise
        return False
    return True


def _is_left(folder: str, fd: int) -> bool:
    owner = marks.owner(folder)
    if owner is not None and owner.is_alive():  # it has execed, or forked in a way that lost its lock
        return False
    try:
        return os.stat(folder).st_ino == os.fstat(fd).st_ino and not cgroupfs.populated(folder + "/guard")
    except FileNotFoundError:
        return False


def sweep(folder: str) -> Swept | None:
    """End and remove what is in a stale home; None where it is not stale, or another janitor is at it."""
    with held(folder) as is_stale:
        if not is_stale:
            return None
        owner = marks.owner(folder)
        home = LeftHome(folder, leftovers.mount_of(folder))
        containments = leftovers.containments(home)
        if not containments and cgroupfs.populated(folder):
            return None  # only what was left running on purpose
        found: dict[Containment, tuple[Process, ...]] = {each: leftovers.described(each) for each in containments}
        failed: list[str] = []

        def tell(containment: Containment, outcome: Outcome | StopTimeout) -> None:
            pid = owner.pid if owner is not None else 0
            telling.ended(containment, "janitor", outcome, owner=pid, members=found[containment])

        for n in range(0, len(containments), _AT_A_TIME):
            few = containments[n : n + _AT_A_TIME]
            failed += map(str, leftovers.end(((each, AT_ONCE) for each in few), tell))
        home.close()
        failed += _stopped(folder) or _removed(folder)
        return Swept(folder, owner, tuple(itertools.chain(*found.values())), tuple(failed))


def _stopped(folder: str) -> list[str]:
    """Have a scope stopped: systemd overlooks that one is empty whose first process ended while it was being started.

    Returns what could not be done, in words. Nothing happens where the scope is gone, or has processes.
    """
    unit = os.path.basename(folder)
    if not unit.endswith(".scope") or cgroupfs.populated(folder) or systemd.pystemd_missing_because():
        return []
    is_root = os.geteuid() == 0 and "/user@0.service/" not in folder
    manager = systemd.SYSTEM if is_root else systemd.manager_of_user(os.geteuid())
    try:
        manager.stop_unit(unit)
    except SystemdError as e:
        return [f"cannot stop {unit}: {e}"]
    return []


def _removed(folder: str) -> list[str]:
    """The directory of a scope that is gone: systemd tries once, and it can be busy for a moment after the last end.

    Returns what could not be done, in words.
    """
    if not folder.endswith(".scope") or cgroupfs.populated(folder):
        return []
    try:
        return [] if cgroupfs.remove_soon(folder) else [f"{folder} can't be removed: it is busy"]
    except PermissionError as e:
        return [f"{folder} can't be removed: {e.strerror}"]


def look(folder: str) -> Swept | None:
    """What `sweep()` would find, without touching it."""
    with held(folder) as is_stale:
        if not is_stale:
            return None
        containments = leftovers.containments(LeftHome(folder, leftovers.mount_of(folder)))
        if not containments and cgroupfs.populated(folder):
            return None
        found = tuple(process for each in containments for process in leftovers.described(each))
        return Swept(folder, marks.owner(folder), found, ())


def sweep_beside(home: str) -> None:
    """Sweep the stale homes that are in the same directory as `home`, which is our own, and log what was there."""
    for folder in cgroupfs.beside(home, "allgone-"):
        try:
            swept = sweep(folder) if is_home(folder) else None
        except OSError as e:  # of no concern to a caller, who only wants to start something
            _log_failure(folder, e)
            continue
        if swept is not None:
            _log(swept)


def _log_failure(folder: str, e: OSError) -> None:
    import logging

    logging.getLogger("allgone").warning("%s is left as it is: %s", folder, e)


def _log(swept: Swept) -> None:
    import logging

    log = logging.getLogger("allgone")
    for each in swept.left:
        log.warning("%s", each)
    log.warning("removed %s", swept)
