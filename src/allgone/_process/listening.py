"""Whose a listening socket is: a containment's, or somebody else's who is in the way."""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Iterable
from contextlib import ExitStack
from ipaddress import ip_address
from typing import TYPE_CHECKING, NamedTuple

from allgone._core.containment import Containment
from allgone._core.report import Port, Process
from allgone._core.sockets import PROTOS, Found, ListeningSocket, Wanted
from allgone._linux import processes, sockets
from allgone.errors import PortTaken

if TYPE_CHECKING:
    from allgone._core.sockets import Address

_MOST_IN_A_FILTER = 1000  # cgroups; the kernel's jumps reach 64 KiB


def wanted(port: int | str | os.PathLike[str] | None, host: str | None, proto: str | None) -> Wanted:
    """What a caller asks for. Raises ValueError and TypeError for what makes no sense, OSError for an unknown host."""
    if proto is not None and proto not in PROTOS:
        raise ValueError(f"proto must be one of {', '.join(PROTOS)}, not {proto!r}")
    if isinstance(port, (str, os.PathLike)):
        if host is not None or proto == "udp":
            raise ValueError(f"a unix socket ({port!r}) has no host, and is not of {proto or 'tcp'}")
        path = os.fspath(port)
        return Wanted("unix", path=f"@{path[1:]}" if path.startswith("\0") else path)
    if port is None:
        if host is not None:
            raise ValueError("a host needs a port")
        return Wanted(proto)
    if not isinstance(port, int) or isinstance(port, bool):
        raise TypeError(f"port must be a number, or a unix socket's path, not {port!r}")
    if proto == "unix" or not 1 <= port <= 65535:
        raise ValueError(f"port must be 1 to 65535, or a unix socket's path, not {port!r}")
    return Wanted(proto or "tcp", port, hosts=() if host is None else _addresses(host))


def _addresses(host: str) -> tuple[Address, ...]:
    try:
        return (ip_address(host),)
    except ValueError:
        import socket

        return tuple({ip_address(str(each[4][0])): None for each in socket.getaddrinfo(host, None)})


class Look(NamedTuple):
    """What a look found: sockets of the containment, and those of others at the same port."""

    ours: list[Found]
    others: list[Found]


def look(containment: Containment, wanted: Wanted, handed: Collection[int] = ()) -> Look:
    """Find what is wanted in every network namespace that members live in.

    A socket is the containment's if it was made in one of its cgroups, or if one of its processes holds it; for
    process groups those that left by setsid() count as well. `handed` are inodes of sockets of our own network that it
    was given, perhaps to live in another one. Raises OSError where the kernel does not say.
    """
    pids = containment.members() | containment.escapees()
    cgroups = containment.cgroup_ids()
    looked = Look([], [])
    for namespace in sockets.namespaces(pids):
        with namespace:
            _look_in(namespace, wanted, cgroups, looked)
    if handed and not looked.ours:
        held = sockets.inodes(sorted(pids))[0] & set(handed)
        looked.ours.extend(sockets.own_namespace().listening(wanted, only=held))
    return looked


def _look_in(place: sockets.Namespace, wanted: Wanted, cgroups: frozenset[int], looked: Look) -> None:
    any_port = wanted.port is None and wanted.path is None
    found = _without_the_others(place, wanted, cgroups) if any_port else place.listening(wanted)
    rest: list[Found] = []
    for each in found:
        (looked.ours if each.cgroup in cgroups else rest).append(each)
    if rest:
        held, complete = sockets.inodes(place.pids)
        looked.ours.extend(each for each in rest if each.inode in held)
        if complete:
            looked.others.extend(each for each in rest if each.inode not in held)


def _without_the_others(place: sockets.Namespace, wanted: Wanted, cgroups: frozenset[int]) -> list[Found]:
    """All that members listen on: the kernel picks what their cgroups made, from among the thousands that there may be
    on a machine. Only if they hold other sockets as well is all looked through."""
    made: list[Found] = []
    if 0 < len(cgroups) < _MOST_IN_A_FILTER:
        for proto in {"tcp", "udp"} & {wanted.proto or "tcp", wanted.proto or "udp"}:
            made += place.listening(Wanted(proto), cgroups=cgroups)
    held = sockets.inodes(place.pids)[0] - {each.inode for each in made}
    return made + place.listening(wanted, only=held) if held else made


def of(containment: Containment, wanted: Wanted) -> tuple[ListeningSocket, ...]:
    """What the containment listens on, of what is wanted."""
    return tuple(sorted({each.socket for each in look(containment, wanted).ours}, key=str))


def check_free(wanted: Wanted, passed: Iterable[int]) -> None:
    """Before anything is started. `passed` are fds that the child is given: a socket among them is its own.

    Raises `PortTaken`.
    """
    with sockets.own_namespace() as place:
        found = place.listening(wanted)
    if found:
        own = {os.fstat(fd).st_ino for fd in passed}
        refuse([each for each in found if each.inode not in own], frozenset())


def refuse(others: Iterable[Found], ours: frozenset[int]) -> None:
    """Raise `PortTaken` if others than the processes `ours` hold one of these; what was closed meanwhile is free."""
    for each in others:
        pids = frozenset(sockets.holders(each.inode))
        if pids and not pids & ours:
            raise _taken(each, pids)
        if not pids and _is_still_there(each):
            raise _taken(each, pids)


def _is_still_there(found: Found) -> bool:
    with sockets.own_namespace() as place:
        socket = found.socket
        again = place.listening(Wanted(socket.proto, socket.port, socket.address if socket.port is None else None))
    return any(each.inode == found.inode for each in again)


def _taken(found: Found, pids: frozenset[int]) -> PortTaken:
    holders = processes.described(pids)
    containment = _containment_of(pids)
    return PortTaken(str(found.socket), holders, containment, _who(found, containment, holders))


def _who(found: Found, containment: str, holders: tuple[Process, ...]) -> str:
    if not holders:
        by = "" if found.uid is None else f" of user {found.uid}"
        return f"by a process{by} that this user may not see"
    first = min(holders, key=lambda each: each.started or 0)
    more = f" and {len(holders) - 1} more" if len(holders) > 1 else ""
    since = f", since {time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(first.started))}" if first.started else ""
    of = f", of {containment}" if containment else ""
    return f"by {first}{more}: {first.command or '?'}{of}{since}"


def _containment_of(pids: frozenset[int]) -> str:
    from allgone._upkeep import inventory

    for item in inventory.items():
        if pids & item.containment.members():
            owner = f" ({item.owner_command})" if item.owner_command else ""
            return f"containment {item.name} of process {item.owner or '?'}{owner}"
    return ""


class Held:
    """The ports that a containment held when its stop began, to be looked at again after it."""

    def __init__(self, containment: Containment) -> None:
        self._found: list[tuple[sockets.Namespace, list[Found]]] = []
        with ExitStack() as stack:
            for place in sockets.namespaces(containment.members() | containment.escapees()):
                stack.enter_context(place)
                looked = Look([], [])
                _look_in(place, Wanted(), containment.cgroup_ids(), looked)
                self._found.append((place, looked.ours))
            self._stack = stack.pop_all()

    def close(self) -> None:
        """Let go of the namespaces. Idempotent."""
        self._stack.close()

    def now(self) -> tuple[Port, ...]:
        """Which there were, and whether each is free by now. To be called once."""
        ports = []
        with self._stack:
            for place, found in self._found:
                left = {each.inode for each in place.listening(Wanted())} if found else set()
                ports += [Port(*_facts(each.socket), released=each.inode not in left) for each in found]
        return tuple(sorted(set(ports), key=lambda port: (port.proto, port.port or 0, port.address)))


def _facts(socket: ListeningSocket) -> tuple[str, str, int | None]:
    return socket.proto, socket.address, socket.port
