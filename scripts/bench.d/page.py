"""docs/performance.md: what was measured, where, when and by which command."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from results import Row, Target, markdown

COMMAND = "scripts/bench --markdown docs/performance.md"


def page(
    rows: Sequence[Row],
    targets: Sequence[Target],
    left: Mapping[tuple[str, str], int],
    left_out: Sequence[str],
    machine: Mapping[str, object],
    date: str,
) -> str:
    return f"""# Performance

Written by `{COMMAND}`, which measures all of it anew; no number here is typed.
On another machine other numbers come out, and ratios that are much the same.

## Where and when

| What | Value |
|---|---|
{_lines((name, str(value)) for name, value in {"date": date, **machine}.items())}

## Measured

In milliseconds. The ways of doing one thing took turns, so that a busy machine slows all of them; a ratio is that of
medians, to the first line of its group. "Left" is how many processes were alive when the stop had returned, at most: a
blank one was not counted. What was left out is named at the end.

{markdown(rows, left)}

## Targets

Ratios of medians, at most; `scripts/bench` never fails because something is slow.

| Target | At most | Came out |
|---|---|---|
{_lines((each.claim, f"{each.limit:g}", each.verdict()) for each in targets)}

## Left out

{chr(10).join(f"- {' '.join(each.split())}" for each in left_out) or "- nothing"}
"""


def _lines(cells: object) -> str:
    return "\n".join("| " + " | ".join(_escaped(cell) for cell in line) + " |" for line in cells)  # type: ignore[attr-defined]


def _escaped(cell: str) -> str:
    return " ".join(cell.split()).replace("|", "\\|")
