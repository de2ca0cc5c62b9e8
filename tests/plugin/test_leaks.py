"""`--allgone-leaks`: whoever leaves processes behind is named, with what was left."""

from __future__ import annotations

import os
import re

import pytest
from support import procfs

from plugin.inner import run

pytest_plugins = ["pytester"]

# Whoever is told of ends by itself in two minutes.
TESTS = """
import asyncio, multiprocessing, os, signal, subprocess, sys, time
import allgone, pytest

UNTIL_SLEEP = 'until read -r comm </proc/$!/comm && [ "$comm" = sleep ]; do :; done'

def orphan(n):
    '''Whose parent has ended, in a session of its own.'''
    subprocess.run(["sh", "-c", f"setsid sleep 120.{n} & {UNTIL_SLEEP}"])

def test_cleans_up():
    with subprocess.Popen(["sleep", "120.1"]) as process:
        process.kill()
    subprocess.run(["true"])

def test_does_not_wait_for_the_end():
    subprocess.Popen(["sleep", "120.2"]).terminate()
    subprocess.Popen(["sleep", "0.2"])

def test_leaves_all_kinds():
    subprocess.Popen(["sleep", "120.3"])
    orphan(4)
    async def main():
        shell = await asyncio.create_subprocess_shell(f"sleep 120.5 & {UNTIL_SLEEP}")
        await shell.wait()
    asyncio.run(main())
    with subprocess.Popen(["sh", "-c", "sleep 120.6 & echo up; wait"], stdout=subprocess.PIPE) as shell:
        shell.stdout.readline()
        shell.wait = lambda: 0
    test_leaves_all_kinds.process = allgone.Popen(["sleep", "120.7"])

def test_after_it():
    pass

def test_fork():
    if os.fork() == 0:
        time.sleep(120)
        os._exit(0)

@pytest.mark.allgone_leaks("off")
def test_may():
    subprocess.Popen(["sleep", "120.8"])

def test_fails_and_leaves():
    subprocess.Popen(["sleep", "120.9"])
    assert 0

@pytest.fixture
def setup_fails():
    subprocess.Popen(["sleep", "120.11"])
    assert 0

def test_setup_fails_and_leaves(setup_fails):
    pass

@pytest.fixture
def teardown_fails():
    yield
    assert 0

def test_teardown_fails_and_leaves(teardown_fails):
    subprocess.Popen(["sleep", "120.10"])

def test_multiprocessing():
    context = multiprocessing.get_context("spawn")
    semaphore = context.Semaphore()
    assert multiprocessing.resource_tracker._resource_tracker._pid

@pytest.mark.allgone_leaks
def test_bad_marker():
    pass
"""


def test_tests_are_named(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_it=TESTS)
    result = run(pytester, "--allgone-leaks=fail", "-W", "ignore::ResourceWarning")
    assert [n for n in range(3, 12) if alive(f"120.{n}")] == [8]  # what was named was ended
    end("120.8")
    text = result.stdout.str()
    one = "1 process behind"
    assert dict(re.findall(r"^test_it\.py::(\w+) has left (.*?):\n", text, re.MULTILINE)) == {
        "test_leaves_all_kinds": "6 processes behind", "test_fork": one, "test_fails_and_leaves": one,
        "test_setup_fails_and_leaves": one,
    }  # fmt: skip
    assert f"LeftProcessWarning: test_it.py::test_teardown_fails_and_leaves has left {one}" in text
    for n in (3, 4, 5, 7, 9):
        assert re.search(
            rf"^  sleep 120\.{n} \(pid \d+\), a child of this .*, since \d\d:\d\d:\d\d$", text, re.MULTILINE
        )
    assert re.search(r"sleep 120\.6 \(pid (\d+)\), a child of sh -c sleep 120.6 & echo up; wait \(pid", text)
    assert re.search(r"^  a fork of this process \(pid \d+\), a child of this process", text, re.MULTILINE)
    result.stdout.fnmatch_lines(["*test_it.py::test_bad_marker: the marker allgone_leaks takes one of off, warn, fail"])
    result.assert_outcomes(passed=8, failed=1, errors=7, warnings=1)


def alive(seconds: str) -> list[int]:
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/cmdline", "rb") as f:
                if f.read() == f"sleep\0{seconds}\0".encode():
                    found.append(int(name))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def end(seconds: str) -> None:
    """Of our own making, and below the init of this test run."""
    for pid in alive(seconds):
        procfs.end(pid)


FIXTURES = """
import subprocess, allgone, pytest

@pytest.fixture(scope="session")
def tidy(session_process_fixture):
    return session_process_fixture(["sleep", "120"])

@pytest.fixture(scope="session")
def later(session_process_fixture):
    return session_process_fixture

@pytest.fixture(scope="module")
def plain():
    script = "while read -r line; do sleep 121.1 >&2 & echo $!; done"
    process = subprocess.Popen(["sh", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    yield process
    process.kill()
    process.communicate()

@pytest.fixture(scope="module")
def untidy(plain):
    plain.stdin.write(b"one more\\n")  # which is the other fixture's
    plain.stdin.flush()
    plain.stdout.readline()
    subprocess.Popen(["sleep", "121.2"])

def test_one(tidy, plain):
    pass

def test_two(untidy, later):
    later(["sleep", "120"])

def test_three(tidy, plain):
    pass
"""


@pytest.mark.parametrize(("workers", "launcher"), [("0", "interpreted"), ("1", "compiled")])
def test_fixtures_keep_theirs_until_their_end(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, workers: str, launcher: str
) -> None:
    """And the guard, whichever it is, is nobody's."""
    monkeypatch.setenv("ALLGONE_LAUNCHER", launcher)
    pytester.makepyfile(test_a=FIXTURES, test_b="def test_b():\n    pass\n")
    result = run(pytester, "--allgone-leaks=warn", f"-n{workers}", "-W", "ignore::ResourceWarning")
    assert [len(alive(f"121.{n}")) for n in (1, 2)] == [1, 1]  # a warning is no more than that
    end("121.1")
    end("121.2")
    result.assert_outcomes(passed=4, warnings=1)
    text = result.stdout.str()
    assert re.findall(r"LeftProcessWarning: (.*)\n", text) == [
        "fixture 'plain' (scope module) has left 1 process behind:"
    ]
    result.stdout.fnmatch_lines(
        ["*fixture 'untidy' (scope module) has left 1 process behind:", "  *sleep 121.2 (pid *"]
    )


def test_off_by_default_and_nothing_is_imported(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import subprocess, sys

        def test_it():
            subprocess.Popen(["sleep", "0.1"])

        def test_lean():
            ours = {name for name in sys.modules if name.startswith("allgone")}
            assert ours == {"allgone", "allgone.pytest_plugin"}
        """
    )
    run(pytester, "-W", "ignore::ResourceWarning").assert_outcomes(passed=2)
