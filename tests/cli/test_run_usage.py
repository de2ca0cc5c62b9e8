"""`allgone run --usage`: what was used, on stderr, as GNU's time -v says it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from allgone import Pressure, Stalled, Usage
from allgone.cli import usage
from cli.command import Allgone

BURNS = "import time; end = time.process_time() + 0.3\nwhile time.process_time() < end: pass\n"


def told(stderr: str) -> dict[str, str]:
    lines = [line for line in stderr.splitlines() if line.startswith("\t")]
    return dict(line[1:].rsplit(": ", 1) if "Command" not in line else line[1:].split(": ", 1) for line in lines)


def test_cpu_time_elapsed_time_and_status_are_told_with_each_backend(allgone: Allgone) -> None:
    done = allgone.run(sys.executable, "-S", "-c", BURNS + "raise SystemExit(3)", options=["--usage"])
    assert done.returncode == 3
    assert done.stdout == ""
    found = told(done.stderr)
    assert float(found["User time (seconds)"]) + float(found["System time (seconds)"]) >= 0.27
    assert found["Percent of CPU this job got"].endswith("%")
    minutes, seconds = found["Elapsed (wall clock) time (h:mm:ss or m:ss)"].split(":")
    assert int(minutes) * 60 + float(seconds) >= 0.3
    assert found["Exit status"] == "3"
    assert found["Command being timed"].startswith(f'"{sys.executable} -S -c import time')
    assert ("Approximate" in found) == (allgone.backend == "process-group")
    tells_pressure = allgone.backend == "cgroup" and os.path.exists("/proc/pressure/cpu")
    assert ("Stalled for the CPU (seconds)" in found) == tells_pressure


def test_it_comes_after_what_allgone_has_to_say_and_only_if_asked_for(allgone: Allgone) -> None:
    done = allgone.run("sh", "-c", "sleep 1000 & exit 0", options=["--usage"])
    first, *rest = done.stderr.splitlines()
    assert first.startswith("allgone: stopped 1 process")
    assert rest[0].startswith("\tCommand being timed: ")
    assert rest[-1] == "\tExit status: 0"
    assert allgone.run("true").stderr == ""


@pytest.mark.parametrize(("command", "options", "status"), [("kill -9 $$", [], 137), ("sleep 1000", ["--timeout=0.1"], 124)])  # fmt: skip
def test_a_command_that_was_ended_has_used_something_too(
    allgone: Allgone, command: str, options: list[str], status: int
) -> None:
    done = allgone.run("sh", "-c", command, options=["--usage", *options])
    assert done.returncode == (-9 if status == 137 else status)
    assert told(done.stderr)["Exit status"] == str(status)


def test_of_what_was_not_started_there_is_nothing_to_tell(allgone: Allgone) -> None:
    assert told(allgone.run("no-such-command", options=["--usage"]).stderr) == {}


def test_a_stderr_that_is_closed_is_no_reason_to_fail(allgone: Allgone, tmp_path: Path) -> None:
    assert allgone.run("true", options=["--usage"], preexec_fn=lambda: os.close(2)).returncode == 0


def test_all_that_can_be_known_is_said() -> None:
    pressure = Pressure(Stalled(0, 0, 0, 1.234), None)
    full = Usage(61.5, 1.5, 2, 0, 8 << 20, 0, 12, 1000, 2000, 3, 4, pressure, pressure, pressure)
    assert usage.text(["make", "-j4\n"], 2, 126.0, full).splitlines() == [
        '\tCommand being timed: "make -j4?"',
        "\tUser time (seconds): 61.50",
        "\tSystem time (seconds): 1.50",
        "\tPercent of CPU this job got: 50%",
        "\tElapsed (wall clock) time (h:mm:ss or m:ss): 2:06.00",
        "\tPeak memory (kbytes): 8192",
        "\tPeak tasks: 12",
        "\tBytes read: 1000",
        "\tBytes written: 2000",
        "\tRead operations: 3",
        "\tWrite operations: 4",
        "\tStalled for the CPU (seconds): 1.23",
        "\tStalled for memory (seconds): 1.23",
        "\tStalled for IO (seconds): 1.23",
        "\tKilled for want of memory: 2",
        "\tExit status: 2",
    ]


def test_what_is_not_known_is_left_out() -> None:
    names = [line.split(":")[0] for line in usage.text(["true"], 0, 0.0, None).splitlines()]
    assert names == ["\tCommand being timed", "\tElapsed (wall clock) time (h", "\tExit status"]
    assert "Peak" not in usage.text(["true"], 0, 1.0, Usage(0, 0))
