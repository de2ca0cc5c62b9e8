"""A supervisor that is killed, wherever that happens: its guard leaves nothing of what it had started."""

from __future__ import annotations

import os
import random
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import every_point
from support.backends import BackendUnderTest
from support.programs import Lines

import allgone
from allgone._process import driver

PATIENCE = 10.0  # seconds: what takes a tenth of one, on a machine that does a hundred other things
SCRIPT = "echo ready; trap '' TERM; sleep 1000 & {daemon} sleep 1000 & wait"


@pytest.fixture
def base(backend: BackendUnderTest, _cgroup_base_or_reason: tuple[str | None, str]) -> str | None:
    return _cgroup_base_or_reason[0] if backend.name == "cgroup" else None


@pytest.fixture
def bystanders(base: str | None) -> Iterator[Bystanders]:
    made = Bystanders(base)
    yield made
    made.end()


class Trial:
    """One supervisor's life: it starts something that would outlive it, uses it, stops it, ends."""

    def __init__(self, backend: BackendUnderTest, base: str | None) -> None:
        self._backend = backend
        self._base = base
        reader, self._writer = os.pipe()
        self.lines = Lines(reader)

    def live(self) -> int:
        script = SCRIPT.format(daemon="setsid" if self._backend.ends_daemons else "")
        child = self._backend.Popen(["sh", "-c", script], stdout=self._writer, stdin=subprocess.DEVNULL)
        child.members()
        child.stop(allgone.StopPolicy(timeout_stop=0.01))
        driver._stop_everything()
        return 0

    def nothing_is_left(self) -> str:
        """Wait for it; "" if it came to pass."""
        os.close(self._writer)
        if not self.lines.are_over(PATIENCE):
            return "processes"
        return "" if self._base is None else directories_left(self._base)


def directories_left(base: str) -> str:
    """Those of supervisors that are gone, after a while: there is no event for a directory that goes."""
    deadline = time.monotonic() + PATIENCE
    while True:
        left = [
            e.name
            for e in os.scandir(base)
            if e.is_dir() and not e.name.startswith((f"allgone-{os.getpid()}-", *NOT_OURS))
        ]
        if not left or time.monotonic() > deadline:
            return " ".join(left)
        time.sleep(0.002)


NOT_OURS = ("allgone-1-", "allgone-x", "guard")


@pytest.mark.timeout(1800)
def test_killed_at_any_system_call_it_leaves_nothing(
    backend: BackendUnderTest, base: str | None, bystanders: Bystanders, request: pytest.FixtureRequest
) -> None:
    """At every one of them with --run-slow; but most of those of process-group are looks at /proc."""
    trial = Trial(backend, base)
    stops = every_point.stops_of(trial.live)
    assert not trial.nothing_is_left()
    trial.lines.close()
    assert stops > 300, "the life of a supervisor takes more system calls than that"
    most = (stops if backend.name == "cgroup" else 1500) if request.config.getoption("--run-slow") else 50
    for stop in random.sample(range(1, stops + 1), min(stops, most)):
        trial = Trial(backend, base)
        try:
            every_point.killed_at(trial.live, stop)
            left = trial.nothing_is_left()
        finally:
            trial.lines.close()
        assert not left, f"killed at stop {stop} of {stops}: {left}"
        assert bystanders.are_all_there(), f"killed at stop {stop}"
