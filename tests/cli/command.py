"""`allgone run` as a child of the test, with what tests ask of it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any

from support import procfs
from support.programs import PATIENCE

PYTHON = sys.executable
ALLGONE = (PYTHON, "-m", "allgone")
# Whoever runs the tests may ignore SIGINT, as a script's background jobs do, and children inherit that.
WITH_DEFAULT_SIGNALS = ("env", "--default-signal")
PROGRAMS = os.path.join(os.path.dirname(__file__), "programs")


def tells_signals(*words: str) -> tuple[str, ...]:
    """A program that prints ``ready`` and then each signal that it gets (see there)."""
    return (PYTHON, "-S", "-E", os.path.join(PROGRAMS, "tells_signals.py"), *words)


@dataclass(frozen=True)
class Allgone:
    """`allgone run` with one backend."""

    backend: str

    def args(self, *command: str, options: Sequence[str] = ()) -> list[str]:
        return [*ALLGONE, "run", "--backend", self.backend, *options, "--", *command]

    def run(self, *command: str, options: Sequence[str] = (), **keywords: Any) -> subprocess.CompletedProcess[str]:
        """From start to end; output captured as text."""
        keywords = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "stdin": subprocess.DEVNULL, **keywords}
        return subprocess.run(
            self.args(*command, options=options), text=True, timeout=PATIENCE, check=False, **keywords
        )

    @contextmanager
    def started(self, *command: str, options: Sequence[str] = (), **keywords: Any) -> Iterator[subprocess.Popen[str]]:
        """Running in the block; its output is a pipe."""
        keywords = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "stdin": subprocess.DEVNULL, **keywords}
        args = [*WITH_DEFAULT_SIGNALS, *self.args(*command, options=options)]
        process = subprocess.Popen(args, text=True, **keywords)
        with process:
            try:
                yield process
            finally:
                end(process)


@contextmanager
def held(
    owner: str, name: str, allgone: Allgone, *command: str, options: Sequence[str] = ()
) -> Iterator[subprocess.Popen[str]]:
    """`allgone run`, held at the end of the function `name` of `owner` until it gets a line. It says so on stderr."""
    script = (
        f"import os, sys, pkgutil; owner = pkgutil.resolve_name({owner!r}); then = owner.{name}\n"
        "def wait(*a, **k): done = then(*a, **k); os.write(2, b'here\\n'); os.read(0, 1); return done\n"
        f"owner.{name} = wait\n"
        "from allgone.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    args = allgone.args(*command, options=options)[len(ALLGONE) :]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen([*WITH_DEFAULT_SIGNALS, PYTHON, "-c", script, *args], text=True, **pipes) as process:
        try:
            assert lines(process.stderr, 1) == ["here"]
            yield process
        finally:
            end(process)


def end(process: subprocess.Popen[Any]) -> None:
    """However the test went. What it leaves then is the leak check's to find."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()


def _waits_for_a_signal(pid: int) -> bool:
    # rt_sigtimedwait: 128 on x86_64, 137 on aarch64 and riscv64. (SigBlk is no help: it unblocks what it waits for.)
    with open(f"/proc/{pid}/syscall", encoding="ascii") as f:
        return f.read().split()[0] in ("128", "137")


def wait_until_watching(pid: int) -> None:
    """Until `allgone run`, whose command runs already, takes signals one by one: what comes in the moment before that
    is passed on in any case, and so the command can get it twice."""
    deadline = time.monotonic() + PATIENCE
    while not _waits_for_a_signal(pid):
        assert time.monotonic() < deadline, f"pid {pid} does not wait for signals"
        time.sleep(0.002)


def wait_for_state(pid: int, state: str) -> None:
    # /proc/PID/stat has no event that anybody but the parent could wait for.
    deadline = time.monotonic() + PATIENCE
    while procfs.state(pid) != state:
        assert time.monotonic() < deadline, f"{procfs.describe(pid)} is not {state!r}"
        time.sleep(0.005)


def lines(stream: IO[str] | None, count: int) -> list[str]:
    assert stream is not None
    return [stream.readline().rstrip("\n") for _ in range(count)]
