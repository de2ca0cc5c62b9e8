"""The driver for event loops: carries out steps, and stops, on asyncio and trio."""

from __future__ import annotations

import errno
import math
import os
import select
import threading
import time
from collections.abc import Awaitable, Callable, Generator
from contextlib import ExitStack, closing
from typing import TypeVar, cast

import anyio

from allgone._core.policy import StopPolicy
from allgone._core.stop import Steps, Stop, Wait
from allgone._process.reporting import Stopping, note
from allgone._process.stopping import Stoppable
from allgone.errors import StopTimeout

_T = TypeVar("_T")
_NO_FDS = 0.02  # seconds between two looks while there are no fds to wait with


async def wait_for(wait: Wait) -> None:
    """Until one of its fds is ready or its deadline has come. Perhaps less: look again."""
    with anyio.move_on_after(wait.deadline - time.monotonic()):
        await _until_ready(wait)


async def _until_ready(wait: Wait) -> None:
    if not wait.fds and not wait.writable:
        await anyio.sleep_forever()
    with ExitStack() as held:
        try:
            fd = _fd_for(wait, held)
        except OSError as e:
            if e.errno not in (errno.EMFILE, errno.ENFILE):
                raise
            await without_fds()
        else:
            await anyio.wait_readable(fd)


async def without_fds() -> None:
    """A while, where there are no fds left to wait with."""
    await anyio.sleep(_NO_FDS)


def _fd_for(wait: Wait, held: ExitStack) -> int:
    """One that becomes readable when one of those of `wait` is ready.

    Never one of these: an event loop lets one task only wait for an fd, and does not learn that it was closed.
    """
    if len(wait.fds) == 1 and not wait.writable:
        return _copy(wait.fds[0], held)
    epoll = held.enter_context(select.epoll())
    for fd in wait.fds:
        epoll.register(_copy(fd, held), select.EPOLLIN)
    for fd in wait.writable:
        epoll.register(_copy(fd, held), select.EPOLLOUT)
    return epoll.fileno()


def _copy(fd: int, held: ExitStack) -> int:
    copied = os.dup(fd)
    held.callback(os.close, copied)
    return copied


async def run(steps: Generator[Wait, None, _T]) -> _T:
    """Carry them out. A cancellation comes out of the wait that it interrupts; there are no more steps then."""
    with closing(steps):
        while True:
            try:
                wait = next(steps)
            except StopIteration as end:
                return cast("_T", end.value)
            await wait_for(wait)


async def undisturbed(steps: Generator[Wait, None, _T]) -> tuple[_T, BaseException | None]:
    """Carry them out, whatever is cancelled meanwhile. The cancellation, if one came, is for the caller to raise.

    No scope shields from asyncio's own ``task.cancel()``, which ends one wait: the steps look, and wait again.
    """
    cancelled: BaseException | None = None
    with anyio.CancelScope(shield=True), closing(steps):
        try:
            wait = next(steps)
            while True:
                try:
                    await wait_for(wait)
                except anyio.get_cancelled_exc_class() as e:
                    cancelled = e
                wait = next(steps)
        except StopIteration as end:
            result = cast("_T", end.value)
        except BaseException as e:
            if cancelled is None:
                raise
            raise cancelled from e
    return result, cancelled


def in_thread(function: Callable[[], _T]) -> Generator[Wait, None, _T]:
    """Steps that have `function` called in a thread. To be carried out undisturbed, for it can't be interrupted.

    Not one of anyio's threads: these may all be busy with what an application has them do.
    """
    result: list[_T] = []
    failure: list[BaseException] = []
    done = os.eventfd(0)

    def work() -> None:
        try:
            result.append(function())
        except BaseException as e:  # noqa: BLE001  # raised below
            failure.append(e)
        os.eventfd_write(done, 1)

    try:
        thread = threading.Thread(target=work, name="allgone-aio")
        thread.start()
        while not result and not failure:
            yield Wait((done,), math.inf)
        thread.join()
    finally:
        os.close(done)
    if failure:
        raise failure[0]
    return result[0]


async def stop(
    what: Stoppable,
    policy: StopPolicy | None = None,
    *,
    through: Callable[[Steps], Steps] | None = None,
    stopped: Callable[[], None] | None = None,
    report_in_thread: bool = False,
) -> None:
    """Stop it, unless it was, by its policy; cancelled meanwhile it is killed, and the cancellation goes its way.

    In a scope that was cancelled before, a stop takes the time that the policy allows.

    `through` makes other steps of the stop's; `stopped` is called when it is done, before the report is made, which
    is in a thread where that may take long (`report_in_thread`).

    Raises `StopTimeout`.
    """
    if not what.is_to_be_stopped():
        await anyio.lowlevel.cancel_shielded_checkpoint()
        return
    reported = what.stopping(policy)
    stopping = reported.__enter__()
    cancelled: BaseException | None = None
    try:
        if stopping.outcome is None:
            cancelled = await _carry_out(stopping, through)
        if stopped is not None:
            stopped()
    except BaseException as e:
        reported.__exit__(type(e), e, e.__traceback__)
        raise
    if report_in_thread:
        _, later = await undisturbed(in_thread(lambda: reported.__exit__(None, None, None)))
        cancelled = cancelled or later
    else:
        reported.__exit__(None, None, None)
    if cancelled is not None:
        raise cancelled


async def _carry_out(stopping: Stopping, through: Callable[[Steps], Steps] | None) -> BaseException | None:
    """Returns what interrupted it; it is done all the same then."""
    stop = Stop(stopping.containment, stopping.leaders, stopping.policy)
    interrupted: BaseException | None = None
    try:
        with anyio.CancelScope(shield=_is_cancelled()):
            await run(stop.steps() if through is None else through(stop.steps()))
    except StopTimeout:
        raise
    except BaseException as e:  # noqa: BLE001  # the caller raises it
        stop.hurry()
        await undisturbed(stop.steps())
        interrupted = e
    stopping.outcome = stop.outcome
    return interrupted


def _is_cancelled() -> bool:
    return anyio.current_effective_deadline() == -math.inf


async def stop_after(error: BaseException, stop: Callable[[], Awaitable[object]]) -> None:
    """Stop because of `error`, which goes on being raised; a failure of the stop is noted on it."""
    try:
        await stop()
    except Exception as failure:  # noqa: BLE001  # whatever it is, it must not replace the error that came first
        note(error, failure)
