"""A report as GitHub-flavoured Markdown, for a job's summary."""

from __future__ import annotations

from html import escape

from allgone._core.report import Report
from allgone.reports import story, terminal, words

_BAD = (story.KILLED, story.ESCAPED)


def text(report: Report, title: str = "") -> str:
    """A heading, a table of facts, and the processes to be unfolded. Nothing in it is markup of a process's making."""
    told = story.of(report)
    counts = {fate: sum(row.fate == fate for row in told.rows) for fate in story.FATES}
    summary = ", ".join(f"{count} {fate}" for fate, count in counts.items() if count) or "no processes"
    mark = ":warning: " if any(counts[fate] for fate in _BAD) or report.escapees else ""
    lines = [f"### {mark}{_cell(title or report.name)}", "", "| | |", "|---|---|"]
    lines += [f"| {_cell(name)} | {_cell(said)} |" for name, said in words.facts(told)]
    lines += ["", "<details>", f"<summary>{escape(summary)}</summary>", ""]
    lines += [f"<pre>\n{escape(terminal.text(report), quote=False).rstrip()}\n</pre>", "", "</details>", ""]
    return "\n".join(lines)


def _cell(text: str) -> str:
    """Text that Markdown makes nothing of: every character that it might is given by its number."""
    plain = " ._,:;()/-"
    return "".join(each if each.isalnum() or each in plain else f"&#{ord(each)};" for each in text)
