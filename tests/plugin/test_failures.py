"""What a failing test shows of its processes: their output, the reports of their stops. And the options."""

from __future__ import annotations

import json
import os

import pytest

from allgone.pytest_plugin.failures import file_name
from plugin.inner import run

pytest_plugins = ["pytester"]

TESTS = """
import subprocess, allgone, pytest

def echoes(factory, name, **options):
    '''What is written to it comes out of it.'''
    args = ["sh", "-c", "echo up; exec cat"]
    options.setdefault("ready", allgone.log_line("up"))
    return factory(args, stdin=subprocess.PIPE, name=name, **options)

def say(process, words):
    process.stdin.write(f"{words}\\n".encode())
    process.stdin.flush()
    while words not in process.output():
        pass

@pytest.fixture(scope="session")
def server(session_process_fixture):
    return echoes(session_process_fixture, "server")

"""


def sections(result: pytest.RunResult) -> dict[str, list[str]]:
    """Title -> lines of what a report has captured."""
    found: dict[str, list[str]] = {}
    here: list[str] = []
    for line in result.outlines:
        if line.startswith("---") and "Captured" in line:
            here = found.setdefault(line.strip("- "), [])
        elif line.startswith(("===", "___")):
            here = []
        else:
            here.append(line)
    return found


def test_a_failing_test_shows_the_output_that_came_during_it(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        TESTS
        + """
def test_passes(server, process_fixture):
    say(server, "one")
    say(echoes(process_fixture, "passes"), "nobody sees this")

def test_fails(server, process_fixture, tmp_path):
    say(server, "two")
    say(echoes(process_fixture, "in-memory"), "three")
    say(echoes(process_fixture, "in-file", output=tmp_path / "out"), "four")
    echoes(process_fixture, "elsewhere", output=None, ready=None)
    assert 0

@pytest.fixture
def broken(server):
    say(server, "five")
    assert 0

def test_fails_in_setup(broken):
    pass

@pytest.fixture
def breaks(server, process_fixture):
    yield
    say(server, "six")
    assert 0

def test_fails_in_teardown(breaks, process_fixture, tmp_path):
    say(echoes(process_fixture, "stays", output=tmp_path / "out"), "seven")

def test_fails_with_much(process_fixture):
    process = process_fixture(["sh", "-c", "i=0; while [ $i -lt 4000 ]; do echo line $i; i=$((i+1)); done; echo done"],
                              ready=allgone.log_line("done"), name="much")
    assert 0

def test_fails_alone():
    assert 0
"""
    )
    result = run(pytester)
    result.assert_outcomes(passed=2, failed=3, errors=2)
    shown = sections(result)
    assert shown["Captured output of server call"] == ["two"]
    assert shown["Captured output of in-memory call"] == ["up", "three"]
    assert shown["Captured output of in-file call"] == ["up", "four"]
    assert shown["Captured output of server setup"] == ["five"]
    assert shown["Captured output of server teardown"] == ["six"]
    assert shown["Captured output of stays teardown"] == ["up", "seven"]
    much = shown["Captured output of much call"]
    assert much[0].endswith("bytes before this are left out]")
    assert much[-1] == "done"
    assert len("\n".join(much)) < 17_000
    assert not [title for title in shown if "passes" in title or "elsewhere" in title]


def test_reports_of_failing_tests_are_written(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        TESTS
        + """
def test_passes(process_fixture):
    echoes(process_fixture, "passes")

@pytest.mark.parametrize("path", ["../../x"])
def test_fails(server, process_fixture, allgone_group, path):
    echoes(process_fixture, "fails")
    allgone_group.Popen(["sleep", "120"])
    assert 0
"""
    )
    run(pytester, "--allgone-report-dir=to/reports").assert_outcomes(passed=1, failed=1)
    reports = {path.name: path for path in (pytester.path / "to/reports").iterdir()}
    assert len(reports) == 6
    fails = next(path for name, path in reports.items() if name.endswith("-fails.json"))
    assert fails.name.startswith("test_reports_of_failing_tests_are_written.py-test_fails-..-..-x-")
    assert json.loads(fails.read_text())["returncode"] == -15
    assert next(path for name, path in reports.items() if name.endswith("-server.txt")).name.startswith("session-")
    assert "ended by SIGTERM" in fails.with_suffix(".txt").read_text()


def test_a_setting_counts_from_the_root_directory(pytester: pytest.Pytester) -> None:
    pytester.makeini("[pytest]\nallgone_report_dir = reports\nallgone_backend = process-group\n")
    below = pytester.mkdir("below")
    (below / "test_it.py").write_text(
        TESTS
        + "def test_it(server):\n    assert server.backend == 'process-group'\n    assert 0\n"
        + "def test_group(allgone_group):\n    assert allgone_group.backend == 'process-group'\n"
    )
    os.chdir(below)
    run(pytester).assert_outcomes(failed=1, passed=1)
    assert len(list((pytester.path / "reports").iterdir())) == 2


@pytest.mark.parametrize(
    ("option", "setting", "said"),
    [
        ("--allgone-backend=none", "", "*invalid choice: 'none'*"),
        ("--allgone-leaks=maybe", "", "*invalid choice: 'maybe'*"),
        ("", "allgone_backend = none", "*allgone_backend must be one of auto, cgroup, process-group, not 'none'*"),
        ("", "allgone_leaks = maybe", "*allgone_leaks must be one of off, warn, fail, not 'maybe'*"),
        ("--allgone-report-dir=tox.ini", "", "*--allgone-report-dir: *File exists*"),
    ],
)
def test_bad_options_run_nothing(pytester: pytest.Pytester, option: str, setting: str, said: str) -> None:
    pytester.makeini(f"[pytest]\n{setting}\n")
    pytester.makepyfile("def test_it(): open('was_run', 'w')")
    result = run(pytester, *filter(None, [option]))
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([said])
    assert not (pytester.path / "was_run").exists()


@pytest.mark.parametrize("node_id", ["a/b.py::c[../../d]", "a/b.py::c[..-..-d]", "é" * 300, "/", "a\0b"])
def test_names_of_files_are_safe_and_differ(node_id: str) -> None:
    name = file_name(node_id)
    assert "/" not in name
    assert not name.startswith((".", "-"))
    assert len(name) < 140
    assert name.isascii()
    assert name != file_name(node_id + "x")
