"""Starting the unruly programs of tests/programs, and knowing what became of them."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import allgone
from support import init

PROGRAMS = Path(__file__).parent.parent / "programs"
# Seconds that a test may take, at which pytest-timeout ends the whole run: what that one reads, or as in pyproject.toml.
TEST_LIMIT = float(os.environ.get("PYTEST_TIMEOUT", "180"))
TEST_WITHIN = TEST_LIMIT - 10  # seconds for what is all of a test
PATIENCE = TEST_LIMIT / 6  # seconds for something that takes milliseconds, on a machine that is busy with other things

# For sh, after "sleep 1000 &": until that fork of the shell is called sleep, and not sh any more.
UNTIL_SLEEP = 'until read -r comm </proc/$!/comm && [ "$comm" = sleep ]; do :; done'


def command(program: str, *arguments: str) -> list[str]:
    """The command line of an unruly program."""
    return [sys.executable, "-S", "-B", str(PROGRAMS / f"{program}.py"), *arguments]


def poll(fd: int, seconds: float) -> bool:
    """Whether `fd` is readable, or at its end, within so many seconds."""
    poller = select.poll()
    poller.register(fd, select.POLLIN)
    return bool(poller.poll(seconds * 1000))


class Lines:
    """The lines that come from a pipe; it reaches its end when nobody who could write to it is alive."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._rest = b""
        self.read: list[str] = []
        self.ended = False
        os.set_blocking(fd, False)

    def wait_for(self, *words: str) -> str:
        """The next line that begins with `words`. Raises TimeoutError or EOFError with what came instead."""
        deadline = time.monotonic() + PATIENCE
        seen = 0
        while True:
            for line in self.read[seen:]:
                if line.split()[: len(words)] == list(words):
                    return line
            seen = len(self.read)
            if self.ended:
                raise EOFError(f"no line {words}, but {self.read}")
            if not poll(self._fd, deadline - time.monotonic()):
                raise TimeoutError(f"no line {words}, but {self.read}")
            self._take()

    def _take(self) -> None:
        try:
            chunk = os.read(self._fd, 1 << 16)
        except BlockingIOError:
            return
        self.ended = not chunk
        *whole, self._rest = (self._rest + chunk).split(b"\n")
        self.read += [line.decode() for line in whole if not line.startswith(b"xxx")]

    def are_over(self, within: float = 0.0) -> bool:
        """Whether every process that had the pipe is gone: by default now, at once."""
        deadline = time.monotonic() + within
        while not self.ended and poll(self._fd, max(0.0, deadline - time.monotonic())):
            self._take()
        return self.ended

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


class Held:
    """A process that was alive when it was announced, held by a pidfd: no other can be mistaken for it."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._fd = os.pidfd_open(pid)
        self._is_ours = _is_below_us(pid)

    def is_alive(self) -> bool:
        return not poll(self._fd, 0)

    def ends_within(self, seconds: float) -> bool:
        return poll(self._fd, seconds)

    def send(self, signum: int) -> None:
        """A signal, if it is a process of this test run's."""
        try:
            if self._is_ours:
                signal.pidfd_send_signal(self._fd, signum)
        except ProcessLookupError:
            pass

    def end(self) -> None:
        """SIGKILL, and wait until it is dead."""
        self.send(signal.SIGKILL)
        if self._is_ours:
            poll(self._fd, PATIENCE)

    def close(self) -> None:
        os.close(self._fd)


def _is_below_us(pid: int) -> bool:
    """Whether it descends from the init of this test run (from this process, where it has none)."""
    top = init.pid or os.getpid()
    while pid > 1 and pid != top:
        try:
            with open(f"/proc/{pid}/stat", "rb") as f:
                pid = int(f.read().rsplit(b")", 1)[1].split()[1])
        except (FileNotFoundError, ProcessLookupError):
            return False
    return pid == top


class Started:
    """An unruly program under test. All its processes have the write end of one pipe as their stdout.

    Leaving the block ends what is left of it, also what has escaped, and closes everything.
    """

    def __init__(
        self, start: Callable[..., allgone.Popen], args: Sequence[str], announce: str = "ready", **options: Any
    ) -> None:
        reader, writer = os.pipe()
        self.lines = Lines(reader)
        self._held: dict[str, Held] = {}
        try:
            self.process = start(args, stdin=subprocess.DEVNULL, stdout=writer, **options)
        except BaseException:
            self.lines.close()
            raise
        finally:
            os.close(writer)
        try:
            self.lines.wait_for(announce)
            for line in self.lines.read:
                self._hold(*line.split())
        except BaseException:
            self.close()
            raise

    def _hold(self, role: str, *words: str) -> None:
        if words and words[0].isdigit() and role not in self._held:
            self._held[role] = Held(int(words[0]))

    @property
    def roles(self) -> frozenset[str]:
        """Who has announced itself."""
        return frozenset(self._held)

    def __getitem__(self, role: str) -> Held:
        return self._held[role]

    def heard(self, role: str) -> list[str]:
        """The signals that it says it has heard so far."""
        self.lines.are_over()
        return [line.removeprefix(f"{role} ") for line in self.lines.read if line.startswith(f"{role} SIG")]

    def stop(self, policy: allgone.StopPolicy | None = None) -> allgone.Report:
        return self.process.stop(policy)

    def all_gone(self) -> bool:
        """Whether nothing of it is alive, right now."""
        return self.lines.are_over()

    def close(self) -> None:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", allgone.EscapedProcessWarning)
                self.process.stop(allgone.StopPolicy(timeout_stop=0))
        finally:
            for held in self._held.values():
                held.end()
                held.close()
            self._held.clear()
            self.lines.close()

    def __enter__(self) -> Started:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()
