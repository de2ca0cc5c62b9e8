"""`free_port`: a TCP port for a server that has to be told one, which nobody else is given meanwhile."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from types import TracebackType

from allgone._linux import ports

_FIRST, _LAST = 10_000, 65_535  # below are the ports that servers have by default
_held: set[FreePort] = set()


class FreePort(int):
    """A port's number, kept from others who ask `free_port()` until `close()` or the end of this process.

    A context manager. To pickle it gives a plain int: the reservation stays with who made it.
    """

    _lock: socket.socket | None = None

    def close(self) -> None:
        """Let others have it. Idempotent."""
        lock, self._lock = self._lock, None
        _held.discard(self)
        if lock is not None:
            lock.close()

    def __enter__(self) -> FreePort:
        return self

    def __exit__(self, kind: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def __reduce__(self) -> tuple[type[int], tuple[int]]:
        return int, (int(self),)


def free_port() -> FreePort:
    """Reserve a TCP port: an int that this function gives to nobody else, in no thread and no other process.

    It is bound at no address when this returns, so whichever server may bind it, with or without SO_REUSEADDR. The
    kernel does not choose it for others either: it is outside of net.ipv4.ip_local_port_range (ip(7)), unless that
    leaves no other. Only who binds the number by name can take it. Where that is not good enough, ``sockets=`` hands
    over a socket that is bound already, and ``network="private"`` has all ports for itself.

    It is reserved until the end of this process, or of its block, or until its `close()`; each takes an fd.

    >>> with free_port() as port:
    ...     10_000 <= port <= 65_535
    True

    Raises OSError where no port is free (EADDRINUSE), or no fd (EMFILE).
    """
    for number in _candidates():
        lock = ports.locked(number)
        if lock is None:
            continue
        if ports.is_free(number):
            port = FreePort(number)
            port._lock = lock
            _held.add(port)
            return port
        lock.close()
    raise OSError(errno.EADDRINUSE, f"every port from {_FIRST} to {_LAST} is in use")


def _candidates() -> Iterator[int]:
    """Each port once, from somewhere on: those first that the kernel gives to nobody by itself."""
    everywhere = range(_FIRST, _LAST + 1)
    by_kernel = ports.handed_out()
    for numbers in (
        [number for number in everywhere if number not in by_kernel],
        [number for number in everywhere if number in by_kernel],
    ):
        begin = int.from_bytes(os.urandom(4), "little") % len(numbers) if numbers else 0
        yield from numbers[begin:]
        yield from numbers[:begin]
