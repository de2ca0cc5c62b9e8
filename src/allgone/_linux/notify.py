"""The datagram socket that NOTIFY_SOCKET names (sd_notify(3)): its address, and who sent what (unix(7))."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Callable
from typing import NamedTuple

from allgone._core.notification import MOST
from allgone._linux import pidfd

_PASS_PIDFD, _PIDFD = 76, 4  # SO_PASSPIDFD and SCM_PIDFD: Linux 6.5
_CREDENTIALS = struct.Struct("=iII")  # struct ucred
_FD = struct.Struct("=i")
_MOST_FDS = 253  # SCM_MAX_FD
_ROOM = sum(map(socket.CMSG_SPACE, (_CREDENTIALS.size, _FD.size, _FD.size * _MOST_FDS)))


class Datagram(NamedTuple):
    """One that came, and who sent it."""

    data: bytes  # cut at one byte more than a message may have
    pid: int  # 0 where it has no number in our pid namespace
    cgroup: int | None  # the id of the sender's cgroup, by the kernel; None where it does not tell


class NotifySocket:
    """An abstract socket: it is gone with the last process that has it open, has no path to be out of anybody's reach
    (another user's, a chroot's), and belongs to the network namespace that it is made in."""

    def __init__(self, make: Callable[[int, int], socket.socket] = socket.socket) -> None:
        name = f"allgone/notify/{os.getpid()}-{os.urandom(8).hex()}"
        self.address = f"@{name}"  # as NOTIFY_SOCKET has it
        self._socket = make(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
            try:
                self._socket.setsockopt(socket.SOL_SOCKET, _PASS_PIDFD, 1)
            except OSError:
                pass  # before Linux 6.5: there is the pid
            self._socket.bind(f"\0{name}")
        except BaseException:
            self._socket.close()
            raise

    def fileno(self) -> int:
        return self._socket.fileno()

    def receive(self) -> Datagram | None:
        """The next that has come; None if there is none. The fds that came along are closed: that is what
        sd_notify_barrier(3) waits for, and there is no file descriptor store."""
        flags = socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC
        try:
            data, ancillary, _, _ = self._socket.recvmsg(MOST + 1, _ROOM, flags)
        except BlockingIOError:
            return None
        pid, cgroup, ours = 0, None, False
        for level, kind, value in ancillary:
            if level != socket.SOL_SOCKET:
                continue
            if kind == socket.SCM_CREDENTIALS:
                pid, ours = _CREDENTIALS.unpack_from(value)[0], True
            elif kind == _PIDFD:
                cgroup = _cgroup_of(_fds(value))
            elif kind == socket.SCM_RIGHTS:
                for fd in _fds(value):
                    os.close(fd)
        return Datagram(data, pid, cgroup) if ours else None  # without: the end, after hang_up()

    def hang_up(self) -> None:
        """Whoever waits for the socket wakes up, and who sends gets EPIPE, also where a fork of ours has it open."""
        self._socket.shutdown(socket.SHUT_RD)

    def close(self) -> None:
        """Idempotent."""
        self._socket.close()


def _fds(value: bytes) -> list[int]:
    return [fd for (fd,) in _FD.iter_unpack(value[: len(value) - len(value) % _FD.size])]


def _cgroup_of(fds: list[int]) -> int | None:
    found = None
    for fd in fds:
        if fd >= 0:  # else an errno: we may have no more fds
            try:
                found = pidfd.cgroup_id(fd)
            finally:
                os.close(fd)
    return found
