"""File descriptors that are passed to a child: never 0 to 2, which the child's own stdio will replace."""

from __future__ import annotations

import fcntl
import os


def above_stdio(fd: int) -> int:
    """`fd`, or where that is 0, 1 or 2 (closed in this process when it was opened) a copy above, `fd` closed."""
    if fd > 2:
        return fd
    try:
        return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)
    finally:
        os.close(fd)


def copy(fd: int, lowest: int) -> int:
    """A close-on-exec copy, its number `lowest` or above."""
    return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, lowest)


def pipe() -> tuple[int, int]:
    """A close-on-exec pipe above the standard fds: (read end, write end)."""
    reader, writer = os.pipe()
    try:
        reader = above_stdio(reader)
    except OSError:
        os.close(writer)
        raise
    try:
        return reader, above_stdio(writer)
    except OSError:
        os.close(reader)
        raise
