"""An fd that is written to without ever waiting, whoever else shares its open file description."""

from __future__ import annotations

import errno
import os
import socket
import stat
from collections.abc import Callable

from allgone._linux import fds

_CHUNK = 1 << 16
_SMALL = 256  # bytes that a terminal or a pipe has room for when poll(2) says that it can be written to (n_tty_poll)


class Outlet:
    """What is still to be written to `fd`, in order. A context manager; leaving it writes nothing more.

    ``O_NONBLOCK`` belongs to the open file description (open(2)), which a terminal's shell and everybody in a pipeline
    share, so it is not set on `fd`: a terminal or a pipe is opened again, and send(2) has a flag. Where it can't be
    opened again (another user's terminal) it is written to in small pieces, when there is room.
    """

    def __init__(self, fd: int) -> None:
        self._waiting = bytearray()
        self._socket: socket.socket | None = None
        self._fd, self._write = self._opened(fd)

    def _opened(self, fd: int) -> tuple[int, Callable[[memoryview], int]]:
        mode = os.fstat(fd).st_mode
        if stat.S_ISSOCK(mode):
            own = self._socket = socket.socket(fileno=fds.copy(fd, 3))
            return own.fileno(), lambda data: own.send(data, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        most = _CHUNK
        if stat.S_ISFIFO(mode) or stat.S_ISCHR(mode):
            flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
            try:
                again = fds.above_stdio(os.open(f"/proc/self/fd/{fd}", flags))
                return again, lambda data: os.write(again, data)
            except OSError:
                most = _SMALL
        copy = fds.copy(fd, 3)
        return copy, lambda data: os.write(copy, data[:most])

    def __len__(self) -> int:
        """How many bytes are waiting; so it is false where none are."""
        return len(self._waiting)

    def fileno(self) -> int:
        """An fd to poll for POLLOUT while something is waiting."""
        return self._fd

    def add(self, data: bytes) -> None:
        """Nothing is written before `push()`."""
        self._waiting += data

    def push(self) -> None:
        """Write as much as there is room for; to be called when poll(2) says that there is some.

        Raises OSError (EPIPE, EIO, ENOSPC) where nothing can be written any more.
        """
        while self._waiting:
            with memoryview(self._waiting) as whole, whole[:_CHUNK] as piece:
                try:
                    written = self._write(piece)
                except BlockingIOError:
                    return
            del self._waiting[:written]
            if written < _CHUNK:
                return  # perhaps no more room: poll(2) will say

    def drop(self) -> int:
        """Forget what is waiting; returns how many bytes that was."""
        dropped = len(self._waiting)
        self._waiting.clear()
        return dropped

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        if self._socket is not None:
            self._socket.close()
        elif fd >= 0:
            os.close(fd)

    def __enter__(self) -> Outlet:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def nobody_reads(error: OSError) -> bool:
    """Whether `error`, of a write, says that the reader has gone: a closed pipe, a terminal that was hung up."""
    return error.errno in (errno.EPIPE, errno.EIO, errno.ECONNRESET)
