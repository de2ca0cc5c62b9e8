"""A machine of one's own, in a guest of scripts/test-vm: supervisors in it, as systemd and its users would start them."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

from support.programs import PATIENCE

IS_OURS = os.environ.get("ALLGONE_REAL_MACHINE") == "1"
"""Whether it is there to be starved, filled and rebooted: scripts/test-vm says so."""
SERVICE = ("systemd-run", "--quiet", "--pipe", "--wait", "--collect", "--setenv=PYTHONDONTWRITEBYTECODE=1")
"""What makes a command a service of the system's."""
CGROUPS = Path("/sys/fs/cgroup")
_PRELUDE = """
import errno, json, os, signal, subprocess, sys, threading, time, warnings
import allgone

def put(path, text):
    with open(path, "w") as f:
        f.write(text)

def counts(path):
    with open(path) as f:
        return {name: int(value) for name, value in map(str.split, f)}

def until(what, within=60):
    end = time.monotonic() + within
    while not what():
        assert time.monotonic() < end
        time.sleep(0.01)

def held(process):
    return [os.pidfd_open(pid) for pid in process.members()]

def all_end(pidfds, within=60):
    import select
    for fd in pidfds:
        assert select.select([fd], [], [], within)[0], "it lives on"
"""


def supervisor(code: str, *arguments: object, before: Sequence[str] = ()) -> list[str]:
    """A command that runs the code, which may use what _PRELUDE defines, below the command `before`."""
    return [*before, sys.executable, "-W", "error", "-c", _PRELUDE + textwrap.dedent(code), *map(str, arguments)]


def environment() -> dict[str, str]:
    """As if nobody had set up cgroups for tests: whoever runs in it asks systemd."""
    return {name: value for name, value in os.environ.items() if name != "ALLGONE_CGROUP"}


def supervised(code: str, *arguments: object, before: Sequence[str] = (), status: int = 0) -> str:
    """Run it to its end, which has that status. Returns what it printed."""
    done = subprocess.run(
        supervisor(code, *arguments, before=before), env=environment(), capture_output=True, text=True, check=False,
        timeout=PATIENCE * 4,
    )  # fmt: skip
    assert done.returncode == status, f"exit status {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def traces() -> list[str]:
    """What there is of allgone on this machine: units, loaded or failed, and cgroups that no test run made."""
    listed = subprocess.run(
        ["systemctl", "list-units", "--all", "--plain", "--no-legend", "allgone-*"],
        stdout=subprocess.PIPE, text=True, check=True,
    ).stdout  # fmt: skip
    found = [folder for folder, _, _ in os.walk(CGROUPS)]  # which does not mind those that go meanwhile
    ours = [each for each in found if os.path.basename(each).startswith("allgone-") and "allgone-test-" not in each]
    return [*(line.split()[0] for line in listed.splitlines()), *ours]
