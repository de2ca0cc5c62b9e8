"""Network namespaces and veth interfaces, looked at without the code under test."""

from __future__ import annotations

import os
import socket
import struct
import time
from types import TracebackType

from support.programs import PATIENCE, poll

_NEWNSID, _DELNSID, _GETNSID, _DELLINK = 88, 89, 90, 17
_SOL_NETLINK, _ADD_MEMBERSHIP, _GROUP_LINK, _GROUP_NSID = 270, 1, 1, 28
_ANY = -1  # as the id of a namespace: the kernel chooses


def own() -> str:
    """The namespace that the calling thread is in."""
    return os.readlink("/proc/thread-self/ns/net")


def of(pid: int) -> str:
    return os.readlink(f"/proc/{pid}/ns/net")


def links() -> set[str]:
    """The supervisors' ends of veth pairs, here."""
    return {name for _, name in socket.if_nameindex() if name.startswith("allgone")}


class WatchedLink:
    """One of our interfaces: whether it is gone."""

    def __init__(self, name: str) -> None:
        self._wanted: set[tuple[int, int]] = set()
        self._seen: set[tuple[int, int]] = set()
        self._events = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)
        try:
            self._events.bind((0, 0))
            for group in (_GROUP_LINK, _GROUP_NSID):
                self._events.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, group)
            if name:
                self._wanted.add((_DELLINK, socket.if_nametoindex(name)))
        except BaseException:
            self._events.close()
            raise

    def is_gone(self, within: float = PATIENCE) -> bool:
        deadline = time.monotonic() + within
        while not self._wanted <= self._seen:
            if not poll(self._events.fileno(), max(0.0, deadline - time.monotonic())):
                return False
            self._take()
        return True

    def _take(self) -> None:
        data = self._events.recv(1 << 16)
        while data:
            length, kind = struct.unpack_from("=IH", data)
            if kind == _DELNSID:
                self._seen.add((kind, _number_in(data[:length])))
            elif kind == _DELLINK:
                self._seen.add((kind, struct.unpack_from("=i", data, 20)[0]))
            data = data[(length + 3) & ~3 :]

    def __enter__(self) -> WatchedLink:
        return self

    def __exit__(self, kind: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None) -> None:
        self._events.close()


class Watched(WatchedLink):
    """The network namespace of a process, seen from ours: whether it is gone, and with it our end of a pair.

    It is not held by that: the kernel gives it a number here, and tells when that is free again.
    """

    def __init__(self, pid: int, link: str | None = None) -> None:
        super().__init__(link or "")
        fd = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY)
        try:
            _asked(_NEWNSID, fd, _ANY)  # an error if it has a number: each end of a pair needs one
            number = _number_in(_asked(_GETNSID, fd))
        finally:
            os.close(fd)
        assert number >= 0
        self._wanted.add((_DELNSID, number))


def _asked(kind: int, fd: int, number: int | None = None) -> bytes:
    attributes = struct.pack("=HHI", 8, 3, fd)  # NETNSA_FD
    if number is not None:
        attributes += struct.pack("=HHi", 8, 1, number)  # NETNSA_NSID
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW) as asks:
        flags = 5 if number is not None else 1
        asks.sendall(struct.pack("=IHHIIBxxx", 20 + len(attributes), kind, flags, 1, 0, 0) + attributes)
        return asks.recv(1 << 16)


def _number_in(message: bytes) -> int:
    at = 20
    while at < len(message):
        length, kind = struct.unpack_from("=HH", message, at)
        if kind == 1:
            return int(struct.unpack_from("=i", message, at + 4)[0])
        at += (length + 3) & ~3
    return -1
