"""``allgone up``: from a Procfile to an exit status."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import replace

from honcho.printer import Printer

from allgone._backends import choose
from allgone._core.names import checked_name, made_up_name
from allgone._core.policy import StopPolicy
from allgone._linux import processes
from allgone._linux.outlet import Outlet, nobody_reads
from allgone.cli import OWN_FAILURE, say
from allgone.cli.job import forget_coerced_locale
from allgone.cli.manager import Manager
from allgone.cli.procfile import Asked as Asked
from allgone.cli.procfile import Entry, entries
from allgone.cli.record import Record
from allgone.cli.relay import Screen
from allgone.cli.words import names
from allgone.errors import AllgoneError, StopTimeout


def run(
    asked: Asked,
    policy: StopPolicy,
    *,
    backend: choose.BackendName | None = None,
    name: str | None = None,
    reports: Sequence[str] = (),
    colour: bool = True,
    prefix: bool = True,
) -> int:
    """Run it; returns the exit status."""
    forget_coerced_locale()
    try:
        name = made_up_name(os.path.abspath(asked.app_root), 1) if name is None else checked_name(name)
        found = entries(asked)
        record = Record(["up", *(entry.name for entry in found)], reports)
    except (OSError, ValueError, AllgoneError) as e:
        say(_in_words(e))
        return OWN_FAILURE
    outlet = Outlet(1) if sys.stdout is not None else None
    manager = Manager(Printer(Screen(outlet), colour=colour, prefix=prefix), outlet, backend, policy, name)
    try:
        status = _run(manager, found, record)
    finally:
        if outlet is not None:
            outlet.close()
    record.write(status)
    return status


def _run(manager: Manager, found: Sequence[Entry], record: Record) -> int:
    for entry in found:
        manager.add_process(entry.name, entry.command, entry.quiet, entry.env)
    try:
        manager.loop()
    except StopTimeout as e:
        _tell(manager, record)
        record.write(record.failed(OWN_FAILURE, f"could not stop {names(processes.described(e.survivors))}. {e}"))
        os._exit(OWN_FAILURE)  # at exit the library would try all over again
    except (AllgoneError, OSError, ValueError) as e:
        return record.failed(OWN_FAILURE, _in_words(e))
    _tell(manager, record)
    if manager.write_error is not None and not nobody_reads(manager.write_error):
        say(manager.stopped_because or f"its output can't be written: {manager.write_error.strerror}")
    return manager.returncode or 0


def _tell(manager: Manager, record: Record) -> None:
    if manager.report is not None:
        record.report = replace(manager.report, returncode=manager.ended)
    record.stopped_because = manager.stopped_because
    record.processes = [
        {"name": part.name, "command": part.cmd, "pid": part.process.pid, "returncode": part.process.returncode}
        for part in manager.parts.values()
        if part.process is not None
    ]


def _in_words(e: Exception) -> str:
    if isinstance(e, OSError) and not isinstance(e, AllgoneError) and e.strerror:
        return (f"{e.filename}: " if e.filename else "cannot start anything: ") + e.strerror
    return str(e)
