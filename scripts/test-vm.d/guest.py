"""A guest that is up: how to enter it, and what to do to its power."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

SSH = ["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR",
       "-o", "IdentitiesOnly=yes", "-o", "ConnectTimeout=20", "-o", "ServerAliveInterval=20", "-F", "none"]  # fmt: skip


class NotUp(Exception):
    """It did not come up, and why."""


class NotProvisioned(Exception):
    """It is up, and the working tree can't be installed there."""


@dataclass(frozen=True)
class Guest:
    """`before`: what ssh is to be run by, to be where the guest can be reached. `on`: a command that switches it on."""

    address: str
    port: int
    key: Path
    console: Path
    before: Sequence[str] = ()
    on: Sequence[str] = ()

    def shell(self, user: str) -> list[str]:
        """A command; what is appended to it is run by a shell in a login session of that user."""
        return [*self.before, "ssh", *SSH, "-i", str(self.key), "-p", str(self.port), f"{user}@{self.address}"]

    def run(
        self, command: str, *, user: str = "root", timeout: float = 600, **options: object
    ) -> subprocess.CompletedProcess:
        if "input" not in options:
            options["stdin"] = subprocess.DEVNULL
        return subprocess.run([*self.shell(user), command], timeout=timeout, **options)


def say(text: str) -> None:
    print(f"\n== {text}", flush=True)
