"""Rows of scripts/bench: from samples to medians, ratios, verdicts on the targets, a table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median


@dataclass(frozen=True)
class Row:
    """One way of doing one thing, from one supervisor. Ratios are to the baseline of the same supervisor and rounds."""

    what: str
    how: str
    supervisor: str
    samples: int
    median_ms: float
    minimum_ms: float
    baseline: str
    ratio: float | None
    ratio_of_minimums: float | None


@dataclass(frozen=True)
class Target:
    """What was promised, and what came out; None where it could not be measured."""

    claim: str
    limit: float
    value: float | None
    value_of_minimums: float | None = None

    @property
    def met(self) -> bool | None:
        return None if self.value is None else self.value <= self.limit

    def verdict(self) -> str:
        if self.value is None:
            return "not measured"
        shown = f"{self.value:.2f}"
        if self.value_of_minimums is not None:
            shown += f" (minimums: {self.value_of_minimums:.2f})"
        if self.met:
            return f"met: {shown}"
        return f"missed: {shown}, " + (f"{self.value / self.limit - 1:.0%} over" if self.limit else "not 0")


def rows(samples: dict[str, list[int]], supervisor: str, baseline: str) -> list[Row]:
    """One row for each "what/how" in `samples` (nanoseconds)."""
    found = []
    for name, took in samples.items():
        what, how = name.split("/")
        yardstick = samples.get(f"{what}/{baseline}")
        middle, least = median(took) / 1e6, min(took) / 1e6
        found.append(
            Row(
                what=what, how=how, supervisor=supervisor, samples=len(took),
                median_ms=middle, minimum_ms=least, baseline=baseline,
                ratio=middle / (median(yardstick) / 1e6) if yardstick else None,
                ratio_of_minimums=least / (min(yardstick) / 1e6) if yardstick else None,
            )
        )  # fmt: skip
    return found


def find(all_rows: Iterable[Row], what: str, how: str, supervisor: str) -> Row | None:
    wanted = (what, how, supervisor)
    return next((row for row in all_rows if (row.what, row.how, row.supervisor) == wanted), None)


def _to_baseline(claim: str, limit: float, row: Row | None) -> Target:
    return Target(claim, limit, row and row.ratio, row and row.ratio_of_minimums)


def _between(claim: str, limit: float, over: Row | None, under: Row | None) -> Target:
    if over is None or under is None:
        return Target(claim, limit, None)
    return Target(claim, limit, over.median_ms / under.median_ms, over.minimum_ms / under.minimum_ms)


def targets(all_rows: list[Row], small: str, large: str) -> list[Target]:
    """The promises that are about durations and were measured by supervisors."""
    found = []
    for what in ("true", "sleep"):
        name = f"start and stop `{what}` with cgroup"
        ours, theirs = find(all_rows, what, "cgroup", small), find(all_rows, what, "cgroup", large)
        found.append(_to_baseline(f"{name}, to bare Popen", 1.5, ours))
        found.append(_between(f"{name}, from {large} to from {small}", 1.3, theirs, ours))
    for n in (1000, 5000):
        row = find(all_rows, f"kill {n}", "cgroup", small)
        found.append(_to_baseline(f"kill {n:,} processes with cgroup, to raw C", 1.3, row))
    traced = find(all_rows, "forks", "cgroup, traced", small)
    found.append(_to_baseline("a script that runs 500 programs, traced, to untraced", 1.25, traced))
    return found


def unit_targets(all_rows: list[Row], place: str) -> list[Target]:
    """The promises about systemd's scopes, for one manager."""
    first = [find(all_rows, "first", how, place) for how in ("scope", "scope, importing pystemd")]
    name = f"{place}: the first child in a scope"
    return [
        _to_baseline(f"{place}: start and wait for `true` in a scope, 2nd child and later, to bare Popen", 1.5,
                     find(all_rows, "true", "scope", place)),
        _to_baseline(f"{name}, to systemd-run --scope", 1.2, first[0]),
        _to_baseline(f"{name} and the import of pystemd, to systemd-run --scope", 1.2, first[1]),
        _to_baseline(f"{place}: stop `sleep` in a scope, to systemctl stop", 0.2,
                     find(all_rows, "stop", "scope", place)),
    ]  # fmt: skip


_TITLES = {
    "true": "start and wait for `true`",
    "true, apart": "start and wait for `true`, after a pause of 50 ms",
    "sleep": "start and stop `sleep 1000`",
    "ready": "start a small program, wait until it says that it is ready, stop it",
    "with": "with Popen(true): pass",
    "run": "run(true)",
    "forks": "run a script that runs `true` 500 times",
    "exec": "start `sh`, wait for its first byte",
    "stop": "stop `sleep 1000`; a unit by systemctl, pystemd's by Unit.Stop, until its process is gone",
    "first": "the first run(true) of an interpreter",
    "empty tests": "1,000 empty tests, in CPU time",
    "simple": "beside others: start a program, wait until it is ready, stop it",
    "tree": "beside others: the same, of a foreman with three workers",
    "daemon": "beside others: the same, where one of the workers has become a daemon",
    "import": "import, as a whole interpreter; ratio: without the interpreter's own start",
}
_HOWS = {
    "bare": "subprocess.Popen",
    "killpg": "subprocess.Popen + killpg",
    "cgroup": "allgone, cgroup",
    "cgroup, traced": "allgone, cgroup, trace=True",
    "process-group": "allgone, process-group",
    "cgroup, interpreted": "allgone, cgroup, interpreted launcher",
    "process-group, interpreted": "allgone, process-group, interpreted launcher",
    "subprocess": "subprocess.Popen, terminate(), wait()",
    "psutil": "subprocess.Popen, psutil's recipe",
    "processkit": "processkit-py",
    "systemd-run": "systemd-run --scope, systemctl stop",
    "scope": "allgone, in a scope",
    "scope, importing pystemd": "allgone, in a scope, importing pystemd",
}


def table(all_rows: list[Row], supervisors: list[str]) -> str:
    """For people: a line for each way, a group of columns for each supervisor."""
    lines = []
    head = "".join(f"{name:>30}" for name in supervisors)
    units = f"{'median ms':>12}{'min ms':>10}{'ratio':>8}" * len(supervisors)
    lines += [" " * 48 + head, " " * 48 + units]
    for what in dict.fromkeys(row.what for row in all_rows):
        group = [row for row in all_rows if row.what == what]
        lines.append(f"{_title(what)}  [to {_HOWS.get(group[0].baseline, group[0].baseline)}]")
        for how in dict.fromkeys(row.how for row in group):
            cells = "".join(_cells(find(group, what, how, name)) for name in supervisors)
            lines.append(f"  {_HOWS.get(how, how):<46}{cells}".rstrip())
    return "\n".join(lines)


def markdown(all_rows: Sequence[Row], left: Mapping[tuple[str, str], int]) -> str:
    """The same for a page; `left`: processes that were alive after the stop, by what and how."""
    lines = ["| | median ms | minimum ms | ratio | left |", "|---|---|---|---|---|"]
    for what, supervisor in dict.fromkeys((row.what, row.supervisor) for row in all_rows):
        group = [row for row in all_rows if (row.what, row.supervisor) == (what, supervisor)]
        whose = "" if supervisor == "-" else f" (supervisor: {supervisor})"
        lines.append(f"| **{_title(what)}**{whose} | | | | |")
        for row in sorted(group, key=lambda row: row.how != row.baseline):  # the baseline first
            ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
            numbers = f"{row.median_ms:.3f} | {row.minimum_ms:.3f} | {ratio} | {left.get((what, row.how), '')}"
            lines.append(f"| {_HOWS.get(row.how, row.how)} | {numbers} |")
    return "\n".join(lines)


def _title(what: str) -> str:
    if what.startswith("kill "):
        return f"kill {int(what[5:]):,} process{'es' if what != 'kill 1' else ''}"
    if what.startswith("query among "):
        return f"whose is a listening socket: {what} others"
    if what.startswith("SIGKILL to "):
        return f"{what}, until its processes are gone"
    return _TITLES.get(what, f"start and stop `sleep 1000`, {what}")


def _cells(row: Row | None) -> str:
    if row is None:
        return " " * 30
    ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
    return f"{row.median_ms:>12.3f}{row.minimum_ms:>10.3f}{ratio:>8}"


def as_json(all_rows: list[Row], all_targets: list[Target]) -> dict[str, object]:
    return {
        "rows": [asdict(row) for row in all_rows],
        "targets": [asdict(target) | {"met": target.met} for target in all_targets],
    }
