"""`process_fixture`: ready before the body runs, all gone after it, awaited."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import anyio

from allgone import ready as readiness
from allgone._process.fixture import Fixture
from allgone._process.fixture import FixtureProcess as BlockingFixtureProcess
from allgone._process.output import capture
from allgone._process.until_ready import UntilReady
from allgone.aio import _driver, _start
from allgone.aio._process import Process
from allgone.errors import PortTaken

if TYPE_CHECKING:
    from allgone._core.notification import Notified


class FixtureProcess(Process):
    """The process of a `process_fixture`: a `Process` that also knows its output."""

    _held: BlockingFixtureProcess

    @property
    def notified(self) -> Notified | None:
        """What it has told by sd_notify(3) until now; None without ``ready=notify()``."""
        return self._held.notified

    def output(self) -> str:
        """What was captured so far (``output=capture()``), or the end of the output file; "" where it is inherited."""
        return self._held.output()


@asynccontextmanager
async def process_fixture(
    args: Any,
    *,
    ready: Any = None,
    ready_timeout: float = 30.0,
    output: str | os.PathLike[str] | capture | None = None,
    **keywords: Any,
) -> AsyncIterator[FixtureProcess]:
    """Start a process, wait until it is ready, and stop it with all that it started when the block is left.

    Arguments as for `allgone.process_fixture`. `ready` may also be a coroutine function, with no parameters or one
    (the process). What may block is asked in a thread: `tcp()`, `http()`, `listening()` and ordinary functions.

    >>> import anyio
    >>> from allgone import log_line
    >>> async def main():
    ...     async with process_fixture(["sh", "-c", "echo up; exec sleep 1000"], ready=log_line("up")) as process:
    ...         return process.output()
    >>> anyio.run(main)
    'up\\n'

    Raises `NotReady`, `ExitedBeforeReady` (both with the end of the output), `PortTaken`, `WatchdogTimeout`,
    `StopTimeout`, and what `Popen` raises.
    """
    keywords = _start.without_text(keywords)
    slow = _start.is_slow(keywords)
    with Fixture(ready, ready_timeout, output, keywords, may_be_async=True) as fixture:
        asks_first = isinstance(fixture.probe, readiness.Listening)
        popen = await _start.started(functools.partial(fixture.start, args), keywords, slow=asks_first)
        process = FixtureProcess(popen, slow=slow)
        try:
            if (until_ready := fixture.until_ready(popen)) is not None:
                await _wait(until_ready, process)
            fixture.flow()
            yield process
        except BaseException as error:
            await _driver.stop_after(error, process.stop)
            raise
        else:
            await process.stop()
            fixture.check_watchdog(popen)
        finally:
            process._close_streams()


async def _wait(until_ready: UntilReady, process: FixtureProcess) -> None:
    while True:
        until_ready.look()
        wait = until_ready.after(await _answer(until_ready, process))
        if wait is None:
            return
        await _driver.wait_for(wait)


async def _answer(until_ready: UntilReady, process: FixtureProcess) -> bool | OSError:
    """The probe's, where it comes in time."""
    probe = until_ready.probe
    if not probe.blocks:
        return until_ready.answer()
    with anyio.move_on_after(until_ready.deadline - time.monotonic()):
        try:
            if not isinstance(probe, readiness.Function):
                return await anyio.to_thread.run_sync(until_ready.answer, abandon_on_cancel=True)
            if probe.is_async:
                return bool(await probe.called(process))
            return bool(await anyio.to_thread.run_sync(probe.called, process, abandon_on_cancel=True))
        except PortTaken:
            raise
        except OSError as e:
            return e
    return False
