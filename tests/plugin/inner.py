"""Test runs inside tests: their files, their processes, and what became of those."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import TracebackType

import pytest
from support.programs import PATIENCE, Lines

OPTIONS = ("-p", "no:cacheprovider", "-p", "no:asyncio", "-p", "no:randomly")

# A server of three processes that says so, and has a pipe by which it is known whether they are gone.
SERVER = """
import os, allgone, pytest

FIFO = os.environ["FIFO"]

def server(factory, words="ready"):
    script = f"exec 9>{FIFO}; sleep 120 & sleep 120 & echo {words} >&9; echo up; wait"
    return factory(["sh", "-c", script], ready=allgone.log_line("up"))
"""


def run(pytester: pytest.Pytester, *args: str) -> pytest.RunResult:
    """In a process of its own."""
    return pytester.runpytest_subprocess(*OPTIONS, *args, timeout=PATIENCE * 3)


class Run:
    """A test run that is not waited for. `lines` are what its servers say, and over when they are all gone."""

    def __init__(self, pytester: pytest.Pytester, *args: str, **variables: str) -> None:
        fifo = Path(pytester.path, "fifo")
        os.mkfifo(fifo)
        self.lines = Lines(os.open(fifo, os.O_RDONLY | os.O_NONBLOCK))
        self.process = subprocess.Popen(
            [sys.executable, "-m", "pytest", *OPTIONS, *args],
            cwd=pytester.path, env={**os.environ, "FIFO": str(fifo), **variables},
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    def ends(self) -> str:
        """What it printed."""
        return self.process.communicate(timeout=PATIENCE * 3)[0]

    def all_gone(self) -> bool:
        """Whether there were servers, and none of their processes is left (guards may take a moment)."""
        return bool(self.lines.are_over(PATIENCE) and self.lines.read)

    def __enter__(self) -> Run:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()
        self.lines.close()
