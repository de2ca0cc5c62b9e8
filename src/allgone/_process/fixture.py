"""`process_fixture`: ready before the body runs, all gone after it, whatever happens in between."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any

from allgone import ready as readiness
from allgone._core.notification import in_words
from allgone._core.stop import Wait
from allgone._process import driver, reporting
from allgone._process.output import MemoryOutput, Output, capture, opened
from allgone._process.popen import Popen
from allgone.errors import ExitedBeforeReady, NotReady, OutOfMemory, PortTaken, WatchdogTimeout

# Between two looks of a probe that has no event: quick at first, for most servers take a few milliseconds.
_FIRST_LOOK, _SLOWEST_LOOK = 0.001, 0.05

if TYPE_CHECKING:
    from allgone._core.notification import Notified
    from allgone._core.policy import StopPolicy
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

    def stopping(self, policy: StopPolicy | None = None) -> AbstractContextManager[reporting.Stopping]:
        if self._notifications is not None:
            self._notifications.before_stop()
        return super().stopping(policy)

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
    with Fixture(ready, ready_timeout, output, keywords) as fixture:
        process = fixture.start(args)
        try:
            if (until_ready := fixture.until_ready(process)) is not None:
                _wait(until_ready)
            fixture.flow()
            yield process
        except BaseException as error:
            reporting.stop_after(error, process.stop)
            raise
        else:
            process.stop()
            fixture.check_watchdog(process)
        finally:
            process.close_streams()


def _wait(until_ready: UntilReady) -> None:
    while (wait := until_ready.next_wait()) is not None:
        driver.wait_for(wait)


class Fixture:
    """A fixture without its process: the arguments, checked, and what is open for it until the block is left."""

    def __init__(
        self, ready: Any, ready_timeout: float, output: Any, keywords: dict[str, Any], *, may_be_async: bool = False
    ) -> None:
        self.probe = readiness.probe(ready, may_be_async=may_be_async)
        self._timeout = _checked_timeout(ready_timeout)
        if taken := {"stdout", "stderr"} & keywords.keys():
            raise TypeError(f"{taken.pop()}= is what output= sets")
        self._keywords = {"stdin": subprocess.DEVNULL, **keywords}
        self._heard = _notifications(self.probe)
        reads_output = self.probe is not None and self.probe.reads_output
        self._output = opened(output, wanted=reads_output)
        if reads_output and not self._output.readable:
            self.close()
            raise ValueError(f"{self.probe} reads the output, which output={output!r} does not keep")

    def start(self, args: Any) -> FixtureProcess:
        """Raises what `Popen` raises, and `PortTaken`."""
        if isinstance(self.probe, readiness.Listening):
            self.probe.before_start(self._keywords)
        process = FixtureProcess(args, _notifications=self._heard, **self._keywords, **self._output.for_popen())
        process._output = self._output
        self._output.started()
        return process

    def until_ready(self, process: FixtureProcess) -> UntilReady | None:
        """None where there is nothing to wait for."""
        return None if self.probe is None else UntilReady(process, self.probe, self._output, self._timeout)

    def flow(self) -> None:
        """From now on what it says is heard in the background."""
        self._output.flow()
        if self._heard is not None:
            self._heard.flow()

    def check_watchdog(self, process: FixtureProcess) -> None:
        """Raises `WatchdogTimeout`."""
        if self._heard is not None and self._heard.expired:
            why = f"{process.args!r} was ended by its watchdog: {self._heard.expired}"
            raise WatchdogTimeout(why, self._output.tail())

    def close(self) -> None:
        """Idempotent."""
        if self._heard is not None:
            self._heard.close()
        self._output.close()

    def __enter__(self) -> Fixture:
        return self

    def __exit__(self, kind: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


def _notifications(probe: readiness.Probe | None) -> Notifications | None:
    if not isinstance(probe, readiness.Notify):
        return None
    from allgone._process.notify import Notifications

    return Notifications(probe.watchdog)


def _checked_timeout(seconds: float) -> float:
    if not isinstance(seconds, (int, float)) or isinstance(seconds, bool):
        raise TypeError(f"ready_timeout must be a number of seconds, not {seconds!r}")
    if not seconds >= 0:
        raise ValueError(f"ready_timeout must be 0 or more seconds, not {seconds!r}")
    return seconds


class UntilReady:
    """What to wait for until a process is ready, for a driver, which has the probe asked whenever it is due."""

    def __init__(self, process: FixtureProcess, probe: readiness.Probe, output: Output, timeout: float) -> None:
        self._process = process
        self.probe = probe
        self._output = output
        self._timeout = timeout
        self.deadline = time.monotonic() + timeout
        self._pause = _FIRST_LOOK
        self._ended = False

    def look(self) -> None:
        """To be called before the probe is asked: an end that comes meanwhile does not count yet."""
        process = self._process
        self._ended = process.poll() is not None and not _lives_on(process)
        self._output.pump()
        if process._notifications is not None:
            process._notifications.hear()
            self.deadline = max(self.deadline, process._notifications.extended_until)

    def next_wait(self) -> Wait | None:
        """Look, and ask; what to wait for then is told by `after()`."""
        self.look()
        return self.after(self.answer())

    def answer(self) -> bool | OSError:
        """Of the probe; for one that may block, a driver calls this where it may."""
        try:
            return bool(self.probe(self._process, self._output))
        except PortTaken:
            raise
        except OSError as e:
            return e

    def after(self, answer: bool | OSError) -> Wait | None:
        """What to wait for before the probe is asked again; None when it has said yes.

        Raises `NotReady` and `ExitedBeforeReady`.
        """
        if answer is True:
            return None
        self._output.pump()  # again, for the probe may have taken its time
        process, probe = self._process, self.probe
        if self._ended:
            raise ExitedBeforeReady(
                f"{process.args!r} ended with return code {process.returncode} before {probe} was true{_told(process)}",
                process.returncode,
                self._output.tail(),
            ) from _out_of_memory(process)
        left = self.deadline - time.monotonic()
        if left <= 0:
            last = f" (last: {answer})" if isinstance(answer, OSError) else _told(process)
            message = f"{process.args!r}: {probe} was not true within {self._timeout:g} s{last}"
            raise NotReady(message, self._output.tail())
        is_told = probe.is_told and process.returncode is None  # nothing tells of the end of a daemon
        wait = self._news(left if is_told else min(self._pause, left))
        self._pause = min(self._pause * 1.5, _SLOWEST_LOOK)
        return wait

    def _news(self, pause: float) -> Wait:
        heard = self._process._notifications
        told = () if heard is None else heard.wait_fds()
        return Wait((*self._process.end_fds(), *self._output.wait_fds(), *told), time.monotonic() + pause)


def _out_of_memory(process: FixtureProcess) -> OutOfMemory | None:
    used = process.usage()
    if used is None or not used.oom_kills:
        return None
    return OutOfMemory(process.returncode, process.args, used.oom_kills)


def _lives_on(process: FixtureProcess) -> bool:
    """Whether the leader has ended as a daemon's does: with success, leaving others behind."""
    return process.returncode == 0 and bool(process.members() or process.escapees())


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
