"""What many containments cost: scripts/bench --fleet. Of one supervisor that has 1, 100, 1,000 and 5,000 at a time."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import NamedTuple

NUMBERS = (1, 100, 1000, 5000)
_MOST_GROUPS = 1000
_COMMANDS = ("ps", "gc --dry-run", "metrics")
_WITHIN = 600  # seconds for one step
_KERNEL = ("Slab", "KernelStack", "PageTables", "Percpu")  # of /proc/meminfo

_HOLD = """
import subprocess, sys, time
import allgone
how, number = sys.argv[1], int(sys.argv[2])
sleep = ["sleep", "1000"]
begin = (lambda: subprocess.Popen(sleep)) if how == "bare" else (lambda: allgone.Popen(sleep, backend=how))
end = (lambda p: (p.terminate(), p.wait())) if how == "bare" else (lambda p: p.stop())
first = begin()  # chooses a backend, makes its directory, starts the guard
print(flush=True)
sys.stdin.readline()
began, spent = time.perf_counter(), time.process_time()
held = [begin() for _ in range(number)]
print(time.perf_counter() - began, time.process_time() - spent, flush=True)
sys.stdin.readline()
began, spent = time.perf_counter(), time.process_time()
for each in held:
    end(each)
print(time.perf_counter() - began, time.process_time() - spent, flush=True)
end(first)
"""


class Took(NamedTuple):
    """By the clock, which a busy machine stretches, and in CPU time of the process itself."""

    clock: float
    cpu: float

    def __str__(self) -> str:
        return f"{self.clock:.1f} ({self.cpu:.1f})"


@dataclass(frozen=True)
class Cost:
    """Of so many containments of one supervisor, with one process each."""

    how: str  # a backend; "bare": processes of subprocess.Popen
    number: int
    start_ms: Took  # each
    stop_ms: Took  # each, one after the other
    supervisor_kb: float  # each, in the supervisor's memory
    kernel_kb: float  # each, of the whole machine: it wavers
    guard_kb: float  # in all: resident, what is shared with the supervisor included
    supervisor_fds: int  # more than with one
    guard_fds: int
    killed_s: tuple[float, float]  # from the supervisor's SIGKILL until no process is left, and no directory
    commands_s: dict[str, Took]  # "allgone ps" and so on, as whole processes


def measure(backends: list[str], folder: str | None, numbers: Sequence[int], left_out: list[str]) -> list[Cost]:
    """Takes minutes: on a busy machine, a quarter of an hour."""
    most = _most_processes()
    found = []
    for number in numbers:
        if number > most:
            left_out.append(f"{number:,} containments: there is room for {most:,} processes")
            continue
        for how in ("bare", *backends):
            if how == "process-group" and number > _MOST_GROUPS:
                left_out.append(f"{number:,} process groups: each stop looks at all processes, so all take very long")
                continue
            print(f"  {how}, {number:,}", file=sys.stderr, flush=True)
            found.append(_cost(how, number, folder))
    return found


def _cost(how: str, number: int, folder: str | None) -> Cost:
    with _holder(how, number, folder) as holder:
        before = _resident_kb(holder.pid), _kernel_kb(), _fds(holder.pid)
        start = _next(holder)
        after = _resident_kb(holder.pid), _kernel_kb(), _fds(holder.pid)
        guards = _guards_of(holder.pid)
        guard_kb, guard_fds = sum(map(_resident_kb, guards)), sum(map(_fds, guards))
        commands = {} if how == "bare" else {words: _timed(words) for words in _COMMANDS}
        stop = _next(holder)
    return Cost(
        how,
        number,
        start_ms=Took(*(seconds / number * 1e3 for seconds in start)),
        stop_ms=Took(*(seconds / number * 1e3 for seconds in stop)),
        supervisor_kb=(after[0] - before[0]) / number,
        kernel_kb=(after[1] - before[1]) / number,
        guard_kb=guard_kb,
        supervisor_fds=after[2] - before[2],
        guard_fds=guard_fds,
        killed_s=(0.0, 0.0) if how == "bare" else _after_kill(how, number, folder),
        commands_s=commands,
    )


@dataclass(frozen=True)
class Jobs:
    """Of so many ``allgone run`` at a time, with one process each."""

    number: int
    start_ms: float  # each, started one after the other, until the last one's command runs
    supervisor_kb: float  # each: memory, what several share divided among them (proportional set size)


def jobs(number: int, folder: str | None) -> Jobs:
    words = [sys.executable, "-m", "allgone", "run", "--", "sh", "-c", "echo; exec sleep 1000"]
    began = perf_counter()
    running = [
        subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, env=_environment(folder))
        for _ in range(number)
    ]
    try:
        for each in running:
            assert each.stdout is not None
            each.stdout.readline()
        took = perf_counter() - began
        memory = sum(_proportional_kb(each.pid) for each in running)
    finally:
        for each in running:
            each.terminate()
        for each in running:
            each.communicate(timeout=_WITHIN)
    return Jobs(number, took / number * 1e3, memory / number)


def _proportional_kb(pid: int) -> int:
    with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as f:
        return next(int(line.split()[1]) for line in f if line.startswith("Pss:"))


def _environment(folder: str | None) -> dict[str, str]:
    others = {name: value for name, value in os.environ.items() if not name.startswith("ALLGONE_")}
    return {**others, "ALLGONE_CGROUP": folder} if folder else others


@contextmanager
def _holder(how: str, number: int, folder: str | None) -> Iterator[subprocess.Popen[str]]:
    words, env = [sys.executable, "-c", _HOLD, how, str(number)], _environment(folder)
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        yield holder
        holder.communicate("\n\n", timeout=_WITHIN)


def _next(holder: subprocess.Popen[str]) -> Took:
    """Let it go on; the seconds that it says it took."""
    assert holder.stdin is not None
    assert holder.stdout is not None
    holder.stdin.write("\n")
    holder.stdin.flush()
    return Took(*map(float, holder.stdout.readline().split()))


def _after_kill(how: str, number: int, folder: str | None) -> tuple[float, float]:
    """Until no process is left, and until no directory is (0 where there is none)."""
    with _holder(how, number, folder) as holder:
        _next(holder)
        began = perf_counter()
        holder.send_signal(signal.SIGKILL)
        assert holder.stdout is not None
        holder.stdout.read()  # the processes have this pipe as well
        processes = perf_counter() - began
        while folder and how == "cgroup" and _has_home(holder.pid, folder):
            time.sleep(0.01)
        return processes, perf_counter() - began


def _has_home(supervisor: int, folder: str) -> bool:
    return any(name.startswith(f"allgone-{supervisor}-") for name in os.listdir(folder))


def _timed(words: str) -> Took:
    began, before = perf_counter(), os.times()
    subprocess.run([sys.executable, "-m", "allgone", *words.split()], stdout=subprocess.DEVNULL, check=True)
    after = os.times()
    spent = after.children_user + after.children_system - before.children_user - before.children_system
    return Took(perf_counter() - began, spent)


def _guards_of(supervisor: int) -> list[int]:
    """It is told its supervisor's pid last."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").split(b"\0")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if words[-1] == str(supervisor).encode() and words[0] == b"allgone-guard":
            found.append(int(pid))
    return found


def _resident_kb(pid: int) -> int:
    with open(f"/proc/{pid}/statm", encoding="ascii") as f:
        return int(f.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") >> 10


def _kernel_kb() -> int:
    with open("/proc/meminfo", encoding="ascii") as f:
        return sum(int(line.split()[1]) for line in f if line.split(":")[0] in _KERNEL)


def _fds(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def _most_processes() -> int:
    import resource

    soft = resource.getrlimit(resource.RLIMIT_NPROC)[0]
    with open("/proc/sys/kernel/pid_max", encoding="ascii") as f:
        most = int(f.read()) // 2
    return most if soft == resource.RLIM_INFINITY else min(most, soft // 2)


def table(costs: list[Cost]) -> str:
    """For people, and for docs/fleet.md."""
    head = (
        "| backend | containments | start, ms each | stop, ms each | supervisor, KB each | kernel, KB each | "
        "after SIGKILL, s | ps, s | gc, s | metrics, s |"
    )
    lines = [head, "|" + " --- |" * (head.count("|") - 1), *map(_line, costs)]
    ours = [cost for cost in costs if cost.how != "bare"]
    guard = max(((cost.guard_kb, cost.guard_fds) for cost in ours), default=(0, 0))
    fds = max((cost.supervisor_fds for cost in ours), default=0)
    lines += [
        "",
        "In brackets: CPU time of the process itself.",
        f"The guard has {guard[0]:,} KB resident and {guard[1]} fds at most; the supervisor {fds} fds more with all of "
        "them than with one.",
    ]
    return "\n".join(lines)


def _line(cost: Cost) -> str:
    is_bare = cost.how == "bare"
    cells = [
        "`subprocess` alone" if is_bare else cost.how,
        f"{cost.number:,}",
        str(cost.start_ms),
        str(cost.stop_ms),
        f"{cost.supervisor_kb:.1f}" if cost.number > 1 else "",
        f"{cost.kernel_kb:.0f}" if cost.number >= 1000 else "",  # of fewer it is lost in what others do
        "" if is_bare else " / ".join(f"{each:.1f}" for each in cost.killed_s),
        *("" if is_bare else str(cost.commands_s[each]) for each in _COMMANDS),
    ]
    return f"| {' | '.join(cells)} |"


def main(backends: list[str], folder: str | None, quick: bool, path: str | None, left_out: list[str]) -> None:
    """Print the table, and put the numbers into the file `path`, if any."""
    costs = measure(backends, folder, NUMBERS[:2] if quick else NUMBERS, left_out)
    whole = [jobs(number, folder) for number in ((1, 10) if quick else (1, 10, 100))]
    print(table(costs))
    for job in whole:
        print(
            f"{job.number} of `allgone run` at a time: {job.start_ms:.0f} ms and {job.supervisor_kb:,.0f} KB of memory "
            "each, the command not counted."
        )
    for each in left_out:
        print(f"Left out: {each}")
    if path:
        text = json.dumps(
            {"fleet": [*map(asdict, costs)], "jobs": [*map(asdict, whole)], "left_out": left_out}, indent=1
        )
        Path(path).write_text(text + "\n", encoding="utf-8")
