"""Listening sockets by sock_diag(7), and who holds them."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Collection, Iterable
from socket import (
    AF_INET,
    AF_INET6,
    AF_NETLINK,
    AF_UNIX,
    IPPROTO_TCP,
    IPPROTO_UDP,
    SOCK_DGRAM,
    SOCK_RAW,
    inet_ntop,
    socket,
)
from typing import Any

from allgone._core.sockets import PROTOS, Found, ListeningSocket, Wanted
from allgone._linux import netns, processes

# A TCP socket that listens is in LISTEN; one of UDP has no state but CLOSE while it is not connected.
_CLOSE, _LISTEN = 7, 10
_STATES = {"tcp": 1 << _LISTEN, "udp": 1 << _CLOSE, "unix": 1 << _LISTEN | 1 << _CLOSE}
_NUMBERS = {"tcp": IPPROTO_TCP, "udp": IPPROTO_UDP}
_REQUEST, _DUMP = 0x1, 0x300  # NLM_F_REQUEST; NLM_F_ROOT | NLM_F_MATCH
_ERROR, _DONE = 2, 3
_NETLINK_SOCK_DIAG, _SOCK_DIAG_BY_FAMILY = 4, 20
_MOST_AT_A_TIME = 1 << 16  # bytes; the kernel fills less than half of it
# linux/inet_diag.h and linux/unix_diag.h
_SKV6ONLY, _CGROUP_ID = 11, 21
_UNIX_NAME, _UNIX_VFS = 0, 1
_JUMP, _IN_CGROUP = 1, 13


class Namespace:
    """A network namespace, and which of the processes asked for live in it. A context manager: it holds an fd."""

    def __init__(self, pids: list[int], *, is_own: bool) -> None:
        self.pids = pids
        self._is_own = is_own
        self._there: netns.NetworkNamespace | None = None

    def __enter__(self) -> Namespace:
        if not self._is_own:
            self._there = _held(self.pids)
        return self

    def __exit__(self, *_: object) -> None:
        there, self._there = self._there, None
        if there is not None:
            there.close()

    def listening(
        self, wanted: Wanted, *, cgroups: Collection[int] = (), only: Collection[int] | None = None
    ) -> list[Found]:
        """The listening sockets that are wanted; made in one of the cgroups, if any are given; of the inodes `only`.

        Where we may not enter the namespace (that takes CAP_SYS_ADMIN over it), no unix sockets, and whatever cgroups.

        Raises OSError where the kernel refuses: ENOENT (it has no CONFIG_INET_DIAG or CONFIG_UNIX_DIAG), EINVAL (no
        filter by cgroup, before Linux 5.8).
        """
        if not self._is_own and self._there is None:
            return []  # gone, with all who lived in it
        make = socket if self._there is None else self._there.socket
        try:
            with make(AF_NETLINK, SOCK_RAW, _NETLINK_SOCK_DIAG) as asked:  # of a namespace for as long as it is open
                return _listening(asked, wanted, cgroups, only)
        except PermissionError:
            if self._is_own:
                raise
            return next(filter(None, (_listening_as_shown_to(pid, wanted) for pid in self.pids)), [])


def own_namespace() -> Namespace:
    return Namespace([], is_own=True)


def namespaces(pids: Iterable[int]) -> list[Namespace]:
    """Those that these processes live in; the caller's own if there are no processes."""
    lives: dict[int, list[int]] = {}
    own = os.stat("/proc/self/ns/net").st_ino
    for pid in pids:
        try:
            lives.setdefault(os.stat(f"/proc/{pid}/ns/net").st_ino, []).append(pid)
        except (FileNotFoundError, ProcessLookupError):
            continue
        except PermissionError:  # another user's: nothing is known of it
            lives.setdefault(own, []).append(pid)
    return [Namespace(inside, is_own=number == own) for number, inside in (lives or {own: []}).items()]


def _held(pids: Iterable[int]) -> netns.NetworkNamespace | None:
    for pid in pids:
        try:
            return netns.NetworkNamespace(f"/proc/{pid}/ns/net")
        except (FileNotFoundError, ProcessLookupError):
            continue
    return None


def _listening(asked: socket, wanted: Wanted, cgroups: Collection[int], only: Collection[int] | None) -> list[Found]:
    found = []
    for proto in (wanted.proto,) if wanted.proto else PROTOS:
        if proto == "unix":
            found += _unix(asked, wanted.path, only)
        else:
            found += _inet(asked, proto, wanted.port or 0, cgroups, only)
    return [each for each in found if wanted.is_met_by(each)]


def _listening_as_shown_to(pid: int, wanted: Wanted) -> list[Found]:
    """What /proc/PID/net shows: the process's own network namespace (proc_pid_net(5))."""
    found: list[Found] = []
    for proto in _NUMBERS:
        for version in "", "6":
            try:
                with open(f"/proc/{pid}/net/{proto}{version}", encoding="ascii") as f:
                    lines = f.readlines()[1:]
            except (FileNotFoundError, ProcessLookupError, PermissionError):
                continue  # it has just ended; or has no IPv6
            found += filter(None, (_shown(proto, line.split()) for line in lines))
    return [each for each in found if wanted.picks(each) and wanted.is_met_by(each)]


def _shown(proto: str, fields: list[str]) -> Found | None:
    local, remote, state, uid, inode = fields[1], fields[2], fields[3], fields[7], fields[9]
    if not 1 << int(state, 16) & _STATES[proto] or not remote.endswith(":0000"):
        return None
    digits, port = local.split(":")
    # Words of four bytes, each as a number of this machine's.
    words = [int(digits[at : at + 8], 16) for at in range(0, len(digits), 8)]
    address = inet_ntop(AF_INET if len(words) == 1 else AF_INET6, struct.pack(f"={len(words)}I", *words))
    return Found(ListeningSocket(proto, address, int(port, 16)), int(inode), None, False, int(uid))


def _inet(asked: socket, proto: str, port: int, cgroups: Collection[int], only: Collection[int] | None) -> list[Found]:
    from pyroute2.netlink.diag import inet_diag_req

    class Request(inet_diag_req):  # type: ignore[misc]  # untyped
        nla_map = (("INET_DIAG_REQ_NONE", "none"), ("INET_DIAG_REQ_BYTECODE", "cdata"))

    found = []
    for family in (AF_INET, AF_INET6):
        request = Request()
        request["sdiag_family"], request["sdiag_protocol"] = family, _NUMBERS[proto]
        request["idiag_states"], request["idiag_sport"] = _STATES[proto], port
        if cgroups:
            request["attrs"] = [("INET_DIAG_REQ_BYTECODE", _made_in(cgroups))]
        found += _dump(asked, request, lambda data, at, end: _inet_message(proto, only, data, at, end))
    return found


def _made_in(cgroups: Collection[int]) -> bytes:
    """A filter for the kernel: made in one of these (struct inet_diag_bc_op; see ss(8)'s source for how others do)."""
    ids = list(cgroups)
    code = b""
    for left in range(len(ids) - 1, -1, -1):
        # Not in this one: on to the next, or beyond the end, which means no. In it: to the end, which means yes.
        code += struct.pack("=BBHQ", _IN_CGROUP, 12, 16 if left else 20, ids[left])
        code += struct.pack("=BBH", _JUMP, 4, 4 + 16 * left)
    return code


def _unix(asked: socket, path: str | None, only: Collection[int] | None) -> list[Found]:
    from pyroute2.netlink.diag import UDIAG_SHOW_NAME, UDIAG_SHOW_VFS, unix_diag_req

    request = unix_diag_req()
    request["sdiag_family"], request["udiag_states"] = AF_UNIX, _STATES["unix"]
    request["udiag_show"] = UDIAG_SHOW_NAME | UDIAG_SHOW_VFS
    file = _file_at(path)
    return _dump(asked, request, lambda data, at, end: _unix_message(path, file, only, data, at, end))


def _file_at(path: str | None) -> tuple[int, int] | None:
    """Inode and device of a path, as sock_diag tells of them."""
    if path is None or path.startswith("@"):
        return None
    try:
        facts = os.stat(path)
    except OSError:  # not there yet
        return None
    return facts.st_ino & 0xFFFFFFFF, os.major(facts.st_dev) << 20 | os.minor(facts.st_dev)


def _dump(asked: socket, request: Any, decode: Callable[[bytes, int, int], Found | None]) -> list[Found]:
    """What the kernel answers. The question is pyroute2's to write; the answer is read here: its decoder takes 50 us
    for each socket, and its class for this kind of netlink drops the kernel's refusals.
    """
    request["header"].update({"type": _SOCK_DIAG_BY_FAMILY, "flags": _REQUEST | _DUMP})
    request.encode()
    asked.send(request.data)
    found: list[Found] = []
    while True:
        data, at = asked.recv(_MOST_AT_A_TIME), 0
        while at < len(data):
            length, kind = struct.unpack_from("=IH", data, at)
            if kind == _DONE:
                return found
            if kind == _ERROR:
                number = -struct.unpack_from("=i", data, at + 16)[0]
                raise OSError(number, os.strerror(number), "sock_diag")
            if (each := decode(data, at + 16, at + length)) is not None:
                found.append(each)
            at += (length + 3) & ~3


def _inet_message(proto: str, only: Collection[int] | None, data: bytes, at: int, end: int) -> Found | None:
    uid, inode = struct.unpack_from("=II", data, at + 64)
    (port,) = struct.unpack_from("!H", data, at + 4)
    if port == 0 or (only is not None and inode not in only):  # 0: a UDP socket that is bound to nothing
        return None
    family = data[at]
    address = inet_ntop(family, data[at + 8 : at + (12 if family == AF_INET else 24)])
    cgroup, only_v6 = None, False
    for kind, value in _attributes(data, at + 72, end):
        if kind == _CGROUP_ID:
            (cgroup,) = struct.unpack("=Q", value)
        elif kind == _SKV6ONLY:
            only_v6 = value[0] != 0
    return Found(ListeningSocket(proto, address, port), inode, cgroup, only_v6, uid)


def _unix_message(
    path: str | None, file: tuple[int, int] | None, only: Collection[int] | None, data: bytes, at: int, end: int
) -> Found | None:
    kind, state = data[at + 1], data[at + 2]
    (inode,) = struct.unpack_from("=I", data, at + 4)
    if only is not None and inode not in only:
        return None
    attributes = dict(_attributes(data, at + 16, end))
    name = attributes.get(_UNIX_NAME, b"")
    if not name or (state == _CLOSE and kind != SOCK_DGRAM):  # a stream that is bound, and does not listen
        return None
    shown = os.fsdecode(b"@" + name[1:] if name[0] == 0 else name.rstrip(b"\0"))
    vfs = struct.unpack("=II", attributes[_UNIX_VFS]) if _UNIX_VFS in attributes else None
    if path is not None and shown != path and (file is None or vfs != file):
        return None
    return Found(ListeningSocket("unix", shown, None), inode, None, False, None)


def _attributes(data: bytes, at: int, end: int) -> Iterable[tuple[int, bytes]]:
    while at + 4 <= end:
        length, kind = struct.unpack_from("=HH", data, at)
        yield kind & 0x3FFF, data[at + 4 : at + length]
        at += (length + 3) & ~3


def inodes(pids: Iterable[int]) -> tuple[set[int], bool]:
    """Of all sockets that these processes hold, and whether every one of them could be looked at."""
    found: set[int] = set()
    complete = True
    for pid in pids:
        try:
            found |= _sockets_of(pid)
        except PermissionError:
            complete = False
    return found, complete


def holders(inode: int) -> list[int]:
    """Pids of all processes that hold the socket, as far as they may be looked at."""
    return [pid for pid in processes.all_pids() if inode in inodes((pid,))[0]]


def _sockets_of(pid: int) -> set[int]:
    found: set[int] = set()
    try:
        fds = os.listdir(f"/proc/{pid}/fd")
    except (FileNotFoundError, ProcessLookupError):
        return found
    for fd in fds:
        try:
            target = os.readlink(f"/proc/{pid}/fd/{fd}")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if target.startswith("socket:["):
            found.add(int(target[8:-1]))
    return found
