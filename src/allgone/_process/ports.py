"""`free_port` and `reserved_port`: a TCP port for a server that has to be told one, and that nobody else is given."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from allgone._linux import ports

_FIRST, _LAST = 10_000, 65_535  # below are the ports that servers have by default
_locks: dict[int, socket.socket] = {}


def free_port() -> int:
    """A TCP port that is free, and that is given to nobody else who asks: in no thread and no other process, until this
    process ends.

    It is bound at no address when this returns, so whichever server may bind it, with or without SO_REUSEADDR. The
    kernel does not choose it for others either: it is outside of net.ipv4.ip_local_port_range (ip(7)), unless that
    leaves no other. Only who binds the number by name can take it. Where that is not good enough, ``sockets=`` hands
    over a socket that is bound already, and ``network="private"`` has all ports for itself.

    Each takes an fd. `reserved_port` gives it back.

    Raises OSError where no port is free (EADDRINUSE), or no fd (EMFILE).
    """
    for port in _candidates():
        lock = ports.locked(port)
        if lock is None:
            continue
        if ports.is_free(port):
            _locks[port] = lock
            return port
        lock.close()
    raise OSError(errno.EADDRINUSE, f"every port from {_FIRST} to {_LAST} is in use")


@contextmanager
def reserved_port() -> Iterator[int]:
    """`free_port()` for the length of a block.

    >>> with reserved_port() as port:
    ...     10_000 <= port <= 65_535
    True

    Raises what `free_port()` raises.
    """
    port = free_port()
    try:
        yield port
    finally:
        _locks.pop(port).close()


def _candidates() -> Iterator[int]:
    """Each port once, from somewhere on: those first that the kernel gives to nobody by itself."""
    by_kernel = ports.handed_out()
    below, above = range(_FIRST, min(by_kernel.start, _LAST + 1)), range(max(by_kernel.stop, _FIRST), _LAST + 1)
    for numbers in ([*below, *above], range(max(by_kernel.start, _FIRST), min(by_kernel.stop, _LAST + 1))):
        begin = int.from_bytes(os.urandom(4), "little") % len(numbers) if numbers else 0
        yield from numbers[begin:]
        yield from numbers[:begin]
