"""Another, ordinary user, whom nobody else on the machine is."""

from __future__ import annotations

import os
import shlex
import subprocess

from support.tiers import missing


def spare_uid() -> int:
    """A user id without processes and without a name. Skips where this process may not become others."""
    if os.geteuid() != 0:
        missing("only root can start processes as another user")
    return 50_000 + os.getpid() % 10_000


def may_run(uid: int, *words: str) -> None:
    """Skips where that user can't: what it takes may be in a place that is closed to others, such as root's home."""
    command = ["setpriv", "--reuid", str(uid), "--regid", str(uid), "--clear-groups", *words]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode:
        missing(f"another user can't run {shlex.join(words)}: {done.stderr.strip().rpartition(os.linesep)[2]}")
