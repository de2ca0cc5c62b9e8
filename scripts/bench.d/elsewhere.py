"""What is not measured inside a supervisor: the cost of imports, and whether an idle supervisor wakes up."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from statistics import median
from time import perf_counter_ns

from results import Row, Target

IMPORTS = {
    "python -I -c pass": "pass",
    "import subprocess": "import subprocess",
    "import allgone": "import allgone",
    "import allgone; allgone.Popen": "import allgone; allgone.Popen",
}


def imports(rounds: int) -> tuple[list[Row], list[Target]]:
    """Whole interpreters, interleaved; the ratio is of what is left without the interpreter's own start."""
    took: dict[str, list[int]] = {name: [] for name in IMPORTS}
    for n in range(rounds + 1):
        for name, statement in IMPORTS.items():
            began = perf_counter_ns()
            subprocess.run([sys.executable, "-I", "-c", statement], check=True)
            if n:  # the first round warms the caches
                took[name].append(perf_counter_ns() - began)
    empty = took["python -I -c pass"]

    def net(name: str) -> float:
        return median(one - start for one, start in zip(took[name], empty, strict=True))

    yardstick, least = net("import subprocess"), min(took["import subprocess"])
    found = [
        Row("import", name, "-", rounds, median(each) / 1e6, min(each) / 1e6, "import subprocess",
            net(name) / yardstick, min(each) / least)
        for name, each in took.items()
    ]  # fmt: skip
    ours = found[list(IMPORTS).index("import allgone")]
    claim = "import allgone, to import subprocess, the interpreter's own start left out"
    return found, [Target(claim, 1.3, ours.ratio)]


def idle_wake_ups(pid: int, seconds: float) -> tuple[list[str], str] | None:
    """(what the process did meanwhile, how that was seen); None where it can't be seen.

    By strace, where it is installed and may attach, else by its count of context switches.
    """
    if shutil.which("strace"):
        seen = _system_calls(pid, seconds)
        if seen is not None:
            return seen, "strace"
    before = _switches(pid)
    time.sleep(seconds)  # the measurement itself
    more = _switches(pid) - before
    return [f"{more} context switches"] if more else [], "context switches; strace is absent or may not attach"


def _system_calls(pid: int, seconds: float) -> list[str] | None:
    with tempfile.TemporaryDirectory() as folder:
        trace = os.path.join(folder, "trace")
        command = ["strace", "-f", "-tt", "-o", trace, "-p", str(pid)]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as strace:
            assert strace.stderr is not None
            if "attached" not in strace.stderr.readline():
                return None
            time.sleep(seconds)  # the measurement itself
            strace.send_signal(signal.SIGINT)
            strace.stderr.read()
        with open(trace, encoding="utf-8", errors="replace") as f:
            # The call that it sleeps in is shown as well: as left unfinished, when strace lets go of it.
            return [line.strip() for line in f if "<detached ...>" not in line]


def _switches(pid: int) -> int:
    total = 0
    for thread in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{thread}/status", encoding="utf-8") as f:
            total += sum(map(int, re.findall(r"ctxt_switches:\s+(\d+)", f.read())))
    return total
