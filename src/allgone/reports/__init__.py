"""Reports that people would rather look at than read: for a terminal, as JSON, Markdown, and one HTML file.

`render(report, format)` gives the text, `write(report, path)` a file whose format its name says.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

from allgone._core.report import Report
from allgone.errors import Unsupported

FORMATS = ("html", "json", "md", "txt")


def render(report: Report, format: str, *, title: str = "") -> str:
    """The report as ``"html"`` (one file that needs no network), ``"json"``, ``"md"`` (GitHub-flavoured Markdown) or
    ``"txt"`` (a tree, without colours). `title` is what HTML and Markdown are headed by (default: the name).

    >>> import allgone
    >>> with allgone.Popen(["true"], name="example") as proc:
    ...     proc.wait()
    0
    >>> print(render(proc.report, "txt").splitlines()[0].split(" in ")[0])
    example: exit status 0, stopped

    Raises ValueError for another format, `Unsupported` where packages are missing that HTML needs.
    """
    return renderer(format)(report, title)


def format_of(path: str | os.PathLike[str]) -> str:
    """The format that a file's name says: html, json, md or txt.

    >>> format_of("build/report.html")
    'html'

    Raises ValueError where it says another one, or none.
    """
    found = Path(path).suffix.removeprefix(".").lower()
    if found not in FORMATS:
        raise ValueError(f"a report's name must end in {', '.join('.' + each for each in FORMATS)}, not {path!s}")
    return found


def write(report: Report, path: str | os.PathLike[str], *, title: str = "") -> None:
    """Write it to a file, in the format that its name says.

    Raises what `render()` and `format_of()` raise, and OSError.
    """
    text = render(report, format_of(path), title=title)
    Path(path).write_text(text, encoding="utf-8", errors="surrogateescape")


def renderer(format: str) -> Callable[[Report, str], str]:
    """What `render()` uses: with the packages that it takes, so that one can know before there is a report.

    Raises what `render()` raises.
    """
    if format == "json":
        return lambda report, title: json.dumps(report.to_dict(), indent=2) + "\n"
    if format == "txt":
        from allgone.reports import terminal

        return lambda report, title: terminal.text(report)
    if format == "md":
        from allgone.reports import markdown

        return markdown.text
    if format == "html":
        try:
            from allgone.reports import page
        except ImportError as e:
            raise Unsupported(f"an HTML report needs plotly and jinja2: pip install 'allgone[report]' ({e})") from e
        return page.text
    raise ValueError(f"format must be one of {', '.join(FORMATS)}, not {format!r}")
