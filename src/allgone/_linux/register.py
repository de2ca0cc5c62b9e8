"""What a guard is to end: a list in memory that the supervisor writes and its guard reads (memfd_create(2)).

Nothing is told when it changes, so that a guard sleeps; each entry is written by one pwrite(2) within a page, which
SIGKILL does not tear. src/launcher/guard.c reads the header and the homes as well.

    page 0             version, number of pages with homes
    pages 1 to 1024    a home each: inode (0: not made yet), path with a 0 behind it; no path: free
    from there on      groups of 256 bytes; tag 0: free
"""

from __future__ import annotations

import os
import struct
import threading
from collections.abc import Iterator
from typing import NamedTuple

VERSION = 1
_PAGE = 4096
_HOMES = 1024
_HEADER = struct.Struct("=II")
_INODE = struct.Struct("=Q")
_GROUP = struct.Struct("=QQiBd40s128s")  # soft and hard tag, leader, flags, since, policy, name
_GROUP_SIZE = 256
_GROUPS_AT = (1 + _HOMES) * _PAGE
_SESSION, _SWEEP = 1, 2


class HomeEntry(NamedTuple):
    """A directory below which everything is to be ended."""

    path: str
    inode: int  # 0: it was about to be made


class GroupEntry(NamedTuple):
    """A process-group containment."""

    name: str
    tag: tuple[int, int]
    leader: int  # 0: not started yet
    session: bool
    sweep: bool
    since: float  # seconds since 1970
    policy: bytes  # `StopPolicy.packed()`


def _new_file() -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create("allgone", os.MFD_CLOEXEC)
    import tempfile  # a Python built for glibc before 2.27

    with tempfile.TemporaryFile() as f:
        return os.dup(f.fileno())


class Register:
    """The supervisor's side. Safe in threads."""

    def __init__(self) -> None:
        from allgone._linux import fds

        self._fd = fds.above_stdio(_new_file())
        self._lock = threading.Lock()
        self._homes: dict[int, str] = {}
        self._groups: set[int] = set()
        self._most_homes = 0
        self._write_header()

    def fileno(self) -> int:
        return self._fd

    def is_empty(self) -> bool:
        return not self._homes and not self._groups

    def add_home(self, path: str) -> int:
        """Its number. Raises ValueError for a path, OSError for a number of them, that there is no room for."""
        encoded = os.fsencode(path)
        if len(encoded) >= _PAGE - _INODE.size:
            raise ValueError(f"path too long: {path[:200]}…")
        with self._lock:
            number = _first_free(self._homes)
            if number >= _HOMES:
                raise OSError(f"a supervisor can have {_HOMES} scopes and directories of its own at a time")
            self._homes[number] = path
            self._write_home(number, 0)
            if number >= self._most_homes:
                self._most_homes = number + 1
                self._write_header()
        return number

    def home_made(self, number: int, inode: int) -> None:
        with self._lock:
            self._write_home(number, inode)

    def remove_home(self, number: int) -> None:
        with self._lock:
            del self._homes[number]
            os.pwrite(self._fd, bytes(_PAGE), (1 + number) * _PAGE)

    def _write_home(self, number: int, inode: int) -> None:
        entry = _INODE.pack(inode) + os.fsencode(self._homes[number])
        os.pwrite(self._fd, entry.ljust(_PAGE, b"\0"), (1 + number) * _PAGE)

    def add_group(self, entry: GroupEntry) -> int:
        with self._lock:
            number = _first_free(self._groups)
            self._groups.add(number)
            self._write_group(number, entry)
        return number

    def change_group(self, number: int, entry: GroupEntry) -> None:
        with self._lock:
            self._write_group(number, entry)

    def remove_group(self, number: int) -> None:
        with self._lock:
            os.pwrite(self._fd, bytes(_GROUP_SIZE), _GROUPS_AT + number * _GROUP_SIZE)
            self._groups.discard(number)

    def _write_group(self, number: int, entry: GroupEntry) -> None:
        flags = _SESSION * entry.session + _SWEEP * entry.sweep
        name = entry.name.encode()[:128]
        packed = _GROUP.pack(*entry.tag, entry.leader, flags, entry.since, entry.policy, name)
        os.pwrite(self._fd, packed.ljust(_GROUP_SIZE, b"\0"), _GROUPS_AT + number * _GROUP_SIZE)

    def _write_header(self) -> None:
        os.pwrite(self._fd, _HEADER.pack(VERSION, self._most_homes), 0)

    def close(self) -> None:
        os.close(self._fd)


def _first_free(taken: dict[int, str] | set[int]) -> int:
    if len(taken) not in taken:
        return len(taken)  # mostly: entries come and go at the end
    return next(number for number in range(len(taken) + 1) if number not in taken)


class UnknownVersion(ValueError):
    """Of a register that another version of allgone has written."""

    def __init__(self, version: int) -> None:
        super().__init__(version)
        self.version = version

    def __str__(self) -> str:
        return f"not a register, or another version's: of version {self.version}, and version {VERSION} is known"


def homes(fd: int) -> Iterator[HomeEntry]:
    """Those in the register that `fd` is open on. Raises ValueError for what is not one, `UnknownVersion` above all."""
    for number in range(min(_header(fd), _HOMES)):
        page = os.pread(fd, _PAGE, (1 + number) * _PAGE)
        path = page[_INODE.size :].partition(b"\0")[0]
        if path:
            yield HomeEntry(os.fsdecode(path), *_INODE.unpack_from(page))


def groups(fd: int) -> Iterator[GroupEntry]:
    """Those in the register that `fd` is open on. Raises ValueError for what is not one, `UnknownVersion` above all."""
    _header(fd)
    at = _GROUPS_AT
    while text := os.pread(fd, _PAGE, at):
        for start in range(0, len(text) - _GROUP_SIZE + 1, _GROUP_SIZE):
            soft, hard, leader, flags, since, policy, name = _GROUP.unpack_from(text, start)
            if soft:
                shown = name.rstrip(b"\0").decode("utf-8", "replace")
                yield GroupEntry(
                    shown, (soft, hard), leader, bool(flags & _SESSION), bool(flags & _SWEEP), since, policy
                )
        at += _PAGE


def _header(fd: int) -> int:
    """The number of pages with homes."""
    text = os.pread(fd, _HEADER.size, 0)
    if len(text) < _HEADER.size:
        raise ValueError("not a register, or another version's: it ends too early")
    version, pages = _HEADER.unpack(text)
    if version != VERSION:
        raise UnknownVersion(version)
    return int(pages)
