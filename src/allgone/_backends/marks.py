"""What is noted on the directories that we make, so that others can tell whose and what they are: xattrs.

The kernel drops them with the directory, so nothing goes stale. Where it has none for cgroups (before Linux 5.7)
nothing is noted, and all works without.
"""

from __future__ import annotations

import errno
import math
import os
import time
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from allgone._core.policy import StopPolicy

OWNER, CONTAINMENT = "user.allgone.owner", "user.allgone.containment"
LEADER, POLITE, RELEASED = "user.allgone.leader", "user.allgone.polite", "user.allgone.released"
JOB = "user.allgone.job"
_VERSION = "1"
_MOST = 1000  # bytes of a command
_MOST_PIDS = 1 << 22  # the kernel's PID_MAX_LIMIT: what is more, no supervisor has noted
_GONE = (errno.ENOENT, errno.ENODEV)
_NO_XATTRS = (errno.EOPNOTSUPP, errno.EPERM, errno.ENOSPC, errno.E2BIG)


class Owner(NamedTuple):
    """A supervisor, by what no other process shares."""

    pid: int
    started: int  # clock ticks since boot (proc_pid_stat(5), starttime)
    pid_namespace: int  # inode

    def is_here(self) -> bool:
        """Whether pids mean to us what they mean to it."""
        return self.pid_namespace == _pid_namespace()

    def is_alive(self) -> bool:
        """Whether it is seen to run; what can't be seen from here is not."""
        return self.is_here() and 0 < self.started == _started(self.pid)


class Noted(NamedTuple):
    """What is known of a containment."""

    since: float  # seconds since 1970
    policy: StopPolicy
    command: tuple[str, ...]


def note_owner(folder: str, pid: int | None = None) -> None:
    """That it is ours, or of process `pid`."""
    _set(folder, OWNER, _text_of_owner(pid or os.getpid()))


@lru_cache(maxsize=1)
def _text_of_owner(pid: int) -> bytes:
    return f"{_VERSION} {pid} {_started(pid)} {_pid_namespace()}".encode()


def owner_could_be_noted(folder: str) -> bool:
    """Whether the kernel has xattrs for cgroups, so that a home without a mark is none that anything ran in."""
    try:
        os.getxattr(folder, OWNER)
    except OSError as e:
        return e.errno != errno.EOPNOTSUPP  # ENOMEM, say: who can't tell is to leave it alone
    return True


def note_containment(folder: str, policy: StopPolicy, argv: Sequence[object]) -> None:
    words = b"\0".join(os.fsencode(word) if isinstance(word, (str, bytes, os.PathLike)) else b"?" for word in argv[:50])
    text = f"{_VERSION} {time.time():.3f} ".encode() + policy.packed() + b"\0" + words[:_MOST]
    _set(folder, CONTAINMENT, text)


def note_leader(folder: str, pid: int) -> None:
    _set(folder, LEADER, str(pid).encode())


def leader(folder: str) -> int:
    """A number that may be anybody's by now; 0 where none was noted."""
    text = _get(folder, LEADER)
    return int(text) if text.isdigit() and len(text) < 10 and int(text) <= _MOST_PIDS else 0


def note_polite(folder: str) -> None:
    """What runs in it is to be asked before it is killed. (src/launcher/guard.c reads this and the next.)"""
    _set(folder, POLITE, _VERSION.encode())


def note_released(folder: str) -> None:
    """A stop has left what runs in it on purpose: nobody is to end it."""
    _set(folder, RELEASED, _VERSION.encode())


def is_released(folder: str) -> bool:
    return bool(_get(folder, RELEASED))


def note_job(folder: str, origin: str) -> None:
    """It holds a runner's job, whose owner came from the cgroup directory `origin`."""
    _set(folder, JOB, f"{_VERSION} ".encode() + os.fsencode(origin))


def origin_of_job(folder: str) -> str:
    """Where the owner of the job in it came from; "" if there is no job in it that this version knows."""
    version, _, origin = _get(folder, JOB).partition(b" ")
    return os.fsdecode(origin) if version == _VERSION.encode() else ""


def owner(folder: str) -> Owner | None:
    """Whose home a directory is; None if it is none, or was made by a version that this one doesn't know."""
    words = _get(folder, OWNER).split(b" ")
    if len(words) != 4 or words[0] != _VERSION.encode():
        return None
    try:
        found = Owner(*map(int, words[1:]))
    except ValueError:  # somebody else wrote it
        return None
    return found if 0 < found.pid <= _MOST_PIDS else None


def unknown_version(folder: str) -> str:
    """Of the mark that a version of allgone which this one doesn't know has put on its home; "" where there is none.

    A mark begins with its version, whatever follows: that is all that one version must know of all others.
    """
    version = _get(folder, OWNER).partition(b" ")[0]
    return version.decode() if version.isdigit() and len(version) < 10 and version != _VERSION.encode() else ""


def containment(folder: str) -> Noted | None:
    """What a directory holds; None where nothing was noted that this version knows."""
    head, _, command = _get(folder, CONTAINMENT).partition(b"\0")
    version, _, rest = head.partition(b" ")
    since, _, policy = rest.partition(b" ")
    if version != _VERSION.encode():
        return None
    try:
        found = Noted(
            float(since), StopPolicy.unpacked(policy), tuple(os.fsdecode(word) for word in command.split(b"\0"))
        )
    except ValueError:
        return None
    return found if math.isfinite(found.since) else None


def _set(folder: str, name: str, value: bytes) -> None:
    try:
        os.setxattr(folder, name, value)
    except OSError as e:
        if e.errno not in (*_GONE, *_NO_XATTRS):  # who removed it will be told of by what comes next
            raise


def _get(folder: str, name: str) -> bytes:
    try:
        return os.getxattr(folder, name)
    except OSError as e:
        if e.errno not in (errno.ENODATA, errno.ENOENT, errno.ENODEV, errno.EACCES, *_NO_XATTRS):
            raise
        return b""


def _started(pid: int) -> int:
    """When it started, in clock ticks since boot; 0 if there is no such process."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as f:
            return int(f.read().rpartition(b")")[2].split()[19])
    except (FileNotFoundError, ProcessLookupError):
        return 0


def _pid_namespace() -> int:
    return os.stat("/proc/self/ns/pid").st_ino
