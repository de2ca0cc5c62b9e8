"""Tests that reboot the guest, switch it off, log in to it and out again: from outside."""

from __future__ import annotations

import json
import os
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

_UP_WITHIN = 240.0  # seconds


@dataclass(frozen=True)
class Guest:
    """Of scripts/test-vm, which tells of it in ALLGONE_VM."""

    root: list[str]
    user: list[str]
    console: Path
    on: list[str]

    def run(self, command: str, *, user: bool = False, check: bool = True, timeout: float = 120) -> str:
        """Its stdout. Run in a login session of root's or of the ordinary user's."""
        words = [*(self.user if user else self.root), command]
        done = subprocess.run(
            words, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout, check=False
        )
        assert done.returncode == 0 or not check, f"exit status {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def boot(self) -> str:
        """What no other of its boots is called; "" if it does not answer."""
        return self.run("cat /proc/sys/kernel/random/boot_id", check=False)

    def is_up_again(self, before: str) -> None:
        """Wait for the end of another boot than that. (libvirt begins the console's file anew when it is switched on.)

        It may answer late: with two guests that are emulated, sshd has taken more than 20 s for its first connection.
        """
        until = time.monotonic() + _UP_WITHIN
        while self.boot() in ("", before):
            assert time.monotonic() < until, f"it does not answer within {_UP_WITHIN} s"
            time.sleep(1)
        assert self.run("systemctl is-system-running --wait", check=False) == "running\n"

    def said(self, words: str) -> int:
        """How often its console has."""
        return self.console.read_text(errors="replace").count(words)

    def says(self, words: str, more_than: int, within: float = _UP_WITHIN) -> float:
        """Wait until its console has said that more often. Returns when, as time.monotonic() says."""
        until = time.monotonic() + within
        while self.said(words) <= more_than:
            assert time.monotonic() < until, f"{words!r} not said within {within} s"
            time.sleep(0.02)  # a file has no event for it
        return time.monotonic()


@pytest.fixture(scope="session")
def guest() -> Guest:
    if "ALLGONE_VM" not in os.environ:
        pytest.skip("needs a guest: scripts/test-vm")
    told = json.loads(os.environ["ALLGONE_VM"])
    return Guest(told["root"], told["user"], Path(told["console"]), told["on"])
