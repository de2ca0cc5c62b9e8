"""A socket that is to entries what systemd's journal is: what was sent to it, taken apart."""

from __future__ import annotations

import array
import fcntl
import os
import socket
import struct
from pathlib import Path

_ROOM = 1 << 20


class Journal:
    """Entries by the native protocol (https://systemd.io/JOURNAL_NATIVE_PROTOCOL)."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self.path)
        self.was_sealed = False  # whether the last entry came in a file

    def entry(self) -> dict[str, list[str]]:
        """The next one. It has been sent before, or that is a failure."""
        data, ancillary, _, _ = self._socket.recvmsg(_ROOM, socket.CMSG_SPACE(4), socket.MSG_DONTWAIT)
        self.was_sealed = bool(ancillary)
        for _, kind, content in ancillary:
            assert (data, kind) == (b"", socket.SCM_RIGHTS)
            (fd,) = array.array("i", content)
            with open(fd, "rb") as f:
                seals = fcntl.fcntl(fd, fcntl.F_GET_SEALS)
                assert seals & (fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK) == 0xE
                data = os.pread(f.fileno(), os.fstat(fd).st_size, 0)
        return _parsed(data)

    def is_empty(self) -> bool:
        try:
            self._socket.recv(1, socket.MSG_DONTWAIT | socket.MSG_PEEK)
        except BlockingIOError:
            return True
        return False

    def close(self) -> None:
        self._socket.close()


def _parsed(data: bytes) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    while data:
        line, _, data = data.partition(b"\n")
        name, is_short, value = line.partition(b"=")
        if not is_short:
            (length,) = struct.unpack_from("<Q", data)
            value, data = data[8 : 8 + length], data[8 + length + 1 :]
        found.setdefault(name.decode(), []).append(value.decode())
    return found
