"""Entries for systemd's journal, by its native protocol (https://systemd.io/JOURNAL_NATIVE_PROTOCOL)."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import struct
from collections.abc import Iterable

SOCKET = "/run/systemd/journal/socket"

_LENGTH = struct.Struct("<Q")
_TOO_LARGE = (errno.EMSGSIZE, errno.ENOBUFS)
_NOBODY = (errno.ENOENT, errno.ECONNREFUSED, errno.EACCES)  # no journal here, or none for us


def send(fields: Iterable[tuple[str, str]]) -> bool:
    """Send one entry; a field may come several times. Whether the journal has taken it: never waits for one that is
    busy, and without a journal nothing happens.

    Names are of capital letters, digits and underscores, and begin with a letter. Raises OSError where there are no
    fds or no memory.
    """
    data = encoded(fields)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as own:
        try:
            return _sent(own, data)
        except BlockingIOError:
            return False
        except OSError as e:
            if e.errno in _NOBODY:
                return False
            raise


def _sent(own: socket.socket, data: bytes) -> bool:
    flags = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL
    try:
        own.sendto(data, flags, SOCKET)
    except OSError as e:
        if e.errno not in _TOO_LARGE:
            raise
        fd = _sealed(data)
        try:
            own.sendmsg([], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack("i", fd))], flags, SOCKET)
        finally:
            os.close(fd)
    return True


def encoded(fields: Iterable[tuple[str, str]]) -> bytes:
    """As the journal takes them.

    >>> encoded([("PRIORITY", "6"), ("MESSAGE", "of two\\nlines")])
    b'PRIORITY=6\\nMESSAGE\\n\\x0c\\x00\\x00\\x00\\x00\\x00\\x00\\x00of two\\nlines\\n'
    """
    found = bytearray()
    for name, value in fields:
        text = value.encode("utf-8", "surrogateescape")
        if b"\n" in text:
            found += name.encode() + b"\n" + _LENGTH.pack(len(text)) + text + b"\n"
        else:
            found += name.encode() + b"=" + text + b"\n"
    return bytes(found)


def _sealed(data: bytes) -> int:
    """A file in memory that nobody can change any more: what the journal takes instead of a large datagram."""
    if not hasattr(os, "memfd_create"):  # a Python built for glibc before 2.27
        raise OSError(errno.ENOSYS, "no memfd_create(2) for a journal entry of this size")
    fd = os.memfd_create("allgone-journal", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        with open(fd, "wb", closefd=False) as f:
            f.write(data)
        seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
    except BaseException:
        os.close(fd)
        raise
    return fd
