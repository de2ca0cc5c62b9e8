"""`process_fixture`: ready before the body runs, all gone after it, whatever happens in between."""

from __future__ import annotations

import os
import select
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from allgone import ready as readiness
from allgone._process import reporting
from allgone._process.output import MemoryOutput, Output, capture, opened
from allgone._process.popen import Popen
from allgone.errors import ExitedBeforeReady, NotReady, PortTaken

# Between two looks of a probe that has no event: quick at first, for most servers take a few milliseconds.
_FIRST_LOOK, _SLOWEST_LOOK = 0.001, 0.05

if TYPE_CHECKING:
    from allgone._core.sockets import Wanted


class FixtureProcess(Popen):
    """The process of a `process_fixture`: a `Popen` that also knows its output."""

    _output: Output = Output()

    def is_listening(self, wanted: Wanted) -> bool:
        """Whether one of its own processes is. Raises `PortTaken` if somebody else's is instead."""
        from allgone._process import listening

        self._ports_matter = True
        looked = listening.look(self._containment, wanted)
        if not looked.ours:
            listening.refuse(looked.others, self.members() | self.escapees())
        return bool(looked.ours)

    def output(self) -> str:
        """What was captured so far (``output=capture()``), or the end of the output file; "" where it is inherited."""
        return self._output.text() if isinstance(self._output, MemoryOutput) else self._output.tail()


@contextmanager
def process_fixture(
    args: Any,
    *,
    ready: Any = None,
    ready_timeout: float = 30.0,
    output: str | os.PathLike[str] | capture | None = None,
    **keywords: Any,
) -> Iterator[FixtureProcess]:
    """Start a process, wait until it is ready, and stop it with all that it started when the block is left.

    ready
        `listening(port)`, `tcp(port)`, `http(url)`, `log_line(regex)`, `path_exists(path)`, or any callable (see
        `allgone.ready`).
    ready_timeout
        Seconds after which `NotReady` is raised, everything stopped.
    output
        Where stdout and stderr go: None inherits them (`log_line` captures them), a path names a file, `capture()`
        keeps their end in memory.
    keywords
        As for `Popen`: backend, name, policy, sweep, env, cwd, ….

    >>> with process_fixture(["sh", "-c", "echo up; exec sleep 1000"], ready=log_line("up")) as proc:
    ...     proc.output()
    'up\\n'
    >>> proc.returncode
    -15

    Raises `NotReady`, `ExitedBeforeReady` (both with the end of the output), `PortTaken`, `StopTimeout`, and what
    `Popen` raises.
    """
    probe = readiness.probe(ready)
    timeout = _checked_timeout(ready_timeout)
    if taken := {"stdout", "stderr"} & keywords.keys():
        raise TypeError(f"{taken.pop()}= is what output= sets")
    sink = opened(output, wanted=probe is not None and probe.reads_output)
    try:
        if isinstance(probe, readiness.Listening):
            probe.before_start(keywords)
        if probe is not None and probe.reads_output and not sink.readable:
            raise ValueError(f"{probe} reads the output, which output={output!r} does not keep")
        keywords.setdefault("stdin", subprocess.DEVNULL)
        process = FixtureProcess(args, **keywords, **sink.for_popen())
        process._output = sink
        sink.started()
        try:
            if probe is not None:
                _wait_until_ready(process, probe, sink, timeout)
            sink.flow()
            yield process
        except BaseException as error:
            reporting.stop_after(error, process.stop)
            raise
        else:
            process.stop()
        finally:
            process.close_streams()
    finally:
        sink.close()


def _checked_timeout(seconds: float) -> float:
    if not isinstance(seconds, (int, float)) or isinstance(seconds, bool):
        raise TypeError(f"ready_timeout must be a number of seconds, not {seconds!r}")
    if not seconds >= 0:
        raise ValueError(f"ready_timeout must be 0 or more seconds, not {seconds!r}")
    return seconds


def _wait_until_ready(process: FixtureProcess, probe: readiness.Probe, output: Output, timeout: float) -> None:
    deadline = time.monotonic() + timeout
    pause = _FIRST_LOOK
    while True:
        ended = process.poll() is not None and not _lives_on(process)
        output.pump()
        try:
            if probe(process, output):
                return
            said: OSError | None = None
        except PortTaken:
            raise
        except OSError as e:
            said = e
        if ended:
            raise ExitedBeforeReady(
                f"{process.args!r} ended with return code {process.returncode} before {probe} was true",
                process.returncode,
                output.tail(),
            )
        left = deadline - time.monotonic()
        if left <= 0:
            last = f" (last: {said})" if said is not None else ""
            raise NotReady(f"{process.args!r}: {probe} was not true within {timeout:g} s{last}", output.tail())
        _wait_for_news(process, output, min(pause, left))
        pause = min(pause * 1.5, _SLOWEST_LOOK)


def _lives_on(process: FixtureProcess) -> bool:
    """Whether the leader has ended as a daemon's does: with success, leaving others behind."""
    return process.returncode == 0 and bool(process.members() or process.escapees())


def _wait_for_news(process: FixtureProcess, output: Output, pause: float) -> None:
    poller = select.poll()
    for fd in (*process.end_fds(), *output.wait_fds()):
        poller.register(fd, select.POLLIN)
    poller.poll(max(1.0, pause * 1000))
