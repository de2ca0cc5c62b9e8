"""The pipes to a process as streams of anyio. Nothing is read, or taken to be written, before it can be."""

from __future__ import annotations

import os
from typing import IO, Any

import anyio
from anyio import abc


class _Pipe:
    """Our end of a pipe. The file object stays its owner."""

    def __init__(self, file: IO[Any], doing: str) -> None:
        self._file = file
        self._guard = anyio.ResourceGuard(doing)
        os.set_blocking(file.fileno(), False)

    def fileno(self) -> int:
        """Raises `anyio.ClosedResourceError`."""
        if self._file.closed:
            raise anyio.ClosedResourceError
        return self._file.fileno()

    def close(self) -> None:
        """Whoever waits for it gets `anyio.ClosedResourceError`. Idempotent."""
        if not self._file.closed:
            anyio.notify_closing(self._file.fileno())
            self._file.close()

    async def aclose(self) -> None:
        self.close()
        await anyio.lowlevel.checkpoint()


class PipeSendStream(_Pipe, abc.ByteSendStream):
    """A process's stdin."""

    def __init__(self, file: IO[Any]) -> None:
        super().__init__(file, "writing to")

    async def send(self, item: bytes) -> None:
        """Returns when all of it is in the pipe. Raises `anyio.BrokenResourceError` when nobody reads any more."""
        with self._guard:
            await anyio.lowlevel.checkpoint()
            left = memoryview(item)
            self.fileno()
            while left:
                try:
                    left = left[os.write(self.fileno(), left) :]
                except BlockingIOError:
                    await anyio.wait_writable(self.fileno())
                except BrokenPipeError as e:
                    raise anyio.BrokenResourceError from e


class PipeReceiveStream(_Pipe, abc.ByteReceiveStream):
    """A process's stdout or stderr."""

    def __init__(self, file: IO[Any]) -> None:
        super().__init__(file, "reading from")

    async def receive(self, max_bytes: int = 65536) -> bytes:
        """What is in the pipe, `max_bytes` at most. Raises `anyio.EndOfStream` when nobody can write any more."""
        if max_bytes < 1:
            raise ValueError(f"max_bytes must be 1 or more, not {max_bytes}")
        with self._guard:
            await anyio.lowlevel.checkpoint()
            while True:
                try:
                    data = os.read(self.fileno(), max_bytes)
                except BlockingIOError:
                    await anyio.wait_readable(self.fileno())
                    continue
                if not data:
                    raise anyio.EndOfStream
                return data
