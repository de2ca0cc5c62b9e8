"""`open_process`, and the `Process` that it starts."""

from __future__ import annotations

import errno
import functools
import math
from types import TracebackType
from typing import Any

import anyio

from allgone._core.containment import Guarantees
from allgone._core.genealogy import Genealogy
from allgone._core.stop import Wait
from allgone._linux.netns import NetworkNamespace
from allgone._process.popen import Popen
from allgone.aio import _driver, _start
from allgone.aio._contained import Contained
from allgone.aio._streams import PipeReceiveStream, PipeSendStream


class Process(Contained, anyio.abc.AsyncResource):
    """A process whose `terminate`, `kill` and `stop` reach everything that it started. `open_process()` makes it.

    Leaving its ``async with`` block closes the streams, waits for the leader, then stops what is left; leaving it by
    an exception or a cancellation stops everything at once, as the policy says. It belongs to the event loop that it
    was started in.

    stdin
        With ``stdin=PIPE`` an `anyio.abc.ByteSendStream`, else None.
    stdout, stderr
        With ``PIPE`` an `anyio.abc.ByteReceiveStream`, else None. Nothing is read ahead.
    """

    _held: Popen

    def __init__(self, popen: Popen, *, slow: bool = False) -> None:
        super().__init__(slow=slow)
        self._held = popen
        self.stdin = None if popen.stdin is None else PipeSendStream(popen.stdin)
        self.stdout = None if popen.stdout is None else PipeReceiveStream(popen.stdout)
        self.stderr = None if popen.stderr is None else PipeReceiveStream(popen.stderr)

    def __repr__(self) -> str:
        code = self.returncode
        if code is None:
            status = f"running with PID {self.pid}"
        else:
            status = f"exited with signal {-code}" if code < 0 else f"exited with status {code}"
        return f"<{type(self).__module__.rpartition('.')[0]}.{type(self).__name__} {self.args!r}: {status}>"

    @property
    def args(self) -> Any:
        """The command, as it was given."""
        return self._held.args

    @property
    def pid(self) -> int:
        """The leader's."""
        return self._held.pid

    @property
    def returncode(self) -> int | None:
        """The leader's, negative for a signal; None while it runs."""
        return self._held.poll() if self._held._is_ours() else self._held.returncode

    @property
    def guarantees(self) -> Guarantees:
        """What this containment can promise."""
        return self._held.guarantees

    @property
    def netns(self) -> NetworkNamespace | None:
        """The network namespace of its own (``network=``); None without one."""
        return self._held.netns

    def escapees(self) -> frozenset[int]:
        """Pids of live descendants that left the containment; see `allgone.Popen.escapees`."""
        return self._held.escapees()

    def genealogy(self) -> Genealogy:
        """What leader and descendants have done until now. Raises ValueError where there was no ``trace=True``."""
        return self._held.genealogy()

    async def wait(self) -> int:
        """Wait for the leader; returns its return code. Cancelled, it stops nothing.

        Raises `WrongProcess` in a fork.
        """
        self._held._check_owner()
        await anyio.lowlevel.checkpoint()
        while (returncode := self._held.poll()) is None:
            await self._wait_for_the_leader()
        return returncode

    async def _wait_for_the_leader(self) -> None:
        try:
            fds = self._held.end_fds()
        except OSError as e:
            if e.errno not in (errno.EMFILE, errno.ENFILE):
                raise
            await _driver.without_fds()
        else:
            if fds:
                await _driver.wait_for(Wait(fds, math.inf))

    def send_signal(self, sig: int) -> None:
        """To the leader only. Nothing happens when it has ended."""
        self._held.send_signal(sig)

    def terminate(self) -> None:
        """SIGTERM to every member."""
        self._held.terminate()

    def kill(self) -> None:
        """SIGKILL to every member at once; does not wait. `stop()` makes sure."""
        self._held.kill()

    async def aclose(self) -> None:
        """Close the streams, wait for the leader, then stop what is left; cancelled meanwhile, stop it all."""
        if not self._held._is_ours():
            return
        self._close_streams()
        if self._held._containment.frozen:
            self.thaw()  # or the leader would never end
        try:
            await self.wait()
        except BaseException as interrupted:
            await _driver.stop_after(interrupted, self.stop)
            raise
        await self.stop()

    def _close_streams(self) -> None:
        for stream in (self.stdin, self.stdout, self.stderr):
            if stream is not None:
                stream.close()

    async def __aenter__(self) -> Process:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        if error is None:
            await self.aclose()
        elif self._held._is_ours():
            try:
                await _driver.stop_after(error, self.stop)
            finally:
                self._close_streams()


async def open_process(args: Any, *positional: Any, **keywords: Any) -> Process:
    """Start a process; arguments as for `allgone.Popen`, but that the streams are of bytes, and not buffered.

    >>> import anyio
    >>> async def main():
    ...     async with await open_process(["sh", "-c", "sleep 1000 & echo started"], stdout=-1) as process:
    ...         return await process.stdout.receive()
    >>> anyio.run(main)
    b'started\\n'

    Raises what `Popen` raises, and ValueError for ``text=`` and its like. Cancelled meanwhile, nothing is left of it.
    """
    keywords = _start.without_text(keywords)
    popen = await _start.started(functools.partial(Popen, args, *positional, **keywords), keywords)
    return Process(popen, slow=_start.is_slow(keywords))
