"""A report as one HTML file: timeline and tree, to be searched, collapsed and zoomed. It needs no network."""

from __future__ import annotations

from datetime import datetime, timezone
from functools import cache
from typing import Any

import jinja2
from plotly.offline import get_plotlyjs

from allgone._core.report import Report
from allgone.reports import story, words
from allgone.reports.story import Row, Story

_LONGEST = 300  # characters of a command line


def text(report: Report, title: str = "") -> str:
    """The whole page. What processes are called is data in it, never markup or script."""
    told = story.of(report)
    page = _template().render(
        title=title or report.name,
        outcome=report.outcome,
        began=datetime.fromtimestamp(told.began, timezone.utc).strftime("%Y-%m-%d %H:%M:%S UTC"),
        facts=words.facts(told),
        rows=told.rows,
        lived=words.lived,
        shortened=_shortened,
        fates=[(fate, n) for n, fate in enumerate(story.FATES)],
        data=_data(told),
        plotly=get_plotlyjs(),
    )
    return page.encode("utf-8", "replace").decode("utf-8")


@cache
def _template() -> jinja2.Template:
    loader = jinja2.PackageLoader("allgone.reports", ".")
    return jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True).get_template(
        "page.html"
    )


def _data(told: Story) -> dict[str, Any]:
    """What the page's script draws."""
    return {
        "span": told.ended,
        "stop": [told.stopped, told.stopped + told.report.duration],
        "signals": told.signals,
        "fates": story.FATES,
        "samples": [[each.at - told.began, each.cpu, each.memory] for each in told.report.samples],
        "rows": [_drawn(row, told) for row in told.rows],
    }


def _drawn(row: Row, told: Story) -> dict[str, Any]:
    return {
        "pid": row.pid,
        "depth": row.depth,
        "below": row.below,
        "name": row.name,
        "command": _shortened(row.command),
        "from": row.began or 0.0,
        "to": told.ended if row.ended is None else row.ended,
        "fate": story.FATES.index(row.fate),
        "how": row.how,
        "lived": words.lived(row),
        "runs": [[at, _shortened(command)] for at, command in row.runs],
    }


def _shortened(text: str) -> str:
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"
