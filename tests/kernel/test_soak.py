"""scripts/soak: a few seconds of it, so that it stays alive; and that it finds what is wrong."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = str(Path(__file__).parents[2] / "scripts/soak")
SOON = ["--round", "4", "--supervisors", "2", "--memory", "32"]
# The fault, how long it takes to be sure of it in minutes, and what is said of it.
FAULTS = {
    "guard": (0.5, r"survivors: .* \(cgroup, kill, .*: pid"),
    "fd": (0.5, r"leaks: .* more fds open on /dev/null than after its first round"),
    "memory": (6.0, r"leaks: .* grew by [0-9.]+ MB"),
    "cgroup": (0.1, r"leaks: .*/left"),
    "zombie": (0.1, r"leaks: .*, at rest: zombie"),
}


def started(*words: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, SCRIPT, *SOON, *words], stdout=subprocess.PIPE, text=True)


def test_some_seconds_of_it_leave_nothing_and_ctrl_c_ends_it_with_a_summary(cgroup_base: str) -> None:
    with started("--minutes", "60", "--seed", "1") as soak:
        assert soak.stdout is not None
        first, line = soak.stdout.readline(), soak.stdout.readline()
        soak.send_signal(signal.SIGINT)
        rest = soak.stdout.read()
    assert "seed 1" in first
    assert line.split()[0] == "1", line + rest
    assert "SURVIVORS 0, LEAKS 0, ERRORS 0" in line, line + rest
    assert soak.returncode == 130, rest
    assert re.search(r"\d+ rounds in .* seed 1\n", rest)
    assert rest.endswith("nothing survived, nothing leaked\n")


def test_a_stop_that_kills_nothing_is_found(cgroup_base: str) -> None:
    with started("--minutes", "0.01", "--sabotage", "stop") as soak:
        assert soak.stdout is not None
        said = soak.stdout.read()
    assert soak.returncode == 1, said
    assert re.search(r"survivors: .* has survived", said, re.DOTALL), said
    assert "FAILED; again, in the same place: scripts/soak --seed" in said


@pytest.mark.timeout(900)
@pytest.mark.parametrize("fault", FAULTS)
def test_it_finds_what_is_wrong(fault: str, cgroup_base: str, request: pytest.FixtureRequest) -> None:
    if not request.config.getoption("--run-slow"):
        pytest.skip("takes long: --run-slow")
    minutes, finding = FAULTS[fault]
    with started("--minutes", str(minutes), "--supervisors", "4", "--seed", "2", "--sabotage", fault) as soak:
        assert soak.stdout is not None
        said = soak.stdout.read()
    assert soak.returncode == 1, said
    assert re.search(finding, said), said
