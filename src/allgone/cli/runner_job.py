"""``allgone job``: what hooks of a CI runner say in its log."""

from __future__ import annotations

import os
from collections.abc import Sequence

import click

from allgone._core.names import checked_name, printable
from allgone._core.policy import DEFAULT, StopPolicy
from allgone._core.report import Report
from allgone._process import runner_job
from allgone._process.runner_job import Job
from allgone.cli import OWN_FAILURE, say
from allgone.cli.record import Record
from allgone.cli.words import number
from allgone.errors import AllgoneError

LEFTOVERS = 1
_NAMED = 20  # processes, a line each


def begin(pid: int, name: str) -> int:
    try:
        checked_name(name)  # before anything is ended
        before = runner_job.current()
        if before is not None and before.owner.pid == pid and before.owner.is_alive():
            report = runner_job.end(before, DEFAULT)
            say(f"{before.id} was not ended, so this has done it: {_left(report) or 'nothing was left in it'}")
        job = runner_job.begin(pid, name)
    except (AllgoneError, OSError, ValueError) as e:
        say(str(e))
        return OWN_FAILURE
    click.echo(f"allgone: {job.id} begins: what process {pid} starts from now on ends with it")
    return 0


def end(policy: StopPolicy, reports: Sequence[str], log: str | None, *, fail: bool) -> int:
    try:
        job = runner_job.current()
        if job is None:
            say('no job has begun here: "allgone job begin" moves the process that has started us into one')
            return OWN_FAILURE
        record = Record([job.containment.name], reports)
    except (AllgoneError, OSError) as e:
        say(str(e))
        return OWN_FAILURE
    status = _ended(job, policy, record, log or _log_of_runner(), fail=fail)
    record.write(status)
    return status


def _ended(job: Job, policy: StopPolicy, record: Record, log: str, *, fail: bool) -> int:
    try:
        record.report = runner_job.end(job, policy)
    except (AllgoneError, OSError) as e:
        return record.failed(OWN_FAILURE, str(e))
    if not (left := _left(record.report)):
        click.echo(f"allgone: {job.id} has ended: nothing was left in it")
        return 0
    if log == "github":
        click.echo(f"::warning title=allgone::{_escaped(left)}")
    else:
        say(left)
    return LEFTOVERS if fail else 0


def _left(report: Report) -> str:
    """In words, a line for each process; "" if nothing was."""
    if not report.members:
        return ""
    killed = {each.pid for each in report.killed}
    lines = [f"stopped {number(report.members)} that the job left behind"]
    for each in report.members[:_NAMED]:
        how = " (had to be killed)" if each.pid in killed else ""
        lines.append(f"  pid {each.pid}{how}: {printable(each.command or each.name)}")
    if len(report.members) > _NAMED:
        lines.append(f"  and {len(report.members) - _NAMED} more")
    return "\n".join(lines)


def _log_of_runner() -> str:
    return "github" if os.environ.get("GITHUB_ACTIONS") == "true" else "plain"


def _escaped(message: str) -> str:
    """As the data of a workflow command (actions/toolkit, packages/core/src/command.ts)."""
    return message.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
