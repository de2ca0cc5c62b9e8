"""A report as a tree for a terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TextIO

import click

from allgone._core.report import Report
from allgone.reports import story, words
from allgone.reports.story import Row

_MOST = 200  # processes; nobody reads more
_COLOURS = {
    story.TERMINATED: "yellow", story.KILLED: "red", story.SIGNALLED: "magenta", story.ESCAPED: "bright_red",
    story.ALIVE: "cyan",
}  # fmt: skip


def show(report: Report, file: TextIO | None = None) -> None:
    """Print it: with colours on a terminal, plain otherwise.

    >>> import allgone
    >>> show(allgone.run(["true"], name="example").report)
    example: exit status 0, stopped in ...
    """
    click.echo("\n".join(_lines(report)), file=file or sys.stdout)


def text(report: Report) -> str:
    """The same, without colours."""
    return click.unstyle("\n".join(_lines(report))) + "\n"


def _lines(report: Report) -> Iterator[str]:
    told = story.of(report)
    yield click.style(f"{report.name}: {report.outcome}, stopped in {words.seconds(report.duration)}", bold=True)
    yield from map(_line, told.rows[:_MOST])
    if len(told.rows) > _MOST:
        yield f"  … and {len(told.rows) - _MOST} more processes"
    for title, said in words.facts(told):
        if title not in ("Leader", "Stop"):
            yield f"  {click.style(title, bold=True)}: {said}"
    for at, sent in told.signals:
        yield f"  {click.style('Sent', bold=True)}: {sent} ({words.seconds(at)} after the start)"


def _line(row: Row) -> str:
    lived = words.lived(row)
    how = click.style(row.how, fg=_COLOURS.get(row.fate))
    shown = row.command if len(row.command) <= 100 else row.command[:99] + "…"
    return f"  {'  ' * min(row.depth, 20)}{row.pid} {shown}  [{how}{f', lived {lived}' if lived else ''}]"
