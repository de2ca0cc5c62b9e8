"""When `allgone run` has ended, nothing that the command started is left, and what was left behind is named."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest
from support import cgroups, procfs
from support.programs import PATIENCE, UNTIL_SLEEP

from cli.command import ALLGONE, Allgone, held, lines

# The leak check of every test is what finds processes and cgroups that are left.


def test_a_daemon_and_a_background_job_are_stopped_and_named(allgone: Allgone) -> None:
    done = allgone.run("sh", "-c", f"setsid sleep 1000 & {UNTIL_SLEEP}; sleep 1000 & {UNTIL_SLEEP}; echo end; true")
    assert (done.returncode, done.stdout) == (0, "end\n")
    assert re.fullmatch(
        r"allgone: stopped 2 processes that the command left behind: sleep \(pid \d+\), sleep \(pid \d+\)\n",
        done.stderr,
    )


def test_a_double_forked_daemon_is_stopped_and_named(allgone: Allgone, tmp_path: Path) -> None:
    daemon_is_up = f"sleep 1000 & {UNTIL_SLEEP}; echo $!; echo $$ >up"
    parent_is_gone = "read parent <up; while [ -e /proc/$parent ]; do :; done"
    script = f"mkfifo up; (setsid sh -c '{daemon_is_up}' &); {parent_is_gone}"
    done = allgone.run("sh", "-c", script, cwd=tmp_path)
    daemon = int(done.stdout)
    assert not procfs.is_alive(daemon)
    assert done.stderr == f"allgone: stopped 1 process that the command left behind: sleep (pid {daemon})\n"


def test_nothing_is_said_where_nothing_was_left_behind(allgone: Allgone) -> None:
    assert allgone.run("sh", "-c", "sleep 0.01 & wait; exit 3").stderr == ""


def test_only_the_first_of_many_are_named(allgone: Allgone) -> None:
    done = allgone.run("sh", "-c", "for i in 1 2 3 4 5 6 7 8 9 10; do sleep 1000 & done")
    assert "stopped 10 processes that the command left behind: " in done.stderr
    assert done.stderr.count("(pid ") == 8
    assert done.stderr.endswith("), …\n")


# Leaves a process behind that deals with a signal as $1 says, and ends when that has told that it is ready.
LEAVES_BEHIND = """
mkfifo ready
sh -c "trap '$1' $2; echo >ready; while :; do sleep 0.05; done" &
read line <ready
"""


def test_what_ignores_sigterm_is_killed_after_timeout_stop(allgone: Allgone, tmp_path: Path) -> None:
    done = allgone.run(
        "sh", "-c", LEAVES_BEHIND, "sh", "", "TERM", options=["--timeout-stop=100ms", "--report=report"], cwd=tmp_path
    )
    assert done.returncode == 0
    assert "sh" in [each["name"] for each in json.loads((tmp_path / "report").read_text())["killed"]]


def test_kill_signal_is_what_is_sent(allgone: Allgone, tmp_path: Path) -> None:
    done = allgone.run(
        "sh", "-c", LEAVES_BEHIND, "sh", "echo got it; exit", "USR1", options=["--kill-signal=usr1"], cwd=tmp_path
    )
    assert done.stdout == "got it\n"


def test_sighup_is_sent_as_well_if_asked_for(allgone: Allgone, tmp_path: Path) -> None:
    done = allgone.run(
        "sh", "-c", LEAVES_BEHIND, "sh", "echo got it", "HUP", options=["--kill-signal=CONT", "--send-sighup",
        "--timeout-stop=100ms"], cwd=tmp_path,
    )  # fmt: skip
    assert done.stdout == "got it\n"


def test_kill_mode_process_leaves_the_rest_running_and_says_nothing(allgone: Allgone, tmp_path: Path) -> None:
    report = tmp_path / "report"
    done = allgone.run(
        "sh", "-c", "sleep 1000 >/dev/null 2>&1 & echo $!",
        options=["--kill-mode", "process", "--report", str(report)],
    )  # fmt: skip
    spared = int(done.stdout)
    try:
        assert procfs.is_alive(spared)
        assert (done.returncode, done.stderr) == (0, "")
        assert [each["pid"] for each in json.loads(report.read_text())["left_running"]] == [spared]
    finally:
        procfs.end(spared)
    for folder in Path(os.environ.get("ALLGONE_CGROUP", "/none")).glob("allgone-*/1-sh"):
        cgroups.remove_all(str(folder.parent))  # stays for as long as what is in it


def test_report_tells_args_status_and_what_was_stopped(allgone: Allgone, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    args = ["sh", "-c", "sleep 1000 & exit 5"]
    done = allgone.run(*args, options=["--name", "mine", "--report", str(report)])
    told = json.loads(report.read_text())
    assert done.returncode == told["exit_status"] == told["returncode"] == 5
    assert told["args"] == args
    assert told["name"] == "mine"
    assert told["backend"] == allgone.backend
    assert [each["pid"] for each in told["members"]] == [int(done.stderr.split("(pid ")[1].split(")")[0])]
    assert told["sent"][0]["signum"] == 15
    assert told["stopped_because"] is told["error"] is None
    assert 0 <= told["duration"] <= told["duration_total"]
    assert re.match(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d.*\+00:00$", told["started_at"])


@pytest.mark.usefixtures("searchable_path")
@pytest.mark.parametrize(
    ("command", "options", "expected"),
    [
        (["sh", "-c", "kill -KILL $$"], [], {"exit_status": 137, "returncode": -9, "stopped_because": None}),
        (["sleep", "1000"], ["--timeout=50ms"], {"exit_status": 124, "returncode": -15, "stopped_because": "timeout"}),
        (["none"], [], {"exit_status": 127, "error": "cannot run none: No such file or directory"}),
    ],
)
def test_report_is_written_however_it_ends(
    allgone: Allgone, command: list[str], options: list[str], expected: dict[str, object], tmp_path: Path
) -> None:
    report = tmp_path / "report.json"
    report.write_text("something old, and longer than what is written now" * 1000)
    allgone.run(*command, options=[*options, "--report", str(report)])
    told = json.loads(report.read_text())
    assert {key: told[key] for key in expected} == expected


@pytest.mark.parametrize("inner", ["cgroup", "process-group"])
def test_nested_each_stops_what_it_started(allgone: Allgone, inner: str, request: pytest.FixtureRequest) -> None:
    if inner == "cgroup":
        request.getfixturevalue("cgroup_base")
    allgone_inside = [
        *ALLGONE,
        "run",
        "--backend",
        inner,
        "--",
        "sh",
        "-c",
        f"setsid sleep 1000 & {UNTIL_SLEEP}; exit 4",
    ]
    done = allgone.run("sh", "-c", f'sleep 1000 & {UNTIL_SLEEP}; "$@"', "sh", *allgone_inside)
    assert done.returncode == 4
    first, second = done.stderr.splitlines()
    assert re.fullmatch(r"allgone: stopped 1 process that the command left behind: sleep \(pid \d+\)", first)
    assert re.fullmatch(r"allgone: stopped 1 process that the command left behind: sleep \(pid \d+\)", second)
    assert first != second


@pytest.mark.parametrize("inner", ["cgroup", "process-group"])
def test_nested_the_outer_time_out_stops_all(allgone: Allgone, inner: str, request: pytest.FixtureRequest) -> None:
    if inner == "cgroup":
        request.getfixturevalue("cgroup_base")
    inside = [*ALLGONE, "run", "--backend", inner, "--", "sh", "-c", "setsid sleep 1000 & echo ready; sleep 1000"]
    # Held after it has noted the time: it may be over when all are up, but is not noticed before.
    with held("allgone.cli.supervision:Supervision", "__init__", allgone, *inside, options=["--timeout=50ms"]) as outer:
        assert lines(outer.stdout, 1) == ["ready"]
        assert outer.communicate("\n", timeout=PATIENCE)[0] == ""
        assert outer.returncode == 124
