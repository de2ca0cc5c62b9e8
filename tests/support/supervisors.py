"""Supervisors that are processes of their own: to be interrupted, forked, starved or run as another user."""

from __future__ import annotations

import inspect
import os
import signal
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any

from support.backends import BackendUnderTest
from support.programs import PATIENCE, Lines

_PRELUDE = """
from __future__ import annotations
import contextlib, errno, multiprocessing, os, resource, signal, subprocess, sys, threading, time, warnings
import allgone

def say(*words):
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())

"""


def say(*words: object) -> None:
    """In a supervisor: a line to the test that has started it."""
    raise AssertionError("only to be called in a supervisor")


class Supervisor:
    """Runs the source of `function`, called with a backend's options and `arguments`, in a Python of its own.

    The function may use `say`, what _PRELUDE imports and what the code `before` defines. Warnings are errors in it. Its
    stdout, and that of all that it starts, is `lines`: they are over when all of them are gone.
    """

    def __init__(
        self,
        function: Callable[..., object],
        backend: BackendUnderTest,
        *arguments: object,
        before: str = "",
        env: Mapping[str, str] | None = None,
        **options: Any,
    ) -> None:
        call = f"{function.__name__}({backend.options!r}, *{arguments!r})"
        script = f"{_PRELUDE}{before}\n{textwrap.dedent(inspect.getsource(function))}\n{call}"
        reader, writer = os.pipe()
        self.lines = Lines(reader)
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  # closed by close()
        self.process = subprocess.Popen(
            [sys.executable, "-W", "error", "-c", script],
            stdin=subprocess.DEVNULL,
            stdout=writer,
            stderr=self._errors,
            env={**os.environ, **(env or {})},
            **options,
        )
        os.close(writer)

    def interrupt(self) -> None:
        """What a terminal does on Ctrl-C, but to the supervisor only."""
        self.process.send_signal(signal.SIGINT)

    def ends(self) -> int:
        """Its return code. Raises subprocess.TimeoutExpired if it does not end in due time."""
        return self.process.wait(PATIENCE)

    def succeeds(self) -> None:
        """Fail the test with what it said on stderr, unless it ends with status 0."""
        status = self.ends()
        assert status == 0, f"exit status {status}\n{self.errors()}"

    def errors(self) -> str:
        """What it and its children have written to stderr."""
        self._errors.seek(0)
        return self._errors.read().decode()

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.lines.close()
        self._errors.close()

    def __enter__(self) -> Supervisor:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()
