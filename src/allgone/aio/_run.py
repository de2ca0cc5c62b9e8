"""`run`: a command from its start to nothing left, awaited."""

from __future__ import annotations

import functools
import math
import time
from typing import Any

from allgone._process.popen import Popen
from allgone._process.run import CompletedProcess, completed, exchange_with, with_pipes
from allgone.aio import _driver, _start


async def run(
    *popenargs: Any,
    input: Any = None,
    capture_output: bool = False,
    timeout: float | None = None,
    check: bool = False,
    **keywords: Any,
) -> CompletedProcess:
    """`allgone.run`, awaited: when it returns, or is cancelled, everything that the command started is gone.

    >>> import anyio
    >>> async def main():
    ...     return await run(["sh", "-c", "sleep 1000 & tr a-z A-Z"], input=b"hi", capture_output=True)
    >>> anyio.run(main).stdout
    b'HI'

    Raises `subprocess.CalledProcessError`, `subprocess.TimeoutExpired` (with the output so far), and what `Popen`
    raises.
    """
    keywords = with_pipes(keywords, input=input, capture_output=capture_output)
    deadline = math.inf if timeout is None else time.monotonic() + timeout
    slow = _start.is_slow(keywords)
    process = await _start.started(functools.partial(Popen, *popenargs, **keywords), keywords)
    stop = functools.partial(_driver.stop, process, report_in_thread=slow)
    try:
        exchange = exchange_with(process, input)
        ended = await _driver.run(process.exchange(exchange, deadline))
        await stop(through=exchange.pump_through)
        done = completed(process, exchange, None if ended else timeout)
    except BaseException as error:
        await _driver.stop_after(error, stop)
        raise
    finally:
        process.close_streams()
    if check:
        done.check_returncode()
    return done
