"""``allgone up``: what processes write, line by line, on its way to a printer; and where that prints to."""

from __future__ import annotations

import os
import select
import sys

from allgone._linux import fds
from allgone._linux.outlet import Outlet

_CHUNK = 1 << 16
LONGEST_LINE = 1 << 20  # bytes; what is longer is passed on in pieces
LARGEST_PIPE = 1 << 20  # bytes that a pipe can hold, unless root has set it larger (pipe(7), pipe-max-size)


class Lines:
    """The read end of a pipe that a process and all that it started write to."""

    def __init__(self) -> None:
        reader, self._writer = fds.pipe()
        self._reader: int | None = reader
        os.set_blocking(reader, False)
        self._partial = bytearray()

    @property
    def writer(self) -> int:
        """For the process; to be closed by `started()`."""
        return self._writer

    def started(self) -> None:
        os.close(self._writer)

    def fds(self) -> tuple[int, ...]:
        """The fd to poll; none after the end of file."""
        return () if self._reader is None else (self._reader,)

    def read(self) -> list[bytes]:
        """The lines that are complete, of what one read(2) gives."""
        if self._reader is None:
            return []
        try:
            chunk = os.read(self._reader, _CHUNK)
        except BlockingIOError:
            return []
        if not chunk:
            self.close()
            return self.rest()
        before, newline, after = chunk.rpartition(b"\n")
        if not newline and len(self._partial) + len(after) < LONGEST_LINE:
            self._partial += after
            return []
        if not newline:
            return [*self.rest(), after]
        whole = bytes(self._partial) + before
        self._partial[:] = after
        return [line + b"\n" for line in whole.split(b"\n")]

    def drain(self) -> list[bytes]:
        """All that is in the pipe now: end of file may never come, for somebody else can hold the other end."""
        found: list[bytes] = []
        for _ in range(LARGEST_PIPE // _CHUNK):
            if not self._readable():
                break
            found += self.read()
        return found

    def _readable(self) -> bool:
        if self._reader is None:
            return False
        poller = select.poll()
        poller.register(self._reader, select.POLLIN)
        return bool(poller.poll(0))

    def rest(self) -> list[bytes]:
        """The beginning of a line whose end has not come."""
        rest = bytes(self._partial)
        self._partial.clear()
        return [rest] if rest else []

    def close(self) -> None:
        reader, self._reader = self._reader, None
        if reader is not None:
            os.close(reader)


class Screen:
    """What a `honcho.printer.Printer` takes for a file: it writes into an `Outlet`."""

    def __init__(self, outlet: Outlet | None) -> None:
        self._outlet = outlet
        self._encoding = getattr(sys.stdout, "encoding", None) or "utf-8"

    def write(self, text: str) -> int:
        if self._outlet is not None:
            self._outlet.add(text.encode(self._encoding, "replace"))
        return len(text)

    def flush(self) -> None:
        """The outlet is written from elsewhere."""

    def isatty(self) -> bool:
        return self._outlet is not None and os.isatty(self._outlet.fileno())
