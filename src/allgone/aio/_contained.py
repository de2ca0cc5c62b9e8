"""What a `Process` and a `Group` have in common: a containment, and a stop of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import anyio

from allgone._core.policy import StopPolicy
from allgone._core.report import Report
from allgone._core.usage import Usage
from allgone._process.group import Group as BlockingGroup
from allgone._process.popen import Popen
from allgone.aio import _driver

if TYPE_CHECKING:
    from allgone._core.sockets import ListeningSocket


class Contained:
    """One that holds a blocking `Popen` or `Group`, and waits for it without blocking."""

    _held: Popen | BlockingGroup

    def __init__(self, *, slow: bool) -> None:
        self._slow = slow
        self._turn = anyio.Lock()

    @property
    def backend(self) -> str:
        """``"cgroup"`` or ``"process-group"``: what holds its processes."""
        return self._held.backend

    @property
    def name(self) -> str:
        """The name of the containment."""
        return self._held.name

    @property
    def report(self) -> Report | None:
        """What `stop()` found and did; None before it."""
        return self._held.report

    def members(self) -> frozenset[int]:
        """Pids of all live processes in the containment: those that were started, and what they started."""
        return self._held.members()

    def usage(self) -> Usage | None:
        """What all of it has used until now; see `allgone.Popen.usage`."""
        return self._held.usage()

    def signal_all(self, signum: int) -> frozenset[int]:
        """Send to every member; returns the pids reached."""
        return self._held.signal_all(signum)

    async def listening(
        self, port: int | str | None = None, host: str | None = None, proto: str | None = None
    ) -> tuple[ListeningSocket, ...]:
        """The listening sockets that belong to what is inside; see `allgone.Popen.listening`. Asked in a thread."""
        return await anyio.to_thread.run_sync(self._held.listening, port, host, proto, abandon_on_cancel=True)

    async def stop(self, policy: StopPolicy | None = None) -> Report:
        """Stop every member as `policy` says (default: the one given at the start), reap the leaders, remove the
        containment. A second call returns the report of the first, unless that left some running on purpose.

        Cancelled while it waits it kills what is left, at once, and is done before the cancellation goes its way.
        Called in a scope that is cancelled already it does as the policy says. Never is anything left behind.

        Raises `StopTimeout` naming the pids when SIGKILL did not end them; it may be called again then. In a fork
        `WrongProcess`.
        """
        self._held._check_owner()
        try:
            self._turn.acquire_nowait()
        except anyio.WouldBlock:
            with anyio.CancelScope(shield=True):  # another task stops it: when this returns, that is done
                await self._turn.acquire()
        try:
            await self._stop(policy)
        finally:
            self._turn.release()
        assert self._held.report is not None
        return self._held.report

    async def _stop(self, policy: StopPolicy | None) -> None:
        await _driver.stop(self._held, policy, report_in_thread=self._slow)

    async def freeze(self, timeout: float = 10.0) -> None:
        """Freeze every member: when this returns, none of them runs until `thaw()` or the stop. Idempotent.

        Cancelled meanwhile, or when `timeout` seconds are over (`FreezeTimeout`), all of them go on.
        Raises `Unsupported` with process-group, and ValueError when it has been stopped.
        """
        await anyio.lowlevel.checkpoint()
        await _driver.run(self._held.freeze_steps(timeout))

    def thaw(self) -> None:
        """Let every member go on. Idempotent; also after the stop. Raises `Unsupported` with process-group."""
        self._held.thaw()

    @asynccontextmanager
    async def frozen(self, timeout: float = 10.0) -> AsyncIterator[None]:
        """`freeze()`; `thaw()` when the block is left, unless it was frozen already when the block was entered."""
        before = self._held._containment.frozen
        await self.freeze(timeout)
        try:
            yield
        finally:
            if not before and self._held._is_ours():
                self.thaw()
