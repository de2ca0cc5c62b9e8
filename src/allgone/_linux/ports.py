"""TCP ports: which the kernel hands out by itself, whether one can be bound, and a lock on its number.

The lock is a name in the abstract namespace of unix sockets (unix(7)): like the port it is one of the network
namespace's, one process at a time has it, whichever user's, and it goes with the last fd, however its owner ends.
"""

from __future__ import annotations

import errno
import socket

_LOCK = "\0allgone-port-{}"
_BUSY = (errno.EADDRINUSE, errno.EACCES)  # the latter: below net.ipv4.ip_unprivileged_port_start, or a firewall of BPF


def handed_out() -> range:
    """The ports that the kernel itself chooses from, for port 0 and for connections (ip_local_port_range in ip(7))."""
    with open("/proc/sys/net/ipv4/ip_local_port_range", encoding="ascii") as f:
        first, last = map(int, f.read().split())
    return range(first, last + 1)


def locked(port: int) -> socket.socket | None:
    """The lock on a port, to be closed; None where another has it."""
    lock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        lock.bind(_LOCK.format(port))
    except OSError as e:
        lock.close()
        if e.errno == errno.EADDRINUSE:
            return None
        raise
    return lock


def is_free(port: int) -> bool:
    """Whether it can be bound at every address, also by who does not set SO_REUSEADDR: no connection lingers."""
    return all(_can_be_bound(family, address, port) for family, address in _addresses())


def _addresses() -> list[tuple[int, str]]:
    return [(socket.AF_INET, "0.0.0.0"), *([(socket.AF_INET6, "::")] if socket.has_ipv6 else [])]


def _can_be_bound(family: int, address: str, port: int) -> bool:
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            if family == socket.AF_INET6:
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            probe.bind((address, port))
    except OSError as e:
        if e.errno in _BUSY:
            return False
        if family == socket.AF_INET6 and e.errno in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
            return True  # IPv6 is switched off, so nobody has the port there
        raise
    return True
