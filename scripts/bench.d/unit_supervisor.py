"""Starts and stops under systemd, measured side by side by one supervisor. Prints {"what/how": [nanoseconds, …], …}.

Started by scripts/bench where systemd is PID 1, as ``python unit_supervisor.py ROUNDS INTERPRETERS``.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import select
import subprocess
import sys
import time
from collections.abc import Callable
from time import perf_counter_ns
from typing import NamedTuple

from supervisor import PAUSE, apart, timed

import allgone

TRUE = ["true"]
TOGETHER = 10  # times in a row, as in the supervisors of scripts/bench that systemd does not know
SLEEP = ["sh", "-c", "echo; exec sleep 1000"]  # heard when it runs
MANAGER = [] if os.getuid() == 0 else ["--user"]
SYSTEMD_RUN = ["systemd-run", *MANAGER, "--quiet"]
SCOPE, SERVICE = [*SYSTEMD_RUN, "--scope"], [*SYSTEMD_RUN, "--pipe", "--wait", "--collect"]
NUMBERS = itertools.count()

# In an interpreter that has done nothing else. Who is first takes turns: the second finds warm caches.
FIRST = f"""
import subprocess, time, allgone
allgone.Popen
{{before}}
def ours():
    allgone.run(["true"], backend="cgroup")
def theirs():
    subprocess.run({[*SCOPE, *TRUE]}, check=True)
took = {{{{}}}}
for each in ({{order}}):
    began = time.perf_counter_ns()
    each()
    took[each] = time.perf_counter_ns() - began
print(took[ours], took[theirs])
"""
BEFORE = {"scope": "import pystemd.dbuslib", "scope, importing pystemd": ""}


class Way(NamedTuple):
    """How something is run."""

    run: Callable[[], object]  # `true`, to its end
    start: Callable[[int], Callable[[], object]]  # SLEEP, with this stdout; returns what ends it, and waits for that


def bare_start(out: int) -> Callable[[], object]:
    process = subprocess.Popen(SLEEP, stdout=out)

    def stop() -> None:
        process.terminate()
        process.wait()

    return stop


def our_start(out: int) -> Callable[[], object]:
    return allgone.Popen(SLEEP, stdout=out, backend="cgroup").stop


def systemd_run(command: list[str], kind: str) -> Way:
    def start(out: int) -> Callable[[], object]:
        unit = new_name(kind)
        process = subprocess.Popen([*command, f"--unit={unit}", *SLEEP], stdout=out)

        def stop() -> None:
            subprocess.run(["systemctl", *MANAGER, "stop", unit], check=True)
            process.wait()

        return stop

    return Way(lambda: subprocess.run([*command, *TRUE], check=True), start)


def pystemd_run() -> Way:
    import pystemd.run

    run = pystemd.run

    def start(out: int) -> Callable[[], object]:
        unit = run(SLEEP, name=new_name("service"), stdout=out, collect=True)

        def stop() -> None:
            pidfd = os.pidfd_open(unit.Service.MainPID)
            unit.Unit.Stop(b"replace")  # returns at once
            select.select([pidfd], [], [])
            os.close(pidfd)

        return stop

    return Way(lambda: run(TRUE, wait=True, collect=True), start)


def new_name(kind: str) -> str:
    return f"bench-{os.getpid()}-{next(NUMBERS)}.{kind}"


def ways() -> dict[str, Way]:
    return {
        "bare": Way(lambda: subprocess.Popen(TRUE).wait(), bare_start),
        "scope": Way(lambda: allgone.Popen(TRUE, backend="cgroup").wait(), our_start),
        "systemd-run --scope": systemd_run(SCOPE, "scope"),
        "systemd-run --pipe --wait": systemd_run(SERVICE, "service"),
        "pystemd.run": pystemd_run(),
    }


def start_and_stop(way: Way) -> tuple[int, int]:
    reader, writer = os.pipe()
    began = perf_counter_ns()
    stop = way.start(writer)
    os.close(writer)
    if not os.read(reader, 1):
        raise RuntimeError("it ended before it said anything")
    heard = perf_counter_ns()
    os.close(reader)
    stopping = perf_counter_ns()
    stop()
    return heard - began, perf_counter_ns() - stopping


def main(rounds: int, interpreters: int) -> None:
    known = ways()
    order = list(known)
    samples: dict[str, list[int]] = {f"{what}/{how}": [] for what in ("true, apart", "exec", "stop") for how in order}
    samples |= {f"true/{how}": [] for how in ("bare", "scope")}
    samples |= {f"first/{how}": [] for how in ("systemd-run --scope", *BEFORE)}
    for how in order:  # first calls choose a backend, import what they need, make the scope
        known[how].run()
    for n in range(rounds):
        time.sleep(PAUSE)
        for how in ("bare", "scope") * TOGETHER if n % 2 else ("scope", "bare") * TOGETHER:
            samples[f"true/{how}"].append(timed(known[how].run)())
        random.shuffle(order)  # so that nobody always follows the same neighbour
        # Each after a pause: when its unit has ended, systemd is not yet done with it.
        for how in order:
            samples[f"true, apart/{how}"].append(apart(timed(known[how].run))())
        for how in order:
            time.sleep(PAUSE)
            until_heard, until_gone = start_and_stop(known[how])
            samples[f"exec/{how}"].append(until_heard)
            samples[f"stop/{how}"].append(until_gone)
    for n in range(interpreters):
        for how, before in BEFORE.items():
            code = FIRST.format(before=before, order="ours, theirs" if n % 2 else "theirs, ours")
            done = subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.PIPE, text=True)
            ours, theirs = map(int, done.stdout.split())
            samples[f"first/{how}"].append(ours)
            samples["first/systemd-run --scope"].append(theirs)
    print(json.dumps(samples))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
