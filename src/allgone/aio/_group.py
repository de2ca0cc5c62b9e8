"""`group`: several processes in one containment, awaited."""

from __future__ import annotations

import functools
from types import TracebackType
from typing import Any

from allgone._core.policy import StopPolicy
from allgone._process.group import Group as BlockingGroup
from allgone.aio import _driver, _start
from allgone.aio._contained import Contained
from allgone.aio._process import Process


class Group(Contained):
    """Several processes that are stopped together, each of which can also be stopped on its own.

    Arguments as for `allgone.group`. It is there in its ``async with`` block; leaving that stops it.

    >>> import anyio
    >>> async def main():
    ...     async with Group() as servers:
    ...         one = await servers.open_process(["sleep", "1000"])
    ...         two = await servers.open_process(["sleep", "1000"])
    ...         assert servers.members() == {one.pid, two.pid}
    ...     return one.returncode, two.returncode
    >>> anyio.run(main)
    (-15, -15)

    Raises `BackendUnavailable`, and ValueError where the name can't be used, when the block is entered.
    """

    _held: BlockingGroup

    def __init__(self, **keywords: Any) -> None:
        super().__init__(slow=False)
        self._keywords = keywords
        self._processes: list[Process] = []

    async def open_process(self, args: Any, *positional: Any, **keywords: Any) -> Process:
        """Start a process in the group; arguments as for `allgone.aio.open_process`, its backend being the group's."""
        keywords = _start.without_text(keywords)
        start = functools.partial(self._held.Popen, args, *positional, **keywords)
        popen = await _start.started(start, {"backend": self._keywords.get("backend"), **keywords})
        process = Process(popen, slow=_start.is_slow(keywords))
        self._slow = self._slow or process._slow
        self._processes.append(process)
        return process

    async def _stop(self, policy: StopPolicy | None) -> None:
        await _driver.stop(self._held, policy, stopped=self._close_streams, report_in_thread=self._slow)

    def _close_streams(self) -> None:
        for process in self._processes:
            process._close_streams()

    async def __aenter__(self) -> Group:
        self._held = await _start.started(functools.partial(BlockingGroup, **self._keywords), self._keywords)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        if not self._held._is_ours():
            return
        if error is None:
            await self.stop()
        else:
            await _driver.stop_after(error, self.stop)


group = Group  # reads as what it makes: async with allgone.aio.group() as servers
