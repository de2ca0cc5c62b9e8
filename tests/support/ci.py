"""Recipes of docs/ci put where they belong, below a directory; and a job that leaves behind what it can."""

from __future__ import annotations

import errno
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from docs import pages
from support.programs import PATIENCE, PROGRAMS, Held, Lines

PYTHON = f"{sys.executable} -S -B"  # on Debian none is called python
# What it starts tells who it is, and goes on when the job has ended. Each ends by itself after two minutes.
JOB = f"""
start() {{
  exec 3< <(exec "$@")
  while read -r line <&3 && [ "$line" != ready ]; do echo "$line"; done
}}
start {PYTHON} {PROGRAMS}/double_fork_daemon.py
start {PYTHON} {PROGRAMS}/ignores_sigterm.py
env -i setsid sleep 100 & echo "bare $!"
start {PYTHON} {PROGRAMS}/listens.py --daemon tcp 127.0.0.1 "$PORT"
echo "started all"
read -r _ <"$GO"
"""
ROLES = ("escaped", "child", "bare")


def recipe(page: str) -> dict[str, str]:
    """The files that a page of docs/ci shows: path -> text."""
    found = pages.blocks(pages.ROOT / "docs/ci" / page)
    return {name: block.text for block in found if (name := block.mark("file")) is not None}


class Site:
    """A machine's files below `root`, with the recipe of a page, and `allgone` in PATH."""

    def __init__(self, root: Path, page: str, port: int) -> None:
        self.root = root
        self.go = root / "go"
        os.mkfifo(self.go)
        self.port = port
        self.place("/usr/bin/allgone", f'#!/bin/sh\nexec {sys.executable} -m allgone "$@"\n')
        for path, text in recipe(page).items():
            self.place(path, text)
        self.environment = {
            **os.environ,
            "PATH": f"{root}/usr/bin:{os.environ['PATH']}",
            "GO": str(self.go),
            "PORT": str(self.port),
        }

    def place(self, path: str, text: str) -> Path:
        """An executable file. Nobody has the patience that it has."""
        placed = self.root / path.lstrip("/")
        placed.parent.mkdir(parents=True, exist_ok=True)
        for folder in ("/etc/ci/", "/var/lib/ci/", "/run/ci/"):
            text = text.replace(folder, f"{self.root}{folder}")
        text = re.sub(r"--timeout-stop \d+s", "--timeout-stop 500ms", text)
        placed.write_text(text, encoding="utf-8")
        placed.chmod(0o755)
        return placed

    def port_is_held(self) -> bool:
        with socket.socket() as s:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # for that of who has connected: TIME_WAIT
            try:
                s.bind(("127.0.0.1", self.port))
            except OSError as e:
                if e.errno != errno.EADDRINUSE:
                    raise
                return True
        return False

    def start(self, *command: str, **options: Any) -> Run:
        return Run(self, command, **options)


class Run:
    """A runner at work. Leaving the block ends it, and what its job has started."""

    def __init__(self, site: Site, command: Sequence[str], **options: Any) -> None:
        reader, writer = os.pipe()
        self._site = site
        self.lines = Lines(reader)
        self.job: dict[str, Held] = {}
        options = {"env": site.environment, "cwd": site.root, "stdin": subprocess.PIPE, **options}
        self.process = subprocess.Popen(command, stdout=writer, stderr=writer, text=True, **options)
        os.close(writer)

    def wait_for_job(self) -> None:
        """Until it has started all that it is to start; it waits then for `let_go()`."""
        self.lines.wait_for("started", "all")
        for line in self.lines.read:
            role, _, pid = line.partition(" ")
            if role in ROLES and pid.isdigit():
                self.job[role] = Held(int(pid))
        assert set(self.job) == set(ROLES)
        with socket.create_connection(("127.0.0.1", self._site.port), timeout=30):
            pass

    def let_go(self) -> None:
        with open(self._site.go, "w", encoding="ascii") as f:
            f.write("on\n")

    def say(self, line: str) -> None:
        """To the runner's stdin."""
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def assert_nothing_is_left(self, within: float = 0.0) -> None:
        assert [role for role, held in self.job.items() if not held.ends_within(within)] == []
        deadline = time.monotonic() + within
        while self._site.port_is_held() and time.monotonic() < deadline:
            time.sleep(0.01)  # it has no event
        assert not self._site.port_is_held()

    def ended(self) -> int:
        """Its exit status, once there is nothing more to read from its stdin."""
        if self.process.stdin is not None:
            self.process.stdin.close()
        return self.process.wait(PATIENCE)

    def text(self) -> str:
        """All that it and its job have said, once it is over."""
        assert self.lines.are_over(PATIENCE)
        return "\n".join(self.lines.read)

    def __enter__(self) -> Run:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self.process.stdin is not None:
            self.process.stdin.close()
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        for held in self.job.values():
            held.end()
            held.close()
        self.lines.close()
