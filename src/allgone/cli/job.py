"""``allgone run``: one command, from its start to its exit status."""

from __future__ import annotations

import errno
import os
import time
import warnings
from dataclasses import dataclass, field
from typing import Any

from allgone._backends import choose
from allgone._backends.process_group import ProcessGroupBackend
from allgone._core.containment import Backend
from allgone._core.policy import StopPolicy
from allgone._core.report import Report
from allgone._linux import own_end, processes
from allgone._linux.terminal import Terminal
from allgone._process import driver
from allgone._process.popen import Popen
from allgone.cli import OWN_FAILURE, put, say
from allgone.cli.durations import shown
from allgone.cli.record import Record, shell_status
from allgone.cli.signals import ENDING, Signals
from allgone.cli.supervision import TIMEOUT, Supervision
from allgone.cli.words import names, number
from allgone.errors import AllgoneError, EscapedProcessWarning, PlacementFailed, StopTimeout, Unsupported

TIMED_OUT, NOT_EXECUTABLE, NOT_FOUND = 124, 126, 127


@dataclass(frozen=True, slots=True)
class Job:
    """What to run, and how."""

    args: tuple[str, ...]
    policy: StopPolicy
    backend: choose.BackendName | None
    timeout: float
    name: str | None
    reports: tuple[str, ...]
    scope: dict[str, Any] = field(default_factory=dict)  # Popen's arguments for a systemd scope
    inside: dict[str, Any] = field(default_factory=dict)  # those for seeing inside, and for keeping it in
    usage: bool = False


def run(job: Job) -> int:
    """Run it; returns the exit status, or ends this process by the signal that ended the command."""
    try:
        record = Record(job.args, job.reports)
    except (OSError, Unsupported) as e:
        say(str(e))
        return OWN_FAILURE
    terminal = Terminal.found()
    try:
        status = _run(job, record, terminal)
    finally:
        if terminal is not None:
            terminal.close()
    record.write(status)
    if status < 0:
        driver.stop_everything()  # that end runs no atexit handlers
        own_end.by_signal(-status)
        return 128 - status
    return status


def _run(job: Job, record: Record, terminal: Terminal | None) -> int:
    signals = Signals()
    forget_coerced_locale()
    try:
        backend = _backend(job, terminal)
        driver.will_use(backend)
        if asked_to_end := _asked_to_end(signals):
            return -asked_to_end
        began = time.monotonic()
        process = _started(job, backend)
    except (AllgoneError, OSError, ValueError) as e:
        return -_asked_to_end(signals) or record.failed(*_start_failure(job, e))
    signals.hold()
    if job.usage and process.backend == "cgroup":
        process.usage()  # so that the final one has pressure, too
    watch = Supervision(process, signals, terminal, timeout=job.timeout, timeout_stop=job.policy.timeout_stop)
    record.stopped_because = watch.until_end()
    forced = record.stopped_because is not None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", EscapedProcessWarning)  # said below, in the words of a command
            report = process.stop_meanwhile(watch.carry_out)
    except StopTimeout as e:
        record.write(record.failed(OWN_FAILURE, f"could not stop {names(processes.described(e.survivors))}. {e}"))
        os._exit(OWN_FAILURE)  # at exit the library would try all over again
    finally:
        if forced and terminal is not None:
            terminal.put_back()
    backend.close()
    record.report = report
    elapsed = time.monotonic() - began
    _tell(job, process, report, record.stopped_because)
    status = TIMED_OUT if record.stopped_because == TIMEOUT else process.returncode
    if job.usage:
        _tell_usage(job, report, status, elapsed)
    return status


def _asked_to_end(signals: Signals) -> int:
    """The signal, if one came before there was a command; else 0."""
    return next((each for each in signals.early if each in ENDING), 0)


def _backend(job: Job, terminal: Terminal | None) -> Backend:
    backend = choose.backend(job.backend, sweep=True, scope=bool(job.scope))
    if backend.name == "process-group" and terminal is not None:
        return ProcessGroupBackend(sweep=True, session=False)  # a session of its own would have no terminal
    return backend


def _started(job: Job, backend: Backend) -> Popen:
    try:
        return _popen(job, backend, job.args)
    except OSError as e:
        if e.errno != errno.ENOEXEC:
            raise
    import shutil

    script = shutil.which(job.args[0]) or job.args[0]
    # A script without "#!": execvp(3), and so env(1) and every shell, runs it with sh.
    return _popen(job, backend, ("/bin/sh", script, *job.args[1:]))


def _popen(job: Job, backend: Backend, args: tuple[str, ...]) -> Popen:
    if not args[0]:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), "")  # not the directories of PATH
    options = {"name": job.name, "policy": job.policy, "close_fds": False, **job.scope, **job.inside}
    return Popen(args, backend=backend, **options)


def forget_coerced_locale() -> None:
    # In the C locale Python sets LC_CTYPE for its children (PEP 538). The command shall get its environment as it was.
    if os.environ.get("LC_CTYPE") in ("C.UTF-8", "C.utf8", "UTF-8") and not processes.was_set_at_start("LC_CTYPE"):
        del os.environ["LC_CTYPE"]


def _start_failure(job: Job, e: Exception) -> tuple[int, str]:
    """(exit status, message)"""
    if isinstance(e, OSError) and not isinstance(e, AllgoneError) and e.filename == job.args[0]:
        status = NOT_FOUND if e.errno == errno.ENOENT else NOT_EXECUTABLE
        return status, f"cannot run {job.args[0] or repr('')}: {e.strerror}"
    if isinstance(e, OSError) and not isinstance(e, PlacementFailed):
        return OWN_FAILURE, "cannot start anything: " + (f"{e.filename}: " if e.filename else "") + str(e.strerror)
    return OWN_FAILURE, str(e)


def _tell(job: Job, process: Popen, report: Report, because: str | None) -> None:
    """One line about what had to be stopped, if anything."""
    spared = {each.pid for each in report.left_running}
    stopped = [each for each in (*report.members, *report.escapees) if each.pid not in spared]
    if because is None:
        stopped = [each for each in stopped if each.pid != process.pid]
        said = f"stopped {number(stopped)} that the command left behind: {names(stopped)}" if stopped else ""
    elif because == TIMEOUT:
        said = f"time-out after {shown(job.timeout)}: stopped {names(stopped)}"
    else:
        said = f"stopped the command, for {because}: {names(stopped)}"
    if because is None and report.ended_from_outside:
        said = f"ended from outside: {report.ended_from_outside}" + (f"; {said}" if said else "")
    if report.oom_kills:
        killed = "a process" if report.oom_kills == 1 else f"{report.oom_kills} processes"
        said = f"the kernel killed {killed} of it for want of memory" + (f"; {said}" if said else "")
    alive = process.escapees() - spared
    if alive:
        said += ("; " if said else "") + f"could not stop {names(processes.described(alive))}"
    if said:
        say(said)


def _tell_usage(job: Job, report: Report, status: int, elapsed: float) -> None:
    from allgone.cli import usage

    put(usage.text(job.args, shell_status(status), elapsed, report.usage))
