"""Talking to a process through its pipes until its leader ends, whoever else still holds them."""

from __future__ import annotations

import os
import select
import subprocess
import time
from collections.abc import Generator
from typing import IO, Any

from allgone._core.stop import Steps, Wait

_CHUNK = 1 << 16


class Exchange:
    """Writes `data` to the process's stdin and keeps what it says on its pipes."""

    def __init__(self, streams: dict[str, IO[Any] | None], data: bytes) -> None:
        self._stdin = streams["stdin"]
        self._data = memoryview(data)
        self._open = {s.fileno(): s for s in (streams["stdout"], streams["stderr"]) if s is not None}
        self._kept: dict[int, list[bytes]] = {fd: [] for fd in self._open}
        self._fds = {which: s.fileno() for which, s in streams.items() if s is not None and which != "stdin"}
        if self._stdin is not None:
            os.set_blocking(self._stdin.fileno(), False)  # so that a write takes what fits
        if not self._data:
            self._close_stdin()

    def output(self, which: str) -> bytes | None:
        """What came on ``"stdout"`` or ``"stderr"`` so far; None if that is no pipe."""
        fd = self._fds.get(which)
        return None if fd is None else b"".join(self._kept[fd])

    def pump(self, wait: Wait) -> Generator[Wait, None, bool]:
        """Wait as `wait` says while moving data; True when one of its fds is readable, False when time is up."""
        while True:
            writable = () if self._stdin is None else (self._stdin.fileno(),)
            what = Wait((*wait.fds, *self._open), wait.deadline, writable)
            yield what
            ready = _ready(what)
            for fd in ready:
                self._move(fd)
            if any(fd in ready for fd in wait.fds):
                return True
            if time.monotonic() >= wait.deadline:
                return False

    def _move(self, fd: int) -> None:
        if fd in self._open:
            self._keep(fd, os.read(fd, _CHUNK))
        elif self._stdin is not None and fd == self._stdin.fileno():
            try:
                self._data = self._data[os.write(fd, self._data[:_CHUNK]) :]
            except BlockingIOError:
                return
            except BrokenPipeError:
                self._data = self._data[:0]  # it does not want to read on; subprocess ignores that too
            if not self._data:
                self._close_stdin()

    def _keep(self, fd: int, chunk: bytes) -> None:
        if chunk:
            self._kept[fd].append(chunk)
        else:
            del self._open[fd]

    def _close_stdin(self) -> None:
        stdin, self._stdin = self._stdin, None
        if stdin is not None:
            try:
                stdin.close()
            except BrokenPipeError:
                pass  # as above, for what was still buffered

    def pump_through(self, steps: Steps) -> Steps:
        """A stop, with data moved meanwhile so that nobody blocks on a full pipe."""
        for wait in steps:
            yield from self.pump(wait)

    def drain(self) -> None:
        """Take what is in the pipes now. End-of-file may never come: an escapee can hold the other end."""
        for fd in list(self._open):
            os.set_blocking(fd, False)
            try:
                while fd in self._open:
                    self._keep(fd, os.read(fd, _CHUNK))
            except BlockingIOError:
                continue


def _ready(wait: Wait) -> list[int]:
    """Which of its fds are ready now."""
    poller = select.poll()
    for fd in wait.fds:
        poller.register(fd, select.POLLIN)
    for fd in wait.writable:
        poller.register(fd, select.POLLOUT)
    return [fd for fd, _ in poller.poll(0)]


def as_bytes(data: Any, stdin: IO[Any] | None) -> bytes:
    """`input=` as the bytes to write: text is encoded as the pipe is."""
    if data is None:
        return b""
    if isinstance(data, str):
        if stdin is None or not hasattr(stdin, "encoding"):
            raise TypeError("a bytes-like object is required, not 'str'; or use text=True")
        return data.encode(stdin.encoding, stdin.errors)  # type: ignore[attr-defined]  # a TextIOWrapper
    return bytes(data)


def as_asked(data: bytes | None, stream: IO[Any] | None) -> Any:
    """Captured bytes, or text with universal newlines where the pipe was opened as text."""
    if data is None or stream is None or not hasattr(stream, "encoding"):
        return data
    text = data.decode(stream.encoding, stream.errors)  # type: ignore[attr-defined]  # a TextIOWrapper
    return text.replace("\r\n", "\n").replace("\r", "\n")


def expired(args: Any, timeout: float, exchange: Exchange) -> subprocess.TimeoutExpired:
    """As subprocess raises it: the output so far as bytes, None where there was none."""
    output, errors = exchange.output("stdout"), exchange.output("stderr")
    return subprocess.TimeoutExpired(args, timeout, output=output or None, stderr=errors or None)
