"""What ``allgone run --report`` and ``allgone up --report`` write, in which formats, and where."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from typing import TextIO

from allgone._core.report import Report
from allgone._linux import fds
from allgone.cli import say


class Record:
    """The files are opened, and emptied, before anything is started; what the formats need is imported.

    Raises OSError where one can't be written, `Unsupported` where packages for a format are missing.
    """

    def __init__(self, args: Sequence[str], paths: Sequence[str]) -> None:
        self._args = args
        self._files = [(path, *_opened(path)) for path in paths]
        self._began, self._started_at = time.monotonic(), time.time()
        self._error: str | None = None
        self.report: Report | None = None
        self.stopped_because: str | None = None
        self.processes: list[dict[str, object]] | None = None

    def failed(self, status: int, message: str) -> int:
        """Say it, and keep it; returns `status`."""
        say(message)
        self._error = message
        return status

    def write(self, status: int) -> None:
        for path, file, render in self._files:
            try:
                with file:
                    file.write(self._json(status) if render is None else self._rendered(render))
            except OSError as e:
                say(f"cannot write the report {path}: {e.strerror}")

    def _rendered(self, render: Callable[[Report, str], str]) -> str:
        title = " ".join(self._args)
        return render(self.report, title) if self.report is not None else f"{title}: {self._error}\n"

    def _json(self, status: int) -> str:
        import json
        from datetime import datetime, timezone

        facts = {
            "args": list(self._args),
            "exit_status": shell_status(status),
            "error": self._error,
            "stopped_because": self.stopped_because,
            "started_at": datetime.fromtimestamp(self._started_at, timezone.utc).isoformat(),
            "duration_total": time.monotonic() - self._began,
            **({"processes": self.processes} if self.processes is not None else {}),
            **(self.report.to_dict() if self.report is not None else {}),
        }
        return json.dumps(facts, indent=2) + "\n"


def shell_status(status: int) -> int:
    """What a shell makes of a return code of `subprocess`."""
    return status if status >= 0 else 128 - status


def _opened(path: str) -> tuple[TextIO, Callable[[Report, str], str] | None]:
    """The file, and what renders the report for it; None for JSON, which says more than a report does."""
    is_summary = path == os.environ.get("GITHUB_STEP_SUMMARY")  # of a job, to which its steps add
    render = _renderer("md" if is_summary else os.path.splitext(path)[1].removeprefix(".").lower())
    how = os.O_APPEND if is_summary else os.O_TRUNC
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | how | os.O_CLOEXEC, 0o666)
    except OSError as e:
        raise OSError(f"cannot write the report {path}: {e.strerror}") from e
    return open(fds.above_stdio(fd), "w", encoding="utf-8", errors="replace"), render


def _renderer(format: str) -> Callable[[Report, str], str] | None:
    if format not in ("html", "md", "txt"):
        return None
    from allgone import reports

    return reports.renderer(format)
