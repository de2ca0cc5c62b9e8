"""Sockets that listen: facts about one, and which are meant by a port, a host and a protocol."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import NamedTuple

Address = IPv4Address | IPv6Address
PROTOS = ("tcp", "udp", "unix")


@dataclass(frozen=True, slots=True)
class ListeningSocket:
    """A socket that accepts connections or datagrams.

    proto
        ``"tcp"``, ``"udp"`` or ``"unix"``.
    address
        An IP address, or the path of a unix socket as it was bound; ``"@name"`` for an abstract one (unix(7)).
    port
        None for a unix socket.

    >>> str(ListeningSocket("tcp", "::1", 8000))
    'tcp [::1]:8000'
    """

    proto: str
    address: str
    port: int | None

    def __str__(self) -> str:
        if self.port is None:
            return f"{self.proto} {self.address}"
        return f"{self.proto} {f'[{self.address}]' if ':' in self.address else self.address}:{self.port}"


class Found(NamedTuple):
    """A listening socket as the kernel tells of it (sock_diag(7))."""

    socket: ListeningSocket
    inode: int
    cgroup: int | None  # id of the cgroup that made it; None where the kernel does not say
    only_v6: bool  # bound to :: and takes no IPv4 (IPV6_V6ONLY)
    uid: int | None  # who made it; None where the kernel does not say


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is asked for: the sockets of a protocol (None: of any), at a port or a unix socket's path (None: at any).

    `hosts` are the addresses that they must be reached by; none means that any address will do.
    """

    proto: str | None = None
    port: int | None = None
    path: str | None = None
    hosts: Sequence[Address] = ()

    def picks(self, found: Found) -> bool:
        """Whether it is of that protocol, and at that port or path."""
        socket = found.socket
        return (
            self.proto in (None, socket.proto)
            and self.port in (None, socket.port)
            and self.path in (None, socket.address)
        )

    def is_met_by(self, found: Found) -> bool:
        """Whether connections to one of the hosts reach it."""
        return not self.hosts or any(_takes(found, host) for host in self.hosts)

    def __str__(self) -> str:
        if self.path is not None:
            return f"unix {self.path}"
        if self.port is None:
            return f"{self.proto or 'any'} port"
        return " or ".join(str(ListeningSocket(self.proto or "any", str(host), self.port)) for host in self.hosts) or (
            f"{self.proto or 'any'} port {self.port}"
        )


def _takes(found: Found, host: Address) -> bool:
    bound = _plain(ip_address(found.socket.address))
    host = _plain(host)
    if bound == host:
        return True
    if not bound.is_unspecified:
        return host.is_unspecified and bound.version == host.version  # at some of the addresses that are meant
    return bound.version == host.version or (bound.version == 6 and not found.only_v6)


def _plain(address: Address) -> Address:
    """IPv4 for what is IPv4 in IPv6's clothes (::ffff:127.0.0.1); no zone."""
    if isinstance(address, IPv6Address):
        return address.ipv4_mapped or IPv6Address(int(address))
    return address
