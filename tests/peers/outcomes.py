"""A pytest plugin that writes what became of each test as JSON to the file that PEER_OUTCOMES names."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass

import pytest


@dataclass
class Outcome:
    """Of one test."""

    status: str  # passed, failed or skipped
    why: str = ""


_found: dict[str, Outcome] = {}


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    before = _found.get(report.nodeid)
    if before is None or (report.outcome != "passed" and before.status != "failed"):
        _found[report.nodeid] = Outcome(report.outcome, str(report.longrepr or "")[-2000:])


def pytest_collectreport(report: pytest.CollectReport) -> None:
    if report.failed:
        _found[report.nodeid] = Outcome("failed", str(report.longrepr)[-2000:])


def pytest_sessionfinish() -> None:
    with open(os.environ["PEER_OUTCOMES"], "w", encoding="utf-8") as f:
        json.dump({name: asdict(outcome) for name, outcome in _found.items()}, f)
