"""`process_fixture`: ready before the body runs, all gone after it, whatever happens in between."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ContextDecorator, contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any

from allgone import ready as readiness
from allgone._core.stop import Steps
from allgone._process import driver, reporting
from allgone._process.output import MemoryOutput, Output, capture, checked, opened
from allgone._process.popen import Popen
from allgone._process.until_ready import UntilReady
from allgone.errors import WatchdogTimeout

if TYPE_CHECKING:
    from allgone._core.notification import Notified
    from allgone._core.policy import StopPolicy
    from allgone._core.report import Report
    from allgone._core.sockets import Wanted
    from allgone._process.notify import Notifications


class FixtureProcess(Popen):
    """The process of a `process_fixture`: a `Popen` that also knows its output."""

    _output: Output = Output()
    _started_by: ProcessFixture | None = None

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

    def stopped(self, policy: StopPolicy | None = None) -> AbstractContextManager[Report]:
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
        if self._started_by is None:
            raise ValueError(f"{self.name} is of no process_fixture(), so it can't be started again")
        return self._started_by.stopped(policy)

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
    return ProcessFixture(args, ready, ready_timeout, output, keywords)


class ProcessFixture(ContextDecorator):
    """What `process_fixture()` makes: nothing is started before its block is entered.

    What starts several at a time (`start_all`) calls `start()`, waits as `until_ready()` asks for, and leaves it by
    `__exit__`.
    """

    def __init__(self, args: Any, ready: Any, ready_timeout: float, output: Any, keywords: dict[str, Any]) -> None:
        _check(ready, ready_timeout, output, keywords)
        self.args = args
        self._given = (ready, ready_timeout, output, keywords)
        self._fixture: Fixture | None = None
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
        fixture, self._fixture = self._fixture, None
        process, self._process = self._process, None
        if fixture is None:
            return  # it could not be opened
        with fixture:
            if process is None:
                return  # or not be started
            try:
                if error is not None:
                    reporting.stop_after(error, process.stop)
                else:
                    process.stop()
                    fixture.check_watchdog(process)
            finally:
                process.close_streams()

    def check_is_free(self) -> None:
        """Raises RuntimeError where its block has been entered already."""
        if self._fixture is not None:
            raise RuntimeError(f"the fixture of {self.args!r} is in use: make another one")

    def start(self) -> FixtureProcess:
        """Start it, and do not wait. `__exit__` is to be called, also where that fails."""
        self._fixture = Fixture(*self._given)
        self._process = process = self._fixture.start(self.args)
        process._started_by = self
        return process

    def until_ready(self) -> Steps:
        """What to wait for until it is ready. Raises `NotReady`, `ExitedBeforeReady`, `PortTaken`."""
        fixture, process = self._open()
        yield from _waits(fixture.until_ready(process))
        fixture.flow()

    def _open(self) -> tuple[Fixture, FixtureProcess]:
        if self._fixture is None or self._process is None:
            raise ValueError(f"{self.args!r}: its block has been left, so it can't be started again")
        return self._fixture, self._process

    def check(self) -> None:
        """Wait until it is ready, as at its start; but what tells of a moment is not asked again.

        Raises what `until_ready()` raises, of a process that has not been stopped.
        """
        fixture, process = self._open()
        if fixture.probe is not None and not fixture.probe.reads_output and not fixture.probe.is_told:
            driver.run(_waits(fixture.until_ready(process)))

    @contextmanager
    def stopped(self, policy: StopPolicy | None) -> Iterator[Report]:
        """Raises ValueError where its block was left, and what entering that raises."""
        fixture, process = self._open()
        report = process.stop(policy)
        fixture.check_watchdog(process)
        try:
            yield report
        except (KeyboardInterrupt, SystemExit, GeneratorExit):
            raise
        except BaseException as error:
            reporting.stop_after(error, self._start_again)
            raise
        self._start_again()

    def _start_again(self) -> None:
        fixture, process = self._open()
        if process.report is None:
            return  # it has been started again, by a block inside
        process.close_streams()
        fixture.start_again(process)
        process._started_by = self
        try:
            driver.run(self.until_ready())
        except BaseException as error:
            reporting.stop_after(error, process.stop)
            raise


def _waits(until_ready: UntilReady | None) -> Steps:
    while until_ready is not None and (wait := until_ready.next_wait()) is not None:
        yield wait


def _check(
    ready: Any, ready_timeout: float, output: Any, keywords: dict[str, Any], *, may_be_async: bool = False
) -> None:
    """Raises TypeError and ValueError."""
    readiness.probe(ready, may_be_async=may_be_async)
    _checked_timeout(ready_timeout)
    checked(output)
    if taken := {"stdout", "stderr"} & keywords.keys():
        raise TypeError(f"{taken.pop()}= is what output= sets")


class Fixture:
    """A fixture without its process: the arguments, checked, and what is open for it until the block is left."""

    def __init__(
        self, ready: Any, ready_timeout: float, output: Any, keywords: dict[str, Any], *, may_be_async: bool = False
    ) -> None:
        _check(ready, ready_timeout, output, keywords, may_be_async=may_be_async)
        self._ready = ready
        self.probe = readiness.probe(ready, may_be_async=may_be_async)
        self._timeout = ready_timeout
        self._keywords = {"stdin": subprocess.DEVNULL, **keywords}
        self._heard = _notifications(self.probe)
        reads_output = self.probe is not None and self.probe.reads_output
        self._output = opened(checked(output), wanted=reads_output)

    def start(self, args: Any, start: Callable[..., FixtureProcess] = FixtureProcess) -> FixtureProcess:
        """Raises what `Popen` raises, and `PortTaken`."""
        if isinstance(self.probe, readiness.Listening):
            self.probe.before_start(self._keywords)
        process = start(args, _notifications=self._heard, **self._keywords, **self._output.for_popen())
        process._output = self._output
        self._output.started()
        return process

    def start_again(self, process: FixtureProcess) -> None:
        """After a stop: the same process object is that of another start, whose output comes behind the present one."""
        if self._heard is not None:
            self._heard.close()
        self._output.again()
        self.probe = readiness.probe(self._ready, self._output.end())
        self._heard = _notifications(self.probe)
        self.start(process.args, process.renewed)

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
