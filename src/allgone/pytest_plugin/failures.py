"""What a failing test shows of the processes that ran meanwhile: their output, and the reports of their stops."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Generator
from typing import Any, cast

import pytest

from allgone._core.names import printable
from allgone._process.fixture import FixtureProcess
from allgone._process.group import Group
from allgone.pytest_plugin import report_dir

_MOST_SHOWN = 16_384  # bytes of each process's output in a report
_LONGEST_NAME = 120  # characters of a file's name that are a node id's


class Record:
    """One process, or a group: whose it is, and what of its output was new in the present test."""

    def __init__(self, process: FixtureProcess | Group, owner: str, scope: str) -> None:
        self.process = process
        self.owner = owner
        self.scope = scope
        self.failed = False  # whether a test has while it was there
        self.has_ended = False
        self._mark = 0
        self._last: tuple[bytes, int] = (b"", 0)

    def mark(self) -> None:
        """From here on output is that of the next test."""
        if isinstance(self.process, FixtureProcess):
            self._mark = self.process._output.end()

    def ends(self) -> None:
        """It is about to be stopped: a file can't be read afterwards."""
        self._last = self._read()

    def ended(self) -> None:
        self.has_ended = True

    def _read(self) -> tuple[bytes, int]:
        if not isinstance(self.process, FixtureProcess):
            return b"", 0
        output = self.process._output
        said = output.last(_MOST_SHOWN, self._mark)
        return said, max(0, output.end() - self._mark - len(said))

    def said(self) -> str:
        """Its output since the mark: the end of it, if that is much."""
        said, left_out = self._read()
        if len(said) < len(self._last[0]):
            said, left_out = self._last
        text = said.decode("utf-8", "replace")
        return f"[{left_out} bytes before this are left out]\n{text}" if left_out else text


class Failures:
    """Registered when the first process is started, so that nobody else pays for it."""

    def __init__(self, config: pytest.Config) -> None:
        self._folder = report_dir(config)
        self._worker = os.environ.get("PYTEST_XDIST_WORKER", "")
        self._records: list[Record] = []
        self._written = 0

    @classmethod
    def of(cls, config: pytest.Config) -> Failures:
        manager = config.pluginmanager
        if not manager.has_plugin("allgone-failures"):
            manager.register(cls(config), "allgone-failures")
        return cast(Failures, manager.get_plugin("allgone-failures"))

    def add(self, process: FixtureProcess | Group, request: pytest.FixtureRequest) -> Record:
        record = Record(process, request.node.nodeid or "session", request.scope)
        self._records.append(record)
        return record

    def members_of_wide_scopes(self) -> frozenset[int]:
        """Pids of all that live on when the present test is over."""
        processes = [each.process for each in self._records if each.scope != "function" and not each.has_ended]
        pids = [(each.members(), each.escapees() if isinstance(each, FixtureProcess) else ()) for each in processes]
        return frozenset(pid for some in pids for each in some for pid in each)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self) -> None:
        for record in self._records:
            record.mark()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, call: pytest.CallInfo[Any]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        if report.failed:
            for record in self._records:
                record.failed = True
                if said := record.said():
                    report.sections.append((f"Captured output of {record.process.name} {call.when}", said))
        if call.when == "teardown":
            self._let_go()
        return report

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self) -> None:
        self._let_go()  # what an interrupted test has had

    def _let_go(self) -> None:
        ended = [record for record in self._records if record.has_ended]
        self._records = [record for record in self._records if not record.has_ended]
        for record in ended:
            if record.failed and self._folder is not None:
                self._write(record, self._folder)

    def _write(self, record: Record, folder: str) -> None:
        report = record.process.report
        if report is None:
            return  # it could not be stopped, as another error says
        from allgone import reports

        self._written += 1
        words = [file_name(record.owner), self._worker, str(self._written), report.name]
        path = os.path.join(folder, "-".join(filter(None, words)))
        for suffix in (".txt", ".json"):
            reports.write(report, path + suffix, title=printable(record.owner))


def file_name(node_id: str) -> str:
    """A file's name for a node id, such that no two have the same: readable, and a few digits of its hash.

    >>> file_name("tests/test_a.py::test_b[x/../y]")
    'tests-test_a.py-test_b-x-..-y-779baa2e'
    """
    readable = re.sub(r"[^A-Za-z0-9_.]+", "-", node_id).strip("-.")[-_LONGEST_NAME:].lstrip("-.")
    return f"{readable or 'test'}-{hashlib.sha256(node_id.encode('utf-8', 'surrogateescape')).hexdigest()[:8]}"
