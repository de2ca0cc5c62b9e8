"""What the guard costs, and how long it takes from a supervisor's SIGKILL until nothing of it is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from statistics import median
from time import perf_counter_ns

from results import Row, Target

_FIRST = """
import sys, time, allgone
from time import perf_counter_ns
allgone.Popen
options = {"backend": sys.argv[1], "guard": sys.argv[2] == "guard"}
began = perf_counter_ns()
allgone.Popen(["true"], **options).wait()
first = perf_counter_ns() - began
later = []
for _ in range(30):
    began = perf_counter_ns()
    allgone.Popen(["true"], **options).wait()
    later.append(perf_counter_ns() - began)
print(first, sorted(later)[15])
"""
_HOLD = """
import sys, signal, subprocess, allgone
for _ in range(int(sys.argv[2])):
    allgone.Popen(["sh", "-c", "sleep 1000 & sleep 1000 & echo; wait"], backend=sys.argv[1]).returncode
print("ready", flush=True)
signal.pause()
"""


def costs(backends: list[str], rounds: int, folder: str | None) -> list[Row]:
    """Of the first child of an interpreter, and of those after it, with a guard and without."""
    found = []
    for backend in backends:
        took: dict[str, list[tuple[int, int]]] = {"guard": [], "no guard": []}
        for _ in range(rounds):
            for how, samples in took.items():
                words = [sys.executable, "-c", _FIRST, backend, how]
                env = _environment(folder)
                first, later = subprocess.run(words, capture_output=True, text=True, check=True, env=env).stdout.split()
                samples.append((int(first), int(later)))
        for n, what in enumerate(("first child", "later child")):
            base = [each[n] for each in took["no guard"]]
            for how, samples in took.items():
                mine = [each[n] for each in samples]
                found.append(
                    Row(f"{what}, {backend}", how, "-", rounds, median(mine) / 1e6, min(mine) / 1e6, "no guard",
                        median(mine) / median(base), min(mine) / min(base))
                )  # fmt: skip
    return found


def after_kill(backends: list[str], numbers: list[int], rounds: int, folder: str | None) -> list[Row]:
    """From SIGKILL of a supervisor with so many containments of 3 processes each."""
    found = []
    for backend in backends:
        for number in numbers:
            took = [_after_one_kill(backend, number, folder) for _ in range(rounds)]
            for n, how in enumerate(("no process left", "no directory left")):
                mine = [each[n] for each in took if each[n]]
                if mine:
                    found.append(
                        Row(f"SIGKILL to a supervisor of {number:,}, {backend}", how, "-", rounds, median(mine) / 1e6,
                            min(mine) / 1e6, "", None, None)
                    )  # fmt: skip
    return found


def _after_one_kill(backend: str, number: int, folder: str | None) -> tuple[int, int]:
    words = [sys.executable, "-c", _HOLD, backend, str(number)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, env=_environment(folder)) as supervisor:
        assert supervisor.stdout is not None
        for _ in range(number + 1):
            supervisor.stdout.readline()
        began = perf_counter_ns()
        supervisor.send_signal(signal.SIGKILL)
        supervisor.stdout.read()  # until the last that has the pipe is gone
        processes = perf_counter_ns() - began
        while folder and backend == "cgroup" and _homes_of(supervisor.pid, folder):
            time.sleep(0.001)
        return processes, perf_counter_ns() - began if folder and backend == "cgroup" else 0


def _environment(folder: str | None) -> dict[str, str]:
    others = {name: value for name, value in os.environ.items() if not name.startswith("ALLGONE_")}
    return {**others, "ALLGONE_CGROUP": folder} if folder else others


def _homes_of(pid: int, folder: str) -> list[str]:
    return [name for name in os.listdir(folder) if name.startswith(f"allgone-{pid}-")]


def targets(rows: list[Row]) -> list[Target]:
    found = [
        Target(f"{row.what} with a guard, to without", 1.1, row.ratio, row.ratio_of_minimums)
        for row in rows
        if row.how == "guard"
    ]
    return found + [
        Target(f"{row.what}: {row.how}, seconds", 1, row.median_ms / 1000)
        for row in rows
        if row.what.startswith("SIGKILL")
    ]
