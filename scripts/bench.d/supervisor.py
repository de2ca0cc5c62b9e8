"""A supervisor of a given size that measures what it is asked to: one JSON request a line in, one answer out.

Started by scripts/bench, as ``python supervisor.py MEGABYTES RAW_PROGRAM CGROUP``; "-" where there is none of these.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from time import perf_counter_ns

import allgone

Case = Callable[[], int]  # does the work once, returns nanoseconds

TRUE, SLEEP = [shutil.which("true") or "true"], [shutil.which("sleep") or "sleep", "1000"]
FORKS = ["sh", "-c", f"i=0; while [ $i -lt 500 ]; do {TRUE[0]}; i=$((i+1)); done"]
PAUSE = 0.05
AT_ONCE = allgone.StopPolicy(timeout_stop=0)


def apart(case: Case) -> Case:
    """After a pause, as real starts are: the kernel lets a process enter a cgroup fast only while others do so too
    (a grace period of RCU in cgroup_procs_write_start)."""

    def once() -> int:
        time.sleep(PAUSE)
        return case()

    return once


def timed(work: Callable[[], object]) -> Case:
    def once() -> int:
        began = perf_counter_ns()
        work()
        return perf_counter_ns() - began

    return once


# The standard library


def popen_kill_wait() -> None:
    process = subprocess.Popen(SLEEP)
    process.kill()
    process.wait()


def popen_killpg_wait() -> None:
    process = subprocess.Popen(SLEEP, start_new_session=True)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def popen_with() -> None:
    with subprocess.Popen(TRUE):
        pass


def ready_kill_wait(raw: str) -> None:
    with subprocess.Popen([raw, "fork", "1"], stdout=subprocess.PIPE) as process:
        wait_until_ready(process)
        process.kill()


def many_popens(n: int) -> None:
    started = [subprocess.Popen(SLEEP) for _ in range(n)]
    for process in started:
        process.kill()
        process.wait()


def killpg_of(raw: str, n: int) -> int:
    with subprocess.Popen([raw, "fork", str(n)], stdout=subprocess.PIPE, start_new_session=True) as process:
        wait_until_ready(process)
        began = perf_counter_ns()
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        while group_exists(process.pid):
            time.sleep(0.0001)
        return perf_counter_ns() - began


def group_exists(pgid: int) -> bool:
    try:
        os.killpg(pgid, 0)
    except ProcessLookupError:
        return False
    return True


def wait_until_ready(process: subprocess.Popen[bytes]) -> None:
    assert process.stdout is not None
    if process.stdout.readline() != b"ready\n":
        raise RuntimeError("the forker did not get ready")


# allgone


def ours_with(backend: str) -> None:
    with allgone.Popen(TRUE, backend=backend):
        pass


def ready_stop(raw: str, backend: str) -> None:
    with allgone.Popen([raw, "fork", "1"], stdout=subprocess.PIPE, backend=backend) as process:
        wait_until_ready(process)
        process.stop()


def many_of_ours(backend: str, n: int) -> None:
    started = [allgone.Popen(SLEEP, backend=backend) for _ in range(n)]
    for process in started:
        process.stop()


def stop_of(raw: str, backend: str, n: int) -> int:
    with allgone.Popen([raw, "fork", str(n)], stdout=subprocess.PIPE, backend=backend) as process:
        wait_until_ready(process)
        began = perf_counter_ns()
        process.stop(AT_ONCE)
        return perf_counter_ns() - began


class RawServer:
    """`raw serve`: does the same work in C, on request."""

    def __init__(self, raw: str, cgroup: str) -> None:
        command = [raw, "serve", cgroup, TRUE[0], SLEEP[0]]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def ask(self, work: str) -> int:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(work.encode() + b"\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def __enter__(self) -> RawServer:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()


def cases(raw: str, backends: list[str], server: RawServer | None, kills: list[int], together: int) -> dict[str, Case]:
    """All that can be measured here, named "what/how"."""
    many = f"{together} at a time"
    found: dict[str, Case] = {
        "true/bare": timed(lambda: subprocess.Popen(TRUE).wait()),
        "sleep/bare": timed(popen_kill_wait),
        "sleep/killpg": timed(popen_killpg_wait),
        "ready/bare": timed(partial(ready_kill_wait, raw)),
        "with/bare": timed(popen_with),
        "run/bare": timed(lambda: subprocess.run(TRUE)),
        f"{many}/bare": timed(partial(many_popens, together)),
    }
    for backend in backends:
        found |= {
            f"true/{backend}": timed(lambda b=backend: allgone.Popen(TRUE, backend=b).wait()),
            f"sleep/{backend}": timed(lambda b=backend: allgone.Popen(SLEEP, backend=b).stop()),
            f"with/{backend}": timed(partial(ours_with, backend)),
            f"run/{backend}": timed(lambda b=backend: allgone.run(TRUE, backend=b)),
            f"{many}/{backend}": timed(partial(many_of_ours, backend, together)),
        }
        found[f"ready/{backend}"] = timed(partial(ready_stop, raw, backend))
        found |= {f"kill {n}/{backend}": partial(stop_of, raw, backend, n) for n in kills}
    found |= {f"true, apart/{how}": apart(found[f"true/{how}"]) for how in ("bare", "cgroup", "process-group")
              if f"true/{how}" in found}  # fmt: skip
    found |= {f"kill {n}/killpg": partial(killpg_of, raw, n) for n in kills}
    if "cgroup" in backends:
        found["forks/cgroup"] = timed(lambda: allgone.run(FORKS, backend="cgroup"))
        found["forks/cgroup, traced"] = timed(lambda: allgone.run(FORKS, backend="cgroup", trace=True))
    if server:
        found |= {f"kill {n}/raw C": partial(server.ask, f"kill {n}") for n in kills}
        found |= {f"{what}/raw C": partial(server.ask, what) for what in ("true", "sleep")}
        found["true, apart/raw C"] = apart(found["true/raw C"])
        found[f"{many}/raw C"] = partial(server.ask, f"many {together}")
    return found


def interleaved(chosen: dict[str, Case], rounds: int) -> dict[str, list[int]]:
    """ABAB…, each round beginning with the next one, so that nobody always follows the same neighbour."""
    samples: dict[str, list[int]] = {name: [] for name in chosen}
    order = list(chosen)
    for _ in range(rounds):
        for name in order:
            samples[name].append(chosen[name]())
        order.append(order.pop(0))
    return samples


def untraceable_because() -> str:
    try:
        allgone.run(TRUE, trace=True)
    except allgone.Unsupported as e:
        return str(e)
    return ""


def resident_megabytes() -> int:
    with open("/proc/self/statm", encoding="ascii") as f:
        return int(f.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") >> 20


def fill(megabytes: int) -> bytearray:
    """Memory that is really there, so that this process is `megabytes` large."""
    ballast = bytearray(max(0, megabytes - resident_megabytes()) << 20)
    ballast[::4096] = b"\1" * len(ballast[::4096])
    return ballast


def main(megabytes: str, raw: str, cgroup: str) -> None:
    ballast = fill(int(megabytes))
    backends = ["process-group"] if cgroup == "-" else ["cgroup", "process-group"]
    traces = not untraceable_because()
    with ExitStack() as stack:
        server = stack.enter_context(RawServer(raw, cgroup)) if cgroup != "-" and raw != "-" else None
        for line in sys.stdin:
            request = json.loads(line)
            if "hold" in request:
                for _ in range(request["hold"]):
                    stack.callback(allgone.Popen(SLEEP, policy=AT_ONCE).stop)
                answer: object = os.getpid()
            else:
                known = cases(raw, backends, server, request["kills"], request["together"])
                known = {name: case for name, case in known.items() if traces or "traced" not in name}
                chosen = {name: known[name] for name in request["cases"] if name in known}
                answer = interleaved(chosen, request["rounds"])
            print(json.dumps(answer), flush=True)
    del ballast


if __name__ == "__main__":
    main(*sys.argv[1:])
