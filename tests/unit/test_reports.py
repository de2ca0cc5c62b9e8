"""Renderings of a report: what they say, and that no process can put anything of its own making into them."""

from __future__ import annotations

import io
import json
import signal
import sys
from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest
from support.stories import HOSTILE, TRACED, hostile, many

import allgone
from allgone import Pressure, Report, Sent, Stalled, Usage, reports
from allgone._core.report import Port
from allgone.reports import story, terminal

SCHEMA = json.loads((Path(__file__).parents[2] / "docs/report.schema.json").read_text(encoding="utf-8"))
SNAPSHOT = Report(
    "3-nginx", "process-group", -15,
    members=(
        allgone.Process(11, "nginx", "nginx: worker", "www", 10, 1000.5),
        allgone.Process(10, "nginx", "nginx: master", "root", 1, 1000.0),
        allgone.Process(12, "deaf", "deaf", "root", 11, 1001.0),
    ),
    sent=(Sent(signal.SIGTERM, (10, 11, 12), 0.0), Sent(signal.SIGCONT, (10, 11, 12), 0.0), Sent(9, (12,), 1.0)),
    killed=(allgone.Process(12, "deaf", "deaf", "root", 11, 1001.0),), left_running=(),
    escapees=(allgone.Process(13, "d", "d --daemon", "root", 1, 1001.0),), duration=1.5,
    ports=(Port("tcp", "::", 80, released=True),), began=1002.0, usage=Usage(1.5, 0.25, memory=2 << 20, memory_peak=3 << 20),
)  # fmt: skip


def test_a_traced_story_has_every_process_below_its_parent() -> None:
    told = story.of(TRACED)
    assert [(row.pid, row.depth, row.below, row.name) for row in told.rows] == [
        (100, 0, 5, "make"), (101, 1, 1, "sh"), (103, 2, 0, "cc"), (102, 1, 0, "(fork)"), (104, 1, 0, "daemon"),
        (101, 1, 0, "?"),
    ]  # fmt: skip
    assert [(row.fate, row.how) for row in told.rows] == [
        ("SIGTERM", "ended by SIGTERM"), ("exited", "exit status 0"), ("SIGKILL", "ended by SIGKILL"),
        ("other signal", "ended by SIGSEGV"), ("escaped", "escaped"), ("exited", "exit status 3"),
    ]  # fmt: skip
    assert told.is_whole
    assert (told.began, told.stopped, told.ended) == (1000.0, 4.0, 5.5)
    assert told.signals == [(4.0, "SIGTERM to 1 process after 0.000 s")]
    assert "7 events" in told.missing
    assert "2 more" in told.missing


def test_without_a_trace_the_story_is_of_those_alive_at_the_stop() -> None:
    told = story.of(SNAPSHOT)
    assert [(row.pid, row.depth, row.fate) for row in told.rows] == [
        (10, 0, "SIGTERM"), (11, 1, "SIGTERM"), (12, 2, "SIGKILL"), (13, 0, "escaped"),
    ]  # fmt: skip
    assert not told.is_whole
    assert told.rows[1].began == 0.5
    assert told.stopped == 2.0


FULL = Pressure(Stalled(1.5, 0.5, 0.1, 2.0), Stalled(0.5, 0.25, 0.0, 1.0))
USED = Usage(
    1.5, 0.25, 1, 2 << 20, 3 << 20, tasks=1, tasks_peak=12, io_read_bytes=5 << 20, io_write_bytes=1 << 19, io_reads=7,
    io_writes=8, cpu_pressure=FULL, memory_pressure=Pressure(Stalled(0, 0, 0, 0), None), io_pressure=FULL,
)  # fmt: skip


def test_all_that_was_used_is_one_line() -> None:
    told = replace(SNAPSHOT, usage=USED)
    assert (
        "  Used: 1.50 s of CPU time in user mode, 250 ms in the kernel; 3.0 MiB of memory at most; 12 tasks at most; "
        "5.0 MiB read, 0.5 MiB written; 2.00 s stalled for the CPU; 2.00 s stalled for IO"
    ) in reports.render(told, "txt").splitlines()
    assert "| Used | 1.50 s of CPU time" in reports.render(told, "md")
    assert "12 tasks at most" in reports.render(told, "html")
    jsonschema.validate(json.loads(reports.render(told, "json")), SCHEMA)


def test_what_is_approximate_is_said_to_be() -> None:
    told = replace(SNAPSHOT, usage=Usage(1.5, 0.25, approximate=True))
    line = "  Used: about 1.50 s of CPU time in user mode, 250 ms in the kernel"
    assert line in reports.render(told, "txt").splitlines()


def test_the_schema_knows_every_field_of_usage() -> None:
    assert SCHEMA["properties"]["usage"]["required"] == list(SCHEMA["properties"]["usage"]["properties"])
    assert set(Usage.__slots__) == set(SCHEMA["properties"]["usage"]["properties"])
    assert set(Pressure.__slots__) == set(SCHEMA["$defs"]["pressure"]["properties"])
    assert set(Stalled.__slots__) == set(SCHEMA["$defs"]["stalled"]["properties"])


def test_a_report_of_nobody_is_a_story_too() -> None:
    nobody = Report("1-true", "cgroup", 0, (), (), (), (), (), 0.001)
    for format in reports.FORMATS:
        assert "1-true" in reports.render(nobody, format)


def test_the_terminals_tree() -> None:
    assert reports.render(SNAPSHOT, "txt").splitlines() == [
        "3-nginx: ended by SIGTERM, stopped in 1.50 s",
        "  10 nginx: master  [SIGTERM, lived 3.50 s]",
        "    11 nginx: worker  [SIGTERM, lived 3.00 s]",
        "      12 deaf  [SIGKILL, lived 2.50 s]",
        "  13 d --daemon  [escaped]",
        "  Backend: process-group",
        "  Had to be killed: deaf (pid 12)",
        "  Escaped: d (pid 13)",
        "  Listened on: tcp :: port 80",
        "  Used: 1.50 s of CPU time in user mode, 250 ms in the kernel; 3.0 MiB of memory at most",
        "  Processes: 4 alive when the stop began",
        "  Sent: SIGTERM to 3 processes after 0.000 s (2.00 s after the start)",
        "  Sent: SIGKILL to 1 process after 1.000 s (3.00 s after the start)",
    ]


class _Tty(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_colours_on_a_terminal_only() -> None:
    plain, coloured = io.StringIO(), _Tty()
    terminal.show(SNAPSHOT, plain)
    terminal.show(SNAPSHOT, coloured)
    assert "\x1b[" not in plain.getvalue()
    assert "\x1b[31mSIGKILL" in coloured.getvalue()


def test_a_terminal_is_spared_5000_processes() -> None:
    assert len(reports.render(many(5000), "txt").splitlines()) < 250
    assert "and 4800 more processes" in reports.render(many(5000), "txt")


@pytest.mark.parametrize(
    "report", [TRACED, SNAPSHOT, many(100), hostile()], ids=["traced", "snapshot", "many", "hostile"]
)
def test_json_is_as_the_schema_says(report: Report) -> None:
    jsonschema.validate(json.loads(reports.render(report, "json")), SCHEMA)


def test_the_schema_knows_every_field() -> None:
    assert set(Report.__slots__) <= set(SCHEMA["properties"])
    assert set(Report.__slots__) == set(SCHEMA["anyOf"][1]["required"])
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**TRACED.to_dict(), "more": 1}, SCHEMA)


def test_markdown_folds_the_processes_away() -> None:
    text = reports.render(SNAPSHOT, "md", title="make test")
    assert text.startswith("### :warning: make test\n")
    assert "<summary>2 SIGTERM, 1 SIGKILL, 1 escaped</summary>" in text
    assert "| Listened on | tcp :: port 80 |" in text


@pytest.mark.parametrize("name", HOSTILE)
def test_no_process_writes_its_own_markdown(name: str) -> None:
    lines = reports.render(hostile(name), "md", title=name).splitlines()
    inside = lines[lines.index("<pre>") + 1 : lines.index("</pre>")]
    assert not any("<" in line for line in inside)
    assert [line for line in lines if line.startswith("#")] == lines[:1]
    assert all(line.count("|") == 3 for line in lines[2 : lines.index("<details>") - 1])
    assert not any(set("*`[]<>") & set(line) for line in lines[: lines.index("<details>")])


@pytest.mark.parametrize("name", HOSTILE)
def test_a_terminal_gets_nothing_but_text(name: str) -> None:
    for text in (reports.render(hostile(name), "txt"), str(hostile(name))):
        assert all(each.isprintable() or each == "\n" for each in text)
        assert max(map(len, text.splitlines())) < 1000


def test_a_file_whose_name_says_the_format(tmp_path: Path) -> None:
    for format in reports.FORMATS:
        reports.write(SNAPSHOT, tmp_path / f"report.{format}")
        assert "nginx" in (tmp_path / f"report.{format}").read_text(encoding="utf-8")
    with pytest.raises(ValueError, match=r"must end in \.html"):
        reports.write(SNAPSHOT, tmp_path / "report.pdf")
    with pytest.raises(ValueError, match="must be one of html"):
        reports.render(SNAPSHOT, "pdf")
    assert not (tmp_path / "report.pdf").exists()


def test_html_without_its_packages_is_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "plotly.offline", None)
    monkeypatch.delitem(sys.modules, "allgone.reports.page", raising=False)
    monkeypatch.delattr(reports, "page", raising=False)
    with pytest.raises(allgone.Unsupported, match=r"pip install 'allgone\[report\]'"):
        reports.render(SNAPSHOT, "html")
