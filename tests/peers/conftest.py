"""The option for more interpreters, and the table of what came of it."""

from __future__ import annotations

import pytest
from peers.tables import TABLE


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--all-pythons",
        action="store_true",
        help="run CPython's test_subprocess with every Python 3.10 to 3.13 found here (in PATH, below ~/.pyenv, "
        "in ALLGONE_PYTHONS=PATH:PATH), not only with this one",
    )


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    rows = config.stash.get(TABLE, [])
    if rows:
        terminalreporter.section("CPython's test_subprocess")
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        for row in rows:
            terminalreporter.line(
                "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            )
