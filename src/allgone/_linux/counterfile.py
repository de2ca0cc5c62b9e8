"""Numbers that many processes of one user add to: a file of slots, of which each adds to one that it has locked.

Nobody waits: who finds a slot locked takes the next, for a process may be frozen while it has one. SIGKILL leaves a
slot as it was or as it is to be, since one write within a page is not interrupted. The locks are those of open file
descriptions (fcntl(2)), and so are good between threads too. The size is bounded: 64 slots of a kilobyte.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct
from collections.abc import Sequence

_SLOTS = 64
_SLOT_SIZE = 1024  # a part of a page
_LOCK = struct.Struct("hhqqi0q")  # struct flock: type, whence, start, length, pid


def add(path: str, numbers: Sequence[float]) -> None:
    """Add them to the file's, which is made where it is missing.

    Raises OSError where it can't be written, is not a file of this user's alone, or every slot is locked.
    """
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o644)
    try:
        _check(fd, os.geteuid(), path)
        for slot in range(_SLOTS):
            if _lock(fd, slot, fcntl.F_WRLCK):
                there = _read(fd, slot, len(numbers))
                text = struct.pack(f"={len(numbers)}d", *(a + b for a, b in zip(there, numbers, strict=True)))
                os.pwrite(fd, text, slot * _SLOT_SIZE)
                return
        raise OSError(errno.EAGAIN, "every slot is locked", path)
    finally:
        os.close(fd)


def total(path: str, count: int, uid: int) -> list[float]:
    """The sums of so many numbers. Raises OSError, also where it is not a file of user `uid` alone."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        size = _check(fd, uid, path)
        sums = [0.0] * count
        for slot in range(min(_SLOTS, -(-size // _SLOT_SIZE))):
            _lock(fd, slot, fcntl.F_RDLCK)  # so that it is not read while it is written; else it is read as it is
            sums = [a + b for a, b in zip(sums, _read(fd, slot, count), strict=True)]
        return sums
    finally:
        os.close(fd)


def _check(fd: int, uid: int, path: str) -> int:
    """Its size. In a directory that others may write to, a name says nothing about whose a file is."""
    facts = os.fstat(fd)
    if not stat.S_ISREG(facts.st_mode) or facts.st_uid != uid or facts.st_nlink != 1:
        raise OSError(errno.EPERM, f"not a file of user {uid} alone", path)
    return facts.st_size


def _lock(fd: int, slot: int, kind: int) -> bool:
    try:
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _LOCK.pack(kind, os.SEEK_SET, slot * _SLOT_SIZE, _SLOT_SIZE, 0))
    except OSError as e:
        if e.errno not in (errno.EAGAIN, errno.EACCES):
            raise
        return False
    return True


def _read(fd: int, slot: int, count: int) -> tuple[float, ...]:
    """What is in a slot; zeros where nothing was written yet."""
    text = os.pread(fd, count * 8, slot * _SLOT_SIZE)
    return struct.unpack(f"={count}d", text.ljust(count * 8, b"\0"))
