"""`run` and its relatives: a command from its start to nothing left."""

from __future__ import annotations

import math
import subprocess
import time
from typing import Any

from allgone._core.report import Report
from allgone._process import driver
from allgone._process.communicate import Exchange, as_asked, as_bytes, expired
from allgone._process.popen import Popen
from allgone.errors import OutOfMemory


class CompletedProcess(subprocess.CompletedProcess[Any]):
    """`subprocess.CompletedProcess` that also knows what had to be stopped when the command had ended."""

    report: Report

    def check_returncode(self) -> None:
        """As in `subprocess`. Raises `OutOfMemory` where the kernel has killed some of it for want of that."""
        if self.returncode and self.report.oom_kills:
            raise OutOfMemory(self.returncode, self.args, self.report.oom_kills, self.stdout, self.stderr)
        super().check_returncode()


def run(
    *popenargs: Any,
    input: Any = None,
    capture_output: bool = False,
    timeout: float | None = None,
    check: bool = False,
    **keywords: Any,
) -> CompletedProcess:
    """`subprocess.run`, and when it returns everything that the command started is gone.

    When the leader has ended, the rest is stopped and what they wrote until then is kept: a descendant that holds
    the captured pipe can't make it wait. On a time-out the whole tree is stopped by `policy`.

    >>> run(["sh", "-c", "sleep 1000 & echo hi"], capture_output=True).stdout
    b'hi\\n'

    Raises `subprocess.CalledProcessError` (`OutOfMemory` where the kernel has killed some of it for want of that),
    `subprocess.TimeoutExpired` (with the output so far), and what `Popen` raises.
    """
    keywords = with_pipes(keywords, input=input, capture_output=capture_output)
    deadline = math.inf if timeout is None else time.monotonic() + timeout
    with Popen(*popenargs, **keywords) as process:
        exchange = exchange_with(process, input)
        ended = driver.run(process.exchange(exchange, deadline))
        process.stop_meanwhile(lambda steps: driver.run(exchange.pump_through(steps)))
        done = completed(process, exchange, None if ended else timeout)
    if check:
        done.check_returncode()
    return done


def with_pipes(keywords: dict[str, Any], *, input: Any, capture_output: bool) -> dict[str, Any]:
    """The arguments for `Popen`. Raises ValueError for those that `run` does not take together."""
    new = {}
    if input is not None:
        if keywords.get("stdin") is not None:
            raise ValueError("stdin and input arguments may not both be used.")
        new["stdin"] = subprocess.PIPE
    if capture_output:
        if keywords.get("stdout") is not None or keywords.get("stderr") is not None:
            raise ValueError("stdout and stderr arguments may not be used with capture_output.")
        new["stdout"] = new["stderr"] = subprocess.PIPE
    return {**keywords, **new}


def exchange_with(process: Popen, input: Any) -> Exchange:
    streams = {"stdin": process.stdin, "stdout": process.stdout, "stderr": process.stderr}
    return Exchange(streams, as_bytes(input, process.stdin))


def completed(process: Popen, exchange: Exchange, timed_out_after: float | None) -> CompletedProcess:
    """When it has been stopped. Raises `subprocess.TimeoutExpired`."""
    exchange.drain()
    if timed_out_after is not None:
        raise expired(process.args, timed_out_after, exchange)
    stdout = as_asked(exchange.output("stdout"), process.stdout)
    stderr = as_asked(exchange.output("stderr"), process.stderr)
    done = CompletedProcess(process.args, process.returncode, stdout, stderr)
    assert process.report is not None
    done.report = process.report
    return done


def call(*popenargs: Any, timeout: float | None = None, **keywords: Any) -> int:
    """`subprocess.call`: run a command, return its return code; everything that it started is gone then.

    >>> call(["sh", "-c", "sleep 1000 & exit 3"])
    3

    Raises `subprocess.TimeoutExpired` (the tree has been stopped) and what `Popen` raises.
    """
    with Popen(*popenargs, **keywords) as process:
        return process.wait(timeout)


def check_call(*popenargs: Any, **keywords: Any) -> int:
    """`call` that raises `subprocess.CalledProcessError` unless the return code is 0.

    >>> check_call(["true"])
    0
    """
    timeout = keywords.pop("timeout", None)
    with Popen(*popenargs, **keywords) as process:
        code = process.wait(timeout)
    if code:
        used = process.usage()
        if used is not None and used.oom_kills:
            raise OutOfMemory(code, process.args, used.oom_kills)
        raise subprocess.CalledProcessError(code, process.args)
    return 0


def check_output(*popenargs: Any, timeout: float | None = None, **keywords: Any) -> Any:
    """`subprocess.check_output`: run a command, return what it and all that it started wrote to stdout.

    >>> check_output(["sh", "-c", "sleep 1000 & echo hi"], text=True)
    'hi\\n'

    Raises `subprocess.CalledProcessError`, `subprocess.TimeoutExpired` and what `Popen` raises.
    """
    for keyword in ("stdout", "check"):
        if keyword in keywords:
            raise ValueError(f"{keyword} argument not allowed, it will be overridden.")
    if "input" in keywords and keywords["input"] is None:
        keywords["input"] = "" if _is_text(keywords) else b""  # None means empty here, in subprocess as well
    return run(*popenargs, stdout=subprocess.PIPE, timeout=timeout, check=True, **keywords).stdout


def _is_text(keywords: dict[str, Any]) -> bool:
    return any(keywords.get(each) for each in ("universal_newlines", "text", "encoding", "errors"))
