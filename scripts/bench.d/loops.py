"""allgone.aio against the blocking `Popen`, and very many processes under one event loop."""

from __future__ import annotations

import json
import os
import subprocess
import sys

from results import Row, rows

BLOCKING = "allgone.Popen"
# Each in an interpreter of its own, which takes turns between the blocking way and its loop's.
_LOOPS = ("asyncio", "uvloop", "trio")
_ALTERNATE = """
import json, sys, anyio, allgone
from allgone import aio
from time import perf_counter_ns
backend, loop, rounds = sys.argv[1], sys.argv[2], int(sys.argv[3])
options = {"backend": "trio"} if loop == "trio" else {"backend_options": {"use_uvloop": loop == "uvloop"}}
ARGS = ["sleep", "1000"]

async def main():
    found = {"allgone.Popen": [], loop: []}
    for number in range(rounds + 3):
        began = perf_counter_ns()
        allgone.Popen(ARGS, backend=backend).stop()
        between = perf_counter_ns()
        await (await aio.open_process(ARGS, backend=backend)).stop()
        ended = perf_counter_ns()
        if number >= 3:
            found["allgone.Popen"].append(between - began)
            found[loop].append(ended - between)
    if loop != "trio":
        import asyncio
        found[loop + ", its own create_subprocess_exec"] = theirs = []
        for _ in range(rounds):
            began = perf_counter_ns()
            process = await asyncio.create_subprocess_exec(*ARGS)
            process.terminate()
            await process.wait()
            theirs.append(perf_counter_ns() - began)
    print(json.dumps(found))

anyio.run(main, **options)
"""
_MANY = """
import json, os, resource, sys, time, anyio
from allgone import aio
backend, many = sys.argv[1], int(sys.argv[2])
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))

def now():
    used = resource.getrusage(resource.RUSAGE_SELF)
    return time.monotonic(), used.ru_utime + used.ru_stime

async def main():
    async def one(task_status):
        async with await aio.open_process(["sleep", "1000"], backend=backend) as process:
            task_status.started()
            await process.wait()
    began, fds = now(), len(os.listdir("/proc/self/fd"))
    async with anyio.create_task_group() as tasks:
        for _ in range(many):
            await tasks.start(one)
        running, fds = now(), len(os.listdir("/proc/self/fd")) - fds
        tasks.cancel_scope.cancel()
    ended = now()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps([[b - a for a, b in zip(began, running)], [b - a for a, b in zip(running, ended)], peak, fds]))

anyio.run(main)
"""


def measure(backends: list[str], rounds: int, folder: str | None, left_out: list[str]) -> list[Row]:
    try:
        import anyio  # noqa: F401
    except ImportError:
        left_out.append("event loops: anyio is not installed")
        return []
    found: list[Row] = []
    for backend in backends:
        for loop in _LOOPS:
            try:
                __import__(loop)
            except ImportError:
                left_out.append(f"event loops: {loop} is not installed")
                continue
            samples = json.loads(_said(_ALTERNATE, folder, backend, loop, str(rounds)))
            found += rows({f"{backend}, {loop}/{how}": took for how, took in samples.items()}, "-", BLOCKING)
    return found


def many(backends: list[str], number: int, folder: str | None) -> list[str]:
    """What one asyncio supervisor takes to start so many, and to stop them all at once, in words."""
    lines = []
    for backend in backends:
        (start, start_cpu), (stop, stop_cpu), peak, fds = json.loads(_said(_MANY, folder, backend, str(number)))
        lines.append(
            f"  {number:,} processes, {backend:<14} started in {start:.2f} s (CPU {start_cpu:.2f}), "
            f"stopped in {stop:.2f} s (CPU {stop_cpu:.2f}); {peak / 1024:.0f} MB at most, {fds:,} fds while all run"
        )
    return lines


def _said(program: str, folder: str | None, *arguments: str) -> str:
    others = {name: value for name, value in os.environ.items() if not name.startswith("ALLGONE_")}
    environment = {**others, "ALLGONE_CGROUP": folder} if folder else others
    words = [sys.executable, "-c", program, *arguments]
    return subprocess.run(words, stdout=subprocess.PIPE, check=True, env=environment, text=True).stdout
