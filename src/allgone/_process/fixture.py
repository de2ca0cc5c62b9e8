"""`process_fixture`: ready before the body runs, all gone after it, whatever happens in between."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from allgone import ready as readiness
from allgone._core.notification import in_words
from allgone._core.stop import Steps, Wait
from allgone._process import driver, reporting
from allgone._process.output import MemoryOutput, Output, capture, opened
from allgone._process.popen import Popen
from allgone.errors import ExitedBeforeReady, NotReady, OutOfMemory, PortTaken, WatchdogTimeout

# Between two looks of a probe that has no event: quick at first, for most servers take a few milliseconds.
_FIRST_LOOK, _SLOWEST_LOOK = 0.001, 0.05

if TYPE_CHECKING:
    from allgone._core.notification import Notified
    from allgone._core.policy import StopPolicy
    from allgone._core.report import Report
    from allgone._core.sockets import Wanted
    from allgone._process.notify import Notifications


class FixtureProcess(Popen):
    """The process of a `process_fixture`: a `Popen` that also knows its output."""

    _output: Output = Output()

    def __init__(self, args: Any, *, _notifications: Notifications | None = None, **keywords: Any) -> None:
        self._notifications = _notifications
        self._wants_own_pid = _notifications is not None and _notifications.watchdog is not None
        super().__init__(args, **keywords)

    def _spawn(self, argv: Sequence[object], executable: object, options: dict[str, Any]) -> None:
        if self._notifications is not None:
            options["env"] = self._notifications.environment(options.get("env"), self._netns)
        super()._spawn(argv, executable, options)
        if self._notifications is not None:
            self._notifications.of(self)

    @property
    def notified(self) -> Notified | None:
        """What it has told by sd_notify(3) until now; None without ``ready=notify()``."""
        return None if self._notifications is None else self._notifications.notified

    def stop_meanwhile(self, carry_out: Callable[[Steps], None], policy: StopPolicy | None = None) -> Report:
        if self._notifications is not None:
            self._notifications.before_stop()
        return super().stop_meanwhile(carry_out, policy)

    def is_listening(self, wanted: Wanted) -> bool:
        """Whether one of its own processes is. Raises `PortTaken` if somebody else's is instead."""
        from allgone._process import listening

        self._ports_matter = True
        looked = listening.look(self._containment, wanted, () if self._sockets is None else self._sockets.inodes)
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
        `listening(port)`, `tcp(port)`, `http(url)`, `log_line(regex)`, `notify()`, `path_exists(path)`, or any callable
        (see `allgone.ready`).
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

    Raises `NotReady`, `ExitedBeforeReady` (both with the end of the output), `PortTaken`, `WatchdogTimeout`,
    `StopTimeout`, and what `Popen` raises.
    """
    probe = readiness.probe(ready)
    timeout = _checked_timeout(ready_timeout)
    if taken := {"stdout", "stderr"} & keywords.keys():
        raise TypeError(f"{taken.pop()}= is what output= sets")
    heard = _notifications(probe)
    sink = opened(output, wanted=probe is not None and probe.reads_output)
    try:
        if isinstance(probe, readiness.Listening):
            probe.before_start(keywords)
        if probe is not None and probe.reads_output and not sink.readable:
            raise ValueError(f"{probe} reads the output, which output={output!r} does not keep")
        keywords.setdefault("stdin", subprocess.DEVNULL)
        process = FixtureProcess(args, _notifications=heard, **keywords, **sink.for_popen())
        process._output = sink
        sink.started()
        try:
            if probe is not None:
                _wait_until_ready(process, probe, sink, timeout)
            sink.flow()
            if heard is not None:
                heard.flow()
            yield process
        except BaseException as error:
            reporting.stop_after(error, process.stop)
            raise
        else:
            process.stop()
            _check_watchdog(process, sink)
        finally:
            process.close_streams()
    finally:
        if heard is not None:
            heard.close()
        sink.close()


def _notifications(probe: readiness.Probe | None) -> Notifications | None:
    if not isinstance(probe, readiness.Notify):
        return None
    from allgone._process.notify import Notifications

    return Notifications(probe.watchdog)


def _check_watchdog(process: FixtureProcess, output: Output) -> None:
    heard = process._notifications
    if heard is not None and heard.expired:
        raise WatchdogTimeout(f"{process.args!r} was ended by its watchdog: {heard.expired}", output.tail())


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
        if process._notifications is not None:
            process._notifications.hear()
            deadline = max(deadline, process._notifications.extended_until)
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
                f"{process.args!r} ended with return code {process.returncode} before {probe} was true{_told(process)}",
                process.returncode,
                output.tail(),
            ) from _out_of_memory(process)
        left = deadline - time.monotonic()
        if left <= 0:
            last = f" (last: {said})" if said is not None else _told(process)
            raise NotReady(f"{process.args!r}: {probe} was not true within {timeout:g} s{last}", output.tail())
        is_told = probe.is_told and process.returncode is None  # nothing tells of the end of a daemon
        _wait_for_news(process, output, left if is_told else min(pause, left))
        pause = min(pause * 1.5, _SLOWEST_LOOK)


def _out_of_memory(process: FixtureProcess) -> OutOfMemory | None:
    used = process.usage()
    if used is None or not used.oom_kills:
        return None
    return OutOfMemory(process.returncode, process.args, used.oom_kills)


def _lives_on(process: FixtureProcess) -> bool:
    """Whether the leader has ended as a daemon's does: with success, leaving others behind."""
    return process.returncode == 0 and bool(process.members() or process.escapees())


def _wait_for_news(process: FixtureProcess, output: Output, pause: float) -> None:
    told = () if process._notifications is None else process._notifications.wait_fds()
    driver.wait_for(Wait((*process.end_fds(), *output.wait_fds(), *told), time.monotonic() + pause))


def _told(process: FixtureProcess) -> str:
    """For an error: what it has told of itself, and who told something that did not count."""
    heard = process._notifications
    if heard is None:
        return ""
    ignored = ", ".join(str(pid) if pid else "another pid namespace" for pid in dict.fromkeys(heard.ignored))
    said = [words] if (words := in_words(heard.notified)) else []
    if ignored:
        said.append(f"ignored, for it is not known to be of it: what came from process {ignored}")
    return f" ({'; '.join(said)})" if said else ""
