"""Pairs of veth(4) interfaces, by rtnetlink(7): pyroute2's messages on plain sockets.

Not by pyroute2's own sockets: these need an event loop of their own, and the caller's thread may be running one.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from ipaddress import IPv4Address
from typing import Any, NamedTuple

from allgone.errors import Unsupported

# RFC 2544 gives 198.18.0.0/15 to measurements in closed networks: no host of the Internet is there.
_NETWORK, _NETWORK_LENGTH = IPv4Address("198.18.0.0"), 15
_HALVES, _PAIRS_IN_HALF = 2, 1 << 15
_PREFIX_LENGTH = 31  # RFC 3021: both addresses are hosts'
# IPv6 needs 1280 (RFC 8200, section 5), so there is none at either end. Else what is inside could tell us, by router
# advertisements, to send it what is meant for others. (The sysctl for it is read-only in most containers.)
_MTU = 1279

_NEWLINK, _DELLINK, _GETLINK, _NEWADDR, _GETROUTE = 16, 17, 18, 20, 26  # rtnetlink(7)
_REQUEST, _ACK, _CREATE = 0x1, 0x4, 0x400 | 0x200  # netlink(7); to create, and not to change one that is there
_ERROR = 2
_HEADER, _CODE = struct.Struct("=IHHII"), struct.Struct("=i")
_IFF_UP = 1
_FIB_MATCH = 0x2000  # RTM_F_FIB_MATCH, Linux 4.13: tell the route that was found, and not only where it leads
_NO_WAY = (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EACCES, errno.EINVAL)  # no route; or "unreachable" and its like

_WHY_NOT = {
    errno.EPERM: "it takes CAP_NET_ADMIN in the network namespace that the supervisor is in: run that as root",
    errno.EOPNOTSUPP: "this kernel has no veth (CONFIG_VETH): modprobe veth",
}


class Pair(NamedTuple):
    """Interface indices: of the supervisor's end, in its own namespace, and of the other one, in the other's."""

    outside: int
    inside: int


def make(here: socket.socket, there: socket.socket, namespace: int) -> Pair:
    """A pair between the namespaces that these two netlink sockets are of; `namespace` is an fd of the second.

    It is called allgone0, or what number is free, and eth0 there. Raises `Unsupported` and OSError.
    """
    from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg

    other_end = [("IFLA_IFNAME", "eth0"), ("IFLA_MTU", _MTU), ("IFLA_NET_NS_FD", namespace)]
    kind = [("IFLA_INFO_KIND", "veth"), ("IFLA_INFO_DATA", {"attrs": [("VETH_INFO_PEER", {"attrs": other_end})]})]
    # The kernel sets the number.
    attributes = [("IFLA_IFNAME", "allgone%d"), ("IFLA_MTU", _MTU), ("IFLA_LINKINFO", {"attrs": kind})]
    try:
        _change(here, ifinfmsg(), _NEWLINK, {"attrs": attributes}, _CREATE)
    except OSError as e:
        if e.errno not in _WHY_NOT:
            raise
        raise Unsupported(f"no veth pair can be made: {_WHY_NOT[e.errno]} ({e.strerror})") from e
    made = _asked(there, ifinfmsg(), _GETLINK, {"attrs": [("IFLA_IFNAME", "eth0")]})
    return Pair(outside=made.get_attr("IFLA_LINK"), inside=made["index"])


def connect(here: socket.socket, there: socket.socket, pair: Pair) -> tuple[str, str]:
    """Give both ends an IPv4 address, and take them up; returns the addresses, the supervisor's first.

    To be called in the supervisor's namespace. Raises OSError.
    """
    from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
    from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg

    addresses = _free_addresses(here, pair.outside)
    for end, index, address in ((there, pair.inside, addresses[1]), (here, pair.outside, addresses[0])):
        attributes = [("IFA_LOCAL", address), ("IFA_ADDRESS", address)]
        values = {"family": socket.AF_INET, "prefixlen": _PREFIX_LENGTH, "index": index, "attrs": attributes}
        _change(end, ifaddrmsg(), _NEWADDR, values, _CREATE)
        _change(end, ifinfmsg(), _NEWLINK, {"index": index, "flags": _IFF_UP, "change": _IFF_UP})
    return addresses


def remove(there: socket.socket, index: int) -> None:
    """Both ends, by the one that has this index in the namespace of the socket. None there: nothing to do."""
    from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg

    try:
        _change(there, ifinfmsg(), _DELLINK, {"index": index})
    except OSError as e:
        if e.errno != errno.ENODEV:  # somebody inside has removed it
            raise


def _free_addresses(here: socket.socket, index: int) -> tuple[str, str]:
    """Two addresses that nobody else here uses or takes meanwhile.

    The kernel counts interfaces up, so those that are made at the same time have different numbers, and with them
    different addresses. What has had the number that comes to the same address, long ago, is looked for.
    """
    for half in range(_HALVES):
        lower = _NETWORK + 2 * (half * _PAIRS_IN_HALF + index % _PAIRS_IN_HALF)
        pair = str(lower), str(lower + 1)
        if not any(_is_known(here, address) for address in pair):
            return pair
    raise OSError(errno.EADDRINUSE, f"the addresses for a veth pair, in {_NETWORK}/{_NETWORK_LENGTH}, are used here")


def _is_known(here: socket.socket, address: str) -> bool:
    """Whether it is ours, or there is a way to it other than those that lead to large parts of the world."""
    from pyroute2.netlink.rtnl.rtmsg import rtmsg

    values = {"family": socket.AF_INET, "dst_len": 32, "flags": _FIB_MATCH, "attrs": [("RTA_DST", address)]}
    try:
        return bool(_asked(here, rtmsg(), _GETROUTE, values)["dst_len"] >= _NETWORK_LENGTH)
    except OSError as e:
        if e.errno not in _NO_WAY:
            raise
        return False


def _change(to: socket.socket, message: Any, kind: int, values: dict[str, object], flags: int = 0) -> None:
    _send(to, message, kind, values, _ACK | flags)
    _answer(to)


def _asked(of: socket.socket, message: Any, kind: int, values: dict[str, object]) -> Any:
    _send(of, message, kind, values, 0)
    answer = type(message)(_answer(of))
    answer.decode()
    return answer


def _send(to: socket.socket, message: Any, kind: int, values: dict[str, object], flags: int) -> None:
    for name, value in values.items():
        message[name] = value
    message["header"].update({"type": kind, "flags": _REQUEST | flags})
    message.encode()
    to.sendall(message.data)


def _answer(sent_to: socket.socket) -> bytes:
    """Raises OSError for one that is an error."""
    answer = sent_to.recv(1 << 16)
    if _HEADER.unpack_from(answer)[1] == _ERROR and (code := -_CODE.unpack_from(answer, _HEADER.size)[0]):
        raise OSError(code, os.strerror(code))
    return answer
