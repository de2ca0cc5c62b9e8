"""What contained processes of multiprocessing do; a module that a spawned one can import."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from multiprocessing.connection import Connection
from pathlib import Path


def with_daemon(pipe: Connection) -> None:
    """Starts a daemon, tells both pids, and waits."""
    pipe.send((os.getpid(), start_daemon()))
    pipe.recv()


def start_daemon() -> int:
    return subprocess.Popen(["sleep", "1000"], start_new_session=True, stdout=subprocess.DEVNULL).pid


def start_daemon_and_stay(_: int = 0) -> tuple[int, int]:
    return os.getpid(), start_daemon()


def sends_its_cgroup(pipe: Connection) -> None:
    pipe.send(_cgroup_in(Path("/proc/self/cgroup").read_text(encoding="ascii")))


def square(number: int) -> int:
    return number * number


def fails() -> None:
    raise SystemExit(7)


def ignores_sigterm(pipe: Connection) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    pipe.send("ready")
    time.sleep(120)


def forks_and_ends(pipe: Connection) -> None:
    """Its child lives on."""
    pid = os.fork()
    if pid == 0:
        signal.alarm(120)
        signal.pause()
    pipe.send(pid)


AT_IMPORT = Path("/proc/self/cgroup").read_text(encoding="ascii")


def sends_where_it_was_imported(pipe: Connection) -> None:
    pipe.send(_cgroup_in(AT_IMPORT))


def _cgroup_in(text: str) -> str:
    return next(line for line in text.splitlines() if line.startswith("0::"))
