"""What scripts/bench.d/peers.py compares: the same program started, awaited and stopped by us and by others.

peer_supervisor.py ROUNDS. Prints, as JSON: nanoseconds by "what/how", how many processes were left by each, and why a
peer was left out. What was left is ended here.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import cache
from importlib.metadata import version

import allgone

Case = Callable[[list[str]], tuple[int, int]]  # a command -> nanoseconds to start and await it, and to stop it

# Each sleep has a length of its own, so that /proc shows whose it was.
PROGRAMS = {
    "simple": "echo ready; exec sleep {0}",
    "tree": "sleep {0} & sleep {0} & sleep {0} & echo ready; wait",
    "daemon": "sleep {0} & sleep {0} & (setsid sleep {0} >/dev/null 2>&1 &); echo ready; wait",
}
_lengths = itertools.count(1)


def timed(start: Callable[[], object], stop: Callable[[], object]) -> tuple[int, int]:
    began = time.perf_counter_ns()
    start()
    running = time.perf_counter_ns()
    stop()
    return running - began, time.perf_counter_ns() - running


def popened(
    command: list[str], popen: Callable[..., subprocess.Popen[bytes]], stop: Callable[..., object]
) -> tuple[int, int]:
    """By what is, or behaves as, subprocess.Popen."""
    process: list[subprocess.Popen[bytes]] = []

    def start() -> None:
        process.append(popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE))
        assert process[0].stdout is not None
        assert process[0].stdout.readline() == b"ready\n"

    took = timed(start, lambda: stop(process[0]))
    process[0].stdout.close()  # type: ignore[union-attr]
    return took


def terminate(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    process.wait()


def killpg(process: subprocess.Popen[bytes]) -> None:
    os.killpg(process.pid, signal.SIGTERM)
    process.wait()


def psutil_recipe(process: subprocess.Popen[bytes]) -> None:
    """As psutil's documentation has it ("Kill process tree")."""
    import psutil

    parent = psutil.Process(process.pid)
    everyone = [*parent.children(recursive=True), parent]
    for each in everyone:
        with contextlib.suppress(psutil.NoSuchProcess):
            each.terminate()
    _, alive = psutil.wait_procs(everyone, timeout=3)
    for each in alive:
        each.kill()
    process.wait()


def by_mirakuru(command: list[str]) -> tuple[int, int]:
    from mirakuru import OutputExecutor

    executor = OutputExecutor(command, banner="ready", timeout=30)
    return timed(executor.start, executor.stop)


def by_xprocess(command: list[str]) -> tuple[int, int]:
    import py
    import xprocess

    class Quiet:
        def debug(self, *_: object) -> None: ...

    class Config: ...

    class Starter(xprocess.ProcessStarter):
        pattern = "ready"
        args = command

    with tempfile.TemporaryDirectory() as folder:
        made = xprocess.XProcess(Config(), py.path.local(folder), log=Quiet())
        took = timed(lambda: made.ensure("peer", Starter), lambda: made.getinfo("peer").terminate())
        made._force_clean_up()
    return took


@cache
def loop() -> asyncio.AbstractEventLoop:
    return asyncio.new_event_loop()


def by_processkit(command: list[str]) -> tuple[int, int]:
    """On an event loop, which it is made for: its lines of output are to be had there only."""
    import processkit

    running: list[processkit.RunningProcess] = []

    async def start() -> None:
        running.append(await processkit.Command(command[0], command[1:]).astart())
        async for line in running[0].stdout_lines():
            assert line.strip() == "ready"
            break

    async def stop() -> None:
        await running[0].ashutdown(10)

    return timed(lambda: loop().run_until_complete(start()), lambda: loop().run_until_complete(stop()))


def by_systemd_run(command: list[str]) -> tuple[int, int]:
    unit = f"bench-peer-{os.getpid()}-{next(_lengths)}.scope"
    before = ["systemd-run", "--quiet", "--collect", "--scope", f"--unit={unit}", "--"]

    def stop(process: subprocess.Popen[bytes]) -> None:
        subprocess.run(["systemctl", "stop", unit], check=True)
        process.wait()

    return popened([*before, *command], subprocess.Popen, stop)


def ours(backend: str, command: list[str]) -> tuple[int, int]:
    return popened(
        command, lambda *a, **k: allgone.Popen(*a, backend=backend, escapees="ignore", **k), allgone.Popen.stop
    )


def cases(left_out: dict[str, str]) -> dict[str, Case]:
    found: dict[str, Case] = {
        "subprocess": lambda command: popened(command, subprocess.Popen, terminate),
        "killpg": lambda command: popened(
            command, lambda *a, **k: subprocess.Popen(*a, start_new_session=True, **k), killpg
        ),
        "psutil": lambda command: popened(command, subprocess.Popen, psutil_recipe),
    }
    for name, distribution, case in (
        ("mirakuru", "mirakuru", by_mirakuru),
        ("pytest-xprocess", "pytest-xprocess", by_xprocess),
        ("processkit", "processkit-py", by_processkit),
    ):
        try:
            version(distribution)
            found[name] = case
        except ModuleNotFoundError:
            left_out[name] = f"not installed (pip install {distribution})"
    if os.path.isdir("/run/systemd/system") and os.getuid() == 0 and shutil.which("systemd-run"):
        found["systemd-run"] = by_systemd_run
    else:
        left_out["systemd-run"] = "systemd does not run here, or this is not root"
    for backend in ("process-group", "cgroup"):
        try:
            allgone.run(["true"], backend=backend)
            found[backend] = lambda command, backend=backend: ours(backend, command)
        except allgone.BackendUnavailable as e:
            left_out[f"allgone, {backend}"] = str(e)
    return found


def survivors(length: str) -> int:
    """How many of these sleeps live; they are ended."""
    found = 0
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            fd = os.pidfd_open(int(name))
        except OSError:
            continue
        try:
            with open(f"/proc/{name}/cmdline", "rb") as f:
                if f.read() == b"sleep\0" + length.encode() + b"\0":
                    signal.pidfd_send_signal(fd, signal.SIGKILL)
                    select.select([fd], [], [])
                    found += 1
        except (FileNotFoundError, ProcessLookupError):
            pass  # gone meanwhile
        finally:
            os.close(fd)
    return found


def main(rounds: str) -> None:
    left_out: dict[str, str] = {}
    known = cases(left_out)
    samples: dict[str, list[int]] = {f"{what}/{how}": [] for what in PROGRAMS for how in known}
    left: dict[str, int] = {}
    order = list(samples)
    for n in range(int(rounds) + 1):  # the first imports, and warms up
        for name in order:
            what, how = name.split("/")
            length = f"1000.{os.getpid()}{next(_lengths):06}"
            took = known[how](["sh", "-c", PROGRAMS[what].format(length)])
            left[name] = max(left.get(name, 0), survivors(length))
            if n:
                samples[name].append(sum(took))
        order.append(order.pop(0))
    versions = {name: version(name) for name in ("psutil", "mirakuru", "pytest-xprocess", "processkit-py")
                if name.removesuffix("-py") in known}  # fmt: skip
    print(json.dumps({"samples": samples, "left": left, "left_out": left_out, "versions": versions}))


if __name__ == "__main__":
    main(*sys.argv[1:])
