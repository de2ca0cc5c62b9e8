"""Where a fixture's output goes, and how its tail can be read back."""

from __future__ import annotations

import os
import select
import subprocess
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, BinaryIO

from allgone._linux import fds

_TAIL = 4096  # bytes of output that an error shows
_CHUNK = 1 << 16  # bytes: all that a pipe holds (pipe(7))


@dataclass(frozen=True, slots=True)
class capture:  # reads as a function where it is used: output=capture(1_000_000)
    """`output=capture()`: keep the end of the output in memory, the last `max_bytes` of it.

    >>> capture(max_bytes=1000)
    capture(max_bytes=1000)
    """

    max_bytes: int = 1 << 20

    def __post_init__(self) -> None:
        if not isinstance(self.max_bytes, int) or isinstance(self.max_bytes, bool):
            raise TypeError(f"max_bytes must be an int, not {type(self.max_bytes).__name__}")
        if self.max_bytes < 1:
            raise ValueError(f"max_bytes must be at least 1, not {self.max_bytes}")


class Output:
    """Output that goes where the supervisor's own goes, and can't be read back."""

    readable = False

    def for_popen(self) -> dict[str, Any]:
        """The stdout and stderr arguments of Popen."""
        return {}

    def started(self) -> None:
        """The child has its copy of whatever was opened for it."""

    def wait_fds(self) -> tuple[int, ...]:
        """fds that become readable when there is something to `pump()`."""
        return ()

    def pump(self) -> None:
        """Take what there is, without waiting."""

    def flow(self) -> None:
        """From now on take it in the background."""

    def again(self) -> None:
        """Before the process is started once more: what it wrote stays, and more comes behind it."""

    def since(self, position: int) -> tuple[bytes, int]:
        """What was written from `position` (0: the start) on, as far as it is kept, and the position behind it."""
        return b"", position

    def end(self) -> int:
        """The position behind all that was written until now."""
        return 0

    def last(self, most: int, since: int = 0) -> bytes:
        """The end, at most so many bytes, of what was written from that position on."""
        return b""

    def tail(self) -> str:
        """The end of it, for people."""
        return self.last(_TAIL).decode("utf-8", "replace")

    def close(self) -> None:
        """Take what is left and let go. Idempotent."""


class FileOutput(Output):
    """Output that goes into a file, which is emptied first."""

    readable = True

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._file: BinaryIO = open(path, "w+b")  # noqa: SIM115  # closed by close()

    def for_popen(self) -> dict[str, Any]:
        return {"stdout": self._file, "stderr": subprocess.STDOUT}

    def since(self, position: int) -> tuple[bytes, int]:
        data = os.pread(self._file.fileno(), _CHUNK, position)
        return data, position + len(data)

    def end(self) -> int:
        return 0 if self._file.closed else os.fstat(self._file.fileno()).st_size

    def last(self, most: int, since: int = 0) -> bytes:
        if self._file.closed:
            return b""
        end = self.end()
        begin = max(since, end - most, 0)
        return os.pread(self._file.fileno(), max(0, end - begin), begin)

    def close(self) -> None:
        self._file.close()


class MemoryOutput(Output):
    """Output that is kept in memory, its end only. Once `flow()` was called it is read by the one thread below, and by
    whoever asks for it, so that what was written before is in it."""

    readable = True

    def __init__(self, most: int) -> None:
        self._most = most
        self._kept = bytearray()
        self._dropped = 0
        self._lock = threading.Lock()
        self._reader: int | None = None
        self._writer: int | None = None
        self._flowing = False
        self.again()

    def again(self) -> None:
        self.close()
        reader, writer = fds.pipe()
        os.set_blocking(reader, False)
        self._reader, self._writer = reader, writer

    def for_popen(self) -> dict[str, Any]:
        return {"stdout": self._writer, "stderr": subprocess.STDOUT}

    def started(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            os.close(writer)

    def wait_fds(self) -> tuple[int, ...]:
        return () if self._reader is None else (self._reader,)

    def pump(self) -> None:
        with self._lock:
            while (taken := self._take()) > 0:
                pass
            if taken == 0:
                self._hang_up()

    def _take(self) -> int:
        """What is in the pipe now, with the lock held: how many bytes; 0 at the end, -1 where there is nothing yet."""
        if self._reader is None:
            return -1
        try:
            chunk = os.read(self._reader, _CHUNK)
        except BlockingIOError:
            return -1
        self._kept += chunk
        excess = len(self._kept) - self._most
        if excess > 0:
            del self._kept[:excess]
            self._dropped += excess
        return len(chunk)

    def flow(self) -> None:
        with self._lock:
            if self._reader is not None:
                self._flowing = True
                _background.add(self._reader, self.pump)

    def since(self, position: int) -> tuple[bytes, int]:
        with self._lock:
            self._take()
            data = bytes(self._kept[max(0, position - self._dropped) :])
            return data, self._dropped + len(self._kept)

    def end(self) -> int:
        with self._lock:
            self._take()
            return self._dropped + len(self._kept)

    def last(self, most: int, since: int = 0) -> bytes:
        with self._lock:
            self._take()
            return bytes(self._kept[max(0, since - self._dropped, len(self._kept) - most) :])

    def text(self) -> str:
        """All that is kept."""
        with self._lock:
            self._take()
            return self._kept.decode("utf-8", "replace")

    def close(self) -> None:
        self.started()
        if self._flowing and self._reader is not None:
            _background.remove(self._reader)  # may wait for the thread, so not while holding what it may want
        self._flowing = False
        self.pump()
        with self._lock:
            self._hang_up()

    def _hang_up(self) -> None:
        reader, self._reader = self._reader, None
        if reader is not None:
            _background.remove(reader)
            os.close(reader)


class _Background:
    """One thread for all outputs kept in memory; it exists while there are any, and sleeps in epoll_wait(2)."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pumps: dict[int, Callable[[], None]] = {}
        self._epoll: select.epoll | None = None
        self._thread: threading.Thread | None = None

    def add(self, fd: int, pump: Callable[[], None]) -> None:
        with self._lock:
            self._pumps[fd] = pump
            if self._epoll is None:
                self._epoll = select.epoll()
                self._thread = threading.Thread(target=self._run, args=(self._epoll,), name="allgone-output")
                self._thread.daemon = True
                self._thread.start()
            self._epoll.register(fd, select.EPOLLIN)

    def remove(self, fd: int) -> None:
        """Forget `fd`; with the last one the thread ends, before this returns (unless it is the caller)."""
        with self._lock:
            if self._pumps.pop(fd, None) is None or self._epoll is None:
                return
            self._epoll.unregister(fd)
            if self._pumps:
                return
            epoll, self._epoll, thread = self._epoll, None, self._thread
        if thread is not threading.current_thread() and thread is not None:
            wake = os.eventfd(1)
            epoll.register(wake, select.EPOLLIN)
            thread.join()
            os.close(wake)
        epoll.close()

    def _run(self, epoll: select.epoll) -> None:
        while self._epoll is epoll:
            for fd, _ in epoll.poll():
                pump = self._pumps.get(fd)
                if pump is not None:
                    pump()


_background = _Background()


def _after_fork_in_child() -> None:
    global _background
    _background = _Background()  # the thread was not copied


os.register_at_fork(after_in_child=_after_fork_in_child)


def checked(asked: object) -> str | os.PathLike[str] | capture | None:
    """A fixture's ``output=``. Raises TypeError for what it can't be."""
    if asked is capture:
        return capture()
    if asked is None or isinstance(asked, (str, os.PathLike, capture)):
        return asked
    raise TypeError(f"output must be None, a path or allgone.capture(), not {type(asked).__name__}")


def opened(asked: str | os.PathLike[str] | capture | None, *, wanted: bool) -> Output:
    """The `Output` for a fixture's ``output=``: a path, `capture`, or None (inherit; captured where it is `wanted`).

    Raises OSError where the file can't be written.
    """
    if asked is None:
        return MemoryOutput(capture().max_bytes) if wanted else Output()
    if isinstance(asked, capture):
        return MemoryOutput(asked.max_bytes)
    return FileOutput(asked)
