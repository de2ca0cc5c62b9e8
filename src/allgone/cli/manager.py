"""``allgone up``: several commands, each in a containment of its own; when one ends, all are stopped."""

from __future__ import annotations

import math
import select
import signal
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from subprocess import DEVNULL, STDOUT
from typing import Protocol

from honcho import colour
from honcho.printer import Message

from allgone._backends.choose import BackendName
from allgone._core.containment import Backend
from allgone._core.names import checked_name, made_up_name
from allgone._core.policy import StopPolicy
from allgone._core.report import Report, signal_name
from allgone._core.stop import Steps
from allgone._linux import processes
from allgone._linux.outlet import Outlet, nobody_reads
from allgone._process import driver, reporting
from allgone._process.group import Group
from allgone._process.popen import Popen
from allgone.cli import OWN_FAILURE
from allgone.cli.record import shell_status
from allgone.cli.relay import Lines
from allgone.cli.signals import Requests
from allgone.cli.supervision import SAME_REQUEST, reap_adopted
from allgone.cli.words import names, number
from allgone.errors import EscapedProcessWarning, StopTimeout

SYSTEM = "system"
TIMEOUT_STOP = 5.0  # seconds, as Honcho's
_FULL = 1 << 20  # bytes that wait for a slow terminal before nothing more is read from the processes
_FULL_WHILE_STOPPING = 1 << 26  # so that they can say what they have to, and end


class Printer(Protocol):
    """`honcho.printer.Printer`, or what does as it does."""

    width: int

    def write(self, message: Message) -> None: ...


@dataclass(eq=False, slots=True)
class Part:
    """One command, and what runs it."""

    name: str
    cmd: str
    colour: str
    quiet: bool = False
    env: Mapping[str, str] | None = None
    cwd: str | None = None
    lines: Lines | None = None
    process: Popen | None = None
    end_fds: tuple[int, ...] = ()
    ended: bool = False


@dataclass(eq=False)
class Manager:
    """Starts commands, passes their lines on to `printer`, and stops all when one has ended or a signal comes.

    It is used as `honcho.manager.Manager` is: `add_process()`, `loop()`, `returncode`. `outlet` is what the printer
    writes to. Nothing that the processes do, and no terminal, keeps it from taking signals.
    """

    printer: Printer
    outlet: Outlet | None = None
    backend: BackendName | Backend | None = None
    policy: StopPolicy = StopPolicy(timeout_stop=TIMEOUT_STOP)  # noqa: RUF009  # it is frozen
    name: str | None = None
    ended: int | None = field(default=None, init=False)
    """The return code of the first command to end, or -N where signal N came before that; None before it."""
    report: Report | None = field(default=None, init=False)
    stopped_because: str | None = field(default=None, init=False)
    write_error: OSError | None = field(default=None, init=False)
    parts: dict[str, Part] = field(default_factory=dict, init=False)
    _requests: Requests = field(init=False)
    _asked_at: float = field(default=-math.inf, init=False)  # when the last signal came that counted
    _is_stopping: bool = field(default=False, init=False)

    @property
    def returncode(self) -> int | None:
        """The same as an exit status, as `honcho.manager.Manager` has it: 128+N for signal N."""
        return None if self.ended is None else shell_status(self.ended)

    def __post_init__(self) -> None:
        self.printer.width = len(SYSTEM)
        self._colours = colour.get_colours()

    def add_process(
        self, name: str, cmd: str, quiet: bool = False, env: Mapping[str, str] | None = None, cwd: str | None = None
    ) -> Part:
        """Add a shell command; `loop()` starts it. Raises ValueError for a name that there is."""
        if name in self.parts:
            raise ValueError(f"there is a process {name!r} already")
        self.parts[name] = Part(name, cmd, next(self._colours), quiet, env, cwd)
        self.printer.width = max(self.printer.width, len(name))
        return self.parts[name]

    def loop(self) -> None:
        """Run until nothing is left. Raises what `Popen` raises, and `StopTimeout`."""
        if not self.parts:
            return
        with Requests() as self._requests:
            try:
                self._run(Group(backend=self.backend, name=self.name, policy=self.policy, sweep=True))
            finally:
                self._write_the_rest()

    def _run(self, group: Group) -> None:
        try:
            for index, part in enumerate(self.parts.values(), 1):
                self._start(group, part, index)
            for part in self.parts.values():
                self._note_end(part)  # of one that has no fd for it, having ended so soon
            while self.ended is None:
                self._turn((), math.inf)
            self._stop(group)
        except StopTimeout:
            raise
        except BaseException as e:
            reporting.stop_after(e, group.stop)
            raise
        finally:
            for part in self.parts.values():
                if part.lines is not None:
                    part.lines.close()

    def _start(self, group: Group, part: Part, index: int) -> None:
        if not part.quiet:
            part.lines = Lines()
        output = DEVNULL if part.lines is None else part.lines.writer
        try:
            part.process = group.Popen(
                part.cmd, shell=True, name=_containment_name(part.name, index), stdin=DEVNULL, stdout=output,
                stderr=STDOUT, env=part.env, cwd=part.cwd, start_new_session=True,
            )  # fmt: skip
        finally:
            if part.lines is not None:
                part.lines.started()
        part.end_fds = part.process.end_fds()
        self._say(f"{part.name} started (pid={part.process.pid})")

    # One turn: whatever there is to be done now

    def _turn(self, fds: Sequence[int], deadline: float) -> bool:
        """Wait until something happens, and deal with it; whether it was one of `fds`, or the `deadline`.

        Raises `driver.Hurry` where a signal asks to end while all are being stopped.
        """
        self._push()
        if self.ended is not None and not self._is_stopping:
            return False  # nobody reads any more
        alive = [part for part in self.parts.values() if part.process is not None and not part.ended]
        reading = [part for part in self.parts.values() if part.lines is not None and not self._is_full()]
        poller = select.poll()
        for fd in (*fds, self._requests.fileno(), *(fd for part in alive for fd in part.end_fds)):
            poller.register(fd, select.POLLIN)
        for part in reading:
            for fd in part.lines.fds() if part.lines else ():
                poller.register(fd, select.POLLIN)
        if self.outlet:
            poller.register(self.outlet.fileno(), select.POLLOUT)
        ready = dict(poller.poll(driver.milliseconds_until(deadline)))
        for part in reading:
            if part.lines is not None and any(fd in ready for fd in part.lines.fds()):
                self._pass_on(part, part.lines.read())
        for part in alive:
            if any(fd in ready for fd in part.end_fds):
                self._note_end(part)
        if self._requests.fileno() in ready:
            reap_adopted({part.process.pid for part in self.parts.values() if part.process is not None})
            self._heed(self._requests.take())
        return any(fd in ready for fd in fds) or time.monotonic() >= deadline

    def _is_full(self) -> bool:
        most = _FULL_WHILE_STOPPING if self._is_stopping else _FULL
        return self.outlet is not None and len(self.outlet) > most

    def _push(self) -> None:
        if self.outlet is None:
            return
        try:
            if self.write_error is None:
                self.outlet.push()
            else:
                self.outlet.drop()
        except OSError as e:
            self.write_error = e
            self.outlet.drop()
            status = -signal.SIGPIPE if nobody_reads(e) else OWN_FAILURE
            self._end_with(status, f"its output can't be written: {e.strerror}")

    def _pass_on(self, part: Part, lines: Sequence[bytes]) -> None:
        now = datetime.now()
        for line in lines:
            self.printer.write(Message("line", line, now, part.name, part.colour))

    def _say(self, text: str) -> None:
        self.printer.write(Message("line", text + "\n", datetime.now(), SYSTEM, None))

    def _end_with(self, returncode: int, because: str | None = None) -> None:
        if self.ended is None:
            self.ended, self.stopped_because = returncode, because

    def _heed(self, signums: Sequence[int]) -> None:
        for signum in signums:
            if not self._is_new_request():
                continue
            if self.ended is None:
                self._say(f"{signal_name(signum)} received")
                self._end_with(-signum, signal_name(signum))
            elif self._is_stopping:
                self._say(f"{signal_name(signum)} received: killing all that is left")
                raise driver.Hurry

    def _is_new_request(self) -> bool:
        if time.monotonic() <= self._asked_at + SAME_REQUEST:
            return False
        self._asked_at = time.monotonic()
        return True

    def _note_end(self, part: Part) -> None:
        process = part.process
        assert process is not None
        if part.ended or process.poll() is None:
            return
        part.ended, part.end_fds = True, ()
        if part.lines is not None:
            self._pass_on(part, [*part.lines.drain(), *part.lines.rest()])
        self._say(f"{part.name} stopped (rc={process.returncode})")
        self._end_with(process.returncode)

    # The stop

    def _stop(self, group: Group) -> None:
        self._is_stopping = True
        how = self.policy.kill_signal if self.policy.timeout_stop > 0 else signal.SIGKILL
        for part in self.parts.values():
            assert part.process is not None
            if not part.ended:
                self._say(f"sending {signal_name(how)} to {part.name} (pid {part.process.pid})")
            elif left := processes.described(part.process.members()):
                self._say(f"{part.name} left {number(left)} behind, stopping: {names(left)}")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", EscapedProcessWarning)  # with sweep=True, none is left
            self.report = group.stop_meanwhile(self._carry_out)
        for part in self.parts.values():
            self._note_end(part)
            if part.lines is not None:  # what others wrote after it had ended
                self._pass_on(part, [*part.lines.drain(), *part.lines.rest()])
        if self.report.killed:
            self._say(f"had to kill {number(self.report.killed)}: {names(self.report.killed)}")

    def _carry_out(self, steps: Steps) -> None:
        for wait in steps:
            while not self._turn(wait.fds, wait.deadline):
                pass

    def _write_the_rest(self) -> None:
        """All is over; a terminal may be slow. Another signal ends the wait."""
        self._push()
        while self.outlet:
            poller = select.poll()
            poller.register(self._requests.fileno(), select.POLLIN)
            poller.register(self.outlet.fileno(), select.POLLOUT)
            poller.poll()
            if self._requests.take() and self._is_new_request():
                return
            self._push()


def _containment_name(name: str, index: int) -> str:
    """Its own name, unless that can't be one: Procfiles may have "-x", or "memory", whose first would be memory.1."""
    try:
        return checked_name(name)
    except ValueError:
        return made_up_name(name, index)
