"""`process_fixture`: ready before the body runs, all gone after it, whatever happens in between."""

from __future__ import annotations

import functools
import os
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ContextDecorator, contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any

from allgone import ready as readiness
from allgone._core.notification import in_words
from allgone._core.stop import Steps, Wait
from allgone._process import driver, reporting
from allgone._process.output import MemoryOutput, Output, capture, checked, opened
from allgone._process.popen import Popen
from allgone.errors import ExitedBeforeReady, NotReady, PortTaken, WatchdogTimeout

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
    _fixture: ProcessFixture | None = None

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

    @contextmanager
    def stopped(self, policy: StopPolicy | None = None) -> Iterator[Report]:
        """Stopped while the block runs: `stop()`, and at its end the same command is started, and ready, again.

        This object stays the process: `pid`, `members()` and the rest are those of the new start, `output()` goes on.
        It is started as well where the block is left by an exception, but not by Ctrl-C or an exit.

        >>> with process_fixture(["sleep", "1000"]) as proc:
        ...     with proc.stopped() as report:
        ...         report.returncode, proc.members() == frozenset()
        ...     proc.members() == {proc.pid}
        (-15, True)
        True

        Raises ValueError where the block of its fixture was left; at the end what the start of that raises.
        """
        if self._fixture is None or self._fixture._process is not self:
            raise ValueError(f"{self.name}: its block has been left, so it can't be started again")
        report = self.stop(policy)
        _check_watchdog(self)
        try:
            yield report
        except (KeyboardInterrupt, SystemExit, GeneratorExit):
            raise
        except BaseException as error:
            reporting.stop_after(error, functools.partial(self._fixture.start_again, self))
            raise
        self._fixture.start_again(self)

    def renewed(self, args: Any, **keywords: Any) -> FixtureProcess:
        """Itself, which is now what starts by these arguments; where that fails, what it was."""
        before = dict(vars(self))
        vars(self).clear()
        try:
            FixtureProcess.__init__(self, args, **keywords)
        except BaseException:
            vars(self).clear()
            vars(self).update(before)
            raise
        return self

    def output(self) -> str:
        """What was captured so far (``output=capture()``), or the end of the output file; "" where it is inherited."""
        return self._output.text() if isinstance(self._output, MemoryOutput) else self._output.tail()


def process_fixture(
    args: Any,
    *,
    ready: Any = None,
    ready_timeout: float = 30.0,
    output: str | os.PathLike[str] | capture | None = None,
    **keywords: Any,
) -> ProcessFixture:
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

    Raises TypeError and ValueError for what makes no sense. When the block is entered: `NotReady`, `ExitedBeforeReady`
    (both with the end of the output), `PortTaken`, and what `Popen` raises. At its end: `WatchdogTimeout`,
    `StopTimeout`.
    """
    return ProcessFixture(args, ready=ready, ready_timeout=ready_timeout, output=output, **keywords)


class ProcessFixture(ContextDecorator):
    """What `process_fixture()` makes: nothing is started before its block is entered.

    What starts several at a time (`start_all`) calls `start()`, waits as `until_ready()` asks for, and leaves it by
    `__exit__`.
    """

    def __init__(self, args: Any, *, ready: Any, ready_timeout: float, output: object, **keywords: Any) -> None:
        probe = readiness.probe(ready)
        if taken := {"stdout", "stderr"} & keywords.keys():
            raise TypeError(f"{taken.pop()}= is what output= sets")
        self.args = args
        self._ready = ready
        self._timeout = _checked_timeout(ready_timeout)
        self._output = checked(output)
        self._is_read = probe is not None and probe.reads_output
        self._keywords = keywords
        self._probe: readiness.Probe | None = None
        self._process: FixtureProcess | None = None

    def __enter__(self) -> FixtureProcess:
        self.check_is_free()
        try:
            process = self.start()
            driver.run(self.until_ready())
        except BaseException as error:
            self.__exit__(type(error), error, error.__traceback__)
            raise
        return process

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        process, self._process = self._process, None
        if process is None:  # it could not be started
            return
        try:
            if error is not None:
                reporting.stop_after(error, process.stop)
            else:
                process.stop()
                _check_watchdog(process)
        finally:
            process.close_streams()
            _close(process._notifications)
            process._output.close()

    def check_is_free(self) -> None:
        """Raises RuntimeError where its block has been entered already."""
        if self._process is not None:
            raise RuntimeError(f"the fixture of {self.args!r} is in use: make another one")

    def start(self) -> FixtureProcess:
        """Start it, and do not wait. `__exit__` is to be called, also where that fails."""
        output = opened(self._output, wanted=self._is_read)
        try:
            return self._started(output)
        except BaseException:
            output.close()
            raise

    def _started(self, output: Output, again: FixtureProcess | None = None) -> FixtureProcess:
        self._probe = probe = readiness.probe(self._ready, output.end())
        if isinstance(probe, readiness.Listening):
            probe.before_start(self._keywords)
        heard = _notifications(probe)
        options = {"stdin": subprocess.DEVNULL, **self._keywords, **output.for_popen()}
        try:
            if again is None:
                process = FixtureProcess(self.args, _notifications=heard, **options)
            else:
                process = again.renewed(self.args, _notifications=heard, **options)
            self._process = process
        except BaseException:
            _close(heard)
            raise
        process._output, process._fixture = output, self
        output.started()
        return process

    def until_ready(self) -> Steps:
        """What to wait for until it is ready. Raises `NotReady`, `ExitedBeforeReady`, `PortTaken`."""
        process = self._process
        assert process is not None
        if self._probe is not None:
            yield from _until_ready(process, self._probe, process._output, self._timeout)
        process._output.flow()
        if process._notifications is not None:
            process._notifications.flow()

    def check(self) -> None:
        """Wait until it is ready, as at its start; a line of its output, though, came once and for all.

        Raises what `until_ready()` raises, of a process that has not been stopped.
        """
        if self._probe is not None and not self._is_read:
            assert self._process is not None
            driver.run(_until_ready(self._process, self._probe, self._process._output, self._timeout))

    def start_again(self, process: FixtureProcess) -> None:
        """After a stop: start it, and wait until it is ready. Raises what entering the block raises."""
        if self._process is not process:
            raise ValueError(f"{process.name}: its block has been left, so it can't be started again")
        if process.report is None:
            return  # it has been, by a block inside
        process.close_streams()
        _close(process._notifications)
        process._output.again()
        self._started(process._output, process)
        try:
            driver.run(self.until_ready())
        except BaseException as error:
            reporting.stop_after(error, process.stop)
            raise


def _notifications(probe: readiness.Probe | None) -> Notifications | None:
    if not isinstance(probe, readiness.Notify):
        return None
    from allgone._process.notify import Notifications

    return Notifications(probe.watchdog)


def _close(heard: Notifications | None) -> None:
    if heard is not None:
        heard.close()


def _check_watchdog(process: FixtureProcess) -> None:
    heard = process._notifications
    if heard is not None and heard.expired:
        tail = process._output.tail()
        raise WatchdogTimeout(f"{process.args!r} was ended by its watchdog: {heard.expired}", tail)


def _checked_timeout(seconds: float) -> float:
    if not isinstance(seconds, (int, float)) or isinstance(seconds, bool):
        raise TypeError(f"ready_timeout must be a number of seconds, not {seconds!r}")
    if not seconds >= 0:
        raise ValueError(f"ready_timeout must be 0 or more seconds, not {seconds!r}")
    return seconds


def _until_ready(process: FixtureProcess, probe: readiness.Probe, output: Output, timeout: float) -> Steps:
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
            )
        left = deadline - time.monotonic()
        if left <= 0:
            last = f" (last: {said})" if said is not None else _told(process)
            raise NotReady(f"{process.args!r}: {probe} was not true within {timeout:g} s{last}", output.tail())
        is_told = probe.is_told and process.returncode is None  # nothing tells of the end of a daemon
        yield _news(process, output, left if is_told else min(pause, left))
        pause = min(pause * 1.5, _SLOWEST_LOOK)


def _lives_on(process: FixtureProcess) -> bool:
    """Whether the leader has ended as a daemon's does: with success, leaving others behind."""
    return process.returncode == 0 and bool(process.members() or process.escapees())


def _news(process: FixtureProcess, output: Output, pause: float) -> Wait:
    told = () if process._notifications is None else process._notifications.wait_fds()
    return Wait((*process.end_fds(), *output.wait_fds(), *told), time.monotonic() + pause)


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
