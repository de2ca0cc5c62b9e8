"""From a `Report` to what all renderings show: processes as rows of a tree, each with its beginning and its fate."""

from __future__ import annotations

import signal
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from allgone._core.genealogy import Genealogy, Life
from allgone._core.names import printable
from allgone._core.report import Process, Report, how_ended, signal_name

# What became of a process, in the order of a legend.
EXITED, TERMINATED, KILLED, SIGNALLED, ESCAPED, ALIVE, UNKNOWN = FATES = (
    "exited", "SIGTERM", "SIGKILL", "other signal", "escaped", "left running", "not known",
)  # fmt: skip


_TOO_SOON = "(ended before its command could be read)"


@dataclass(slots=True)
class Row:
    """A process. Times are seconds since the beginning of the story."""

    pid: int
    parent: int
    name: str
    command: str
    began: float | None
    ended: float | None
    fate: str
    how: str  # the fate in words
    runs: list[tuple[float, str]] = field(default_factory=list)  # what it executed, and when
    depth: int = 0
    below: int = 0  # how many descendants


@dataclass(slots=True)
class Story:
    """`began`: seconds since 1970 of time 0. `stopped`, `ended`: of the stop's beginning and end, after that."""

    report: Report
    rows: list[Row]
    began: float
    stopped: float
    ended: float
    signals: list[tuple[float, str]]
    is_whole: bool  # told by the kernel, from the beginning; else only who was alive at the stop
    missing: str  # what is not in it, in words


def of(report: Report) -> Story:
    """Tell it. Whoever was started first comes first, with its descendants right after it."""
    stop_at = report.began or 0.0
    past = report.genealogy
    starts = [each.started for each in report.members if each.started is not None]
    began = past.since if past is not None else min([stop_at, *starts])
    stopped = max(0.0, stop_at - began)
    rows = _from_genealogy(report, past, stopped) if past is not None else _from_snapshot(report, began, stopped)
    ended = max([stopped + report.duration, *(row.ended for row in rows if row.ended is not None)])
    return Story(
        report=report,
        rows=list(_in_order(rows)),
        began=began,
        stopped=stopped,
        ended=ended,
        signals=[(stopped + sent.after, str(sent)) for sent in report.sent if sent.signum != signal.SIGCONT],
        is_whole=past is not None,
        missing=_missing(past),
    )


def _missing(past: Genealogy | None) -> str:
    if past is None:
        return "Only who was alive when the stop began; trace=True tells of all."
    said = []
    if past.lost:
        said.append(f"the kernel dropped {past.lost} events of this machine's, so some may be missing")
    if past.unrecorded:
        said.append(f"{past.unrecorded} more were only counted")
    return "; ".join(said)


def _from_genealogy(report: Report, past: Genealogy, stopped: float) -> list[Row]:
    killed = {each.pid for each in report.killed}
    seen = {each.pid: each for each in (*report.members, *report.escapees)}
    escaped = {each.pid for each in report.escapees}
    spared = {each.pid for each in report.left_running}
    # A number may come twice: what is said of it by the stop is said of the last one.
    last = {life.pid: life for life in past.lives}
    rows = []
    for life in past.lives:
        at_stop = last[life.pid] is life
        fate = _fate(life, escaped=at_stop and life.pid in escaped, spared=at_stop and life.pid in spared)
        runs = [(run.at, printable(run.command, 1000)) for run in life.execs]
        process = seen.get(life.pid) if at_stop else None
        rows.append(_row(life, process, fate, runs, was_killed=at_stop and life.pid in killed))
    return rows


def _row(life: Life, process: Process | None, fate: str, runs: list[tuple[float, str]], *, was_killed: bool) -> Row:
    command = next((text for _, text in reversed(runs) if text), printable(process.command, 1000) if process else "")
    how = fate if life.returncode is None else how_ended(life.returncode)
    if fate == ESCAPED and process is not None and process.how:
        how = f"escaped: {printable(process.how, 200)}"
    return Row(
        pid=life.pid,
        parent=life.parent,
        name=printable(process.name, 64) if process and process.name != "?" else _name(command, runs),
        command=command or (_TOO_SOON if runs else "(a fork of its parent)"),
        began=life.began,
        ended=life.ended,
        fate=fate,
        how=how + (", had to be killed" if was_killed and fate not in (KILLED, EXITED) else ""),
        runs=runs,
    )


def _name(command: str, runs: object) -> str:
    return command.split(" ", 1)[0].rsplit("/", 1)[-1] or ("?" if runs else "(fork)")


def _fate(life: Life, *, escaped: bool, spared: bool) -> str:
    if escaped:
        return ESCAPED
    if life.returncode is None:
        return ALIVE if spared else UNKNOWN
    if life.returncode >= 0:
        return EXITED
    return {int(signal.SIGTERM): TERMINATED, int(signal.SIGKILL): KILLED}.get(-life.returncode, SIGNALLED)


def _from_snapshot(report: Report, began: float, stopped: float) -> list[Row]:
    killed = {each.pid for each in report.killed}
    spared = {each.pid for each in report.left_running}
    escaped = {each.pid for each in report.escapees}
    sent: dict[int, list[int]] = {}
    for signalled in report.sent:
        for pid in signalled.pids:
            sent.setdefault(pid, []).append(signalled.signum)
    everybody = {each.pid: each for each in (*report.members, *report.killed, *report.escapees)}
    rows = []
    for each in sorted(everybody.values(), key=lambda each: (each.started or 0.0, each.pid)):
        if each.pid in spared:
            fate = ALIVE
        elif each.pid in escaped:
            fate = ESCAPED
        elif each.pid in killed:
            fate = KILLED
        else:
            fate = TERMINATED if signal.SIGTERM in sent.get(each.pid, ()) else UNKNOWN
        rows.append(
            Row(
                pid=each.pid,
                parent=each.parent,
                name=printable(each.name, 64),
                command=printable(each.command, 1000),
                began=None if each.started is None else max(0.0, each.started - began),
                ended=None if fate in (ALIVE, ESCAPED) else stopped + report.duration,
                fate=fate,
                how=_asked(fate, sent.get(each.pid, ())),
            )
        )
    return rows


def _asked(fate: str, signums: Iterable[int]) -> str:
    names = [signal_name(each) for each in signums if each != signal.SIGCONT]
    return fate if fate in names or not names else f"{fate}, sent {' and '.join(names)}"


def _in_order(rows: list[Row]) -> Iterator[Row]:
    """Depth first, without recursion: a chain of 5,000 is a tree as well."""
    children: dict[int, list[Row]] = {}
    last: dict[int, Row] = {}
    parents: dict[int, Row | None] = {}
    for row in rows:  # in the order of their beginning, so a parent's number is that of the last one who had it
        parent = last.get(row.parent)
        parents[id(row)] = parent
        children.setdefault(id(parent) if parent is not None else 0, []).append(row)
        last[row.pid] = row
    for row in reversed(rows):
        parent = parents[id(row)]
        if parent is not None:
            parent.below += row.below + 1
    todo = list(reversed(children.get(0, [])))
    while todo:
        row = todo.pop()
        parent = parents[id(row)]
        row.depth = 0 if parent is None else parent.depth + 1
        yield row
        todo += reversed(children.get(id(row), []))
