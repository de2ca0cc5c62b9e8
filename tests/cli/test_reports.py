"""`allgone run --report`: the format by the file's name, several at a time, a job's summary; `--trace`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import jsonschema
from support.tiers import missing

from cli.command import Allgone

SCHEMA = json.loads((Path(__file__).parents[2] / "docs/report.schema.json").read_text(encoding="utf-8"))
COMMAND = ("sh", "-c", "sleep 1000 & exit 3")


def test_every_format_at_once(allgone: Allgone, tmp_path: Path) -> None:
    paths = [tmp_path / f"report.{format}" for format in ("html", "md", "txt", "json", "other")]
    done = allgone.run(*COMMAND, options=[f"--report={path}" for path in paths])
    assert done.returncode == 3
    html, md, txt, as_json, other = (path.read_text(encoding="utf-8") for path in paths)
    assert html.startswith("<!doctype html>")
    assert "<title>sh -c sleep 1000 &amp; exit 3: exit status 3</title>" in html
    assert md.startswith("### ")
    assert "[SIGTERM, lived" in txt
    jsonschema.validate(json.loads(as_json), SCHEMA)
    assert json.loads(as_json)["args"] == json.loads(other)["args"] == list(COMMAND)


def test_a_jobs_summary_is_added_to(allgone: Allgone, tmp_path: Path) -> None:
    summary = tmp_path / "step_summary_4711"
    summary.write_text("# of the step before\n", encoding="utf-8")
    environment = {**os.environ, "GITHUB_STEP_SUMMARY": str(summary)}
    for _ in range(2):
        allgone.run(*COMMAND, options=[f"--report={summary}"], env=environment)
    headings = [line for line in summary.read_text(encoding="utf-8").splitlines() if line.startswith("#")]
    assert headings[0] == "# of the step before"
    assert len(headings) == 3


def test_what_was_not_started_has_a_report_too(allgone: Allgone, tmp_path: Path) -> None:
    paths = [tmp_path / f"report.{format}" for format in ("html", "md", "txt", "json")]
    assert allgone.run("no-such-command", options=[f"--report={path}" for path in paths]).returncode == 127
    assert all("no-such-command: No such file or directory" in path.read_text(encoding="utf-8") for path in paths)
    jsonschema.validate(json.loads(paths[3].read_text(encoding="utf-8")), SCHEMA)


def test_a_file_that_cannot_be_written_is_an_error_before_anything_is_started(allgone: Allgone, tmp_path: Path) -> None:
    done = allgone.run("touch", str(tmp_path / "started"), options=[f"--report={tmp_path}/no/report.md"])
    assert done.returncode == 125
    assert "cannot write the report" in done.stderr
    assert not (tmp_path / "started").exists()


def test_missing_packages_are_an_error_before_anything_is_started(tmp_path: Path) -> None:
    code = "import sys; sys.modules['plotly'] = None; from allgone.cli import main; sys.exit(main())"
    words = ["run", f"--report={tmp_path}/report.html", "--", "touch", str(tmp_path / "started")]
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 125
    assert "pip install 'allgone[report]'" in done.stderr
    assert os.listdir(tmp_path) == []


def test_a_trace_has_who_was_gone_long_before(allgone: Allgone, tmp_path: Path) -> None:
    if os.geteuid() != 0:
        missing("needs root, for the proc connector")
    report = tmp_path / "report.json"
    done = allgone.run("sh", "-c", "(exit 7); sh -c 'exit 8'; exit 0", options=["--trace", f"--report={report}"])
    assert done.returncode == 0, done.stderr
    told = json.loads(report.read_text(encoding="utf-8"))
    jsonschema.validate(told, SCHEMA)
    assert [life["returncode"] for life in told["genealogy"]["lives"]] == [0, 7, 8]


def test_a_trace_that_cannot_be_had_is_an_error(allgone: Allgone, tmp_path: Path) -> None:
    if os.geteuid() != 0:
        missing("needs root, for a pid namespace")
    elsewhere = ["unshare", "--pid", "--fork", "--mount-proc"]
    words = [*elsewhere, *allgone.args("touch", str(tmp_path / "started"), options=["--trace"])]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 125
    assert "pid namespace" in done.stderr
    assert os.listdir(tmp_path) == []
