"""Scopes beside systemd-run and pystemd.run: under the systemd that runs here, or under one that is booted for it."""

from __future__ import annotations

import compileall
import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from results import Row, Target, rows, unit_targets

import allgone
from allgone._linux import systemd

CHECKOUT = Path(__file__).resolve().parents[2]
SYSTEMD_ENV = str(CHECKOUT / "scripts/systemd-env")
ROOT, USER = "root", "user"
WITHIN = 120  # seconds, so that a manager that does not answer ends the comparison and not the run
BASELINES = {
    "true": "bare",
    "true, apart": "bare",
    "exec": "bare",
    "stop": "systemd-run --scope",
    "first": "systemd-run --scope",
}


def measure(effort: dict[str, tuple[int, int]], left_out: list[str]) -> tuple[list[Row], list[Target]]:
    """`effort`: rounds and new interpreters, for ROOT and USER."""
    compileall.compile_dir(os.path.dirname(allgone.__file__), quiet=2)  # inside, what is bound can't be written to
    found: list[Row] = []
    targets: list[Target] = []
    with places(left_out) as here:
        for place, before in here.items():
            samples = _samples(before, *effort[place])
            if isinstance(samples, str):
                left_out.append(f"scopes, {place}: {samples}")
                continue
            for what, baseline in BASELINES.items():
                found += rows({k: v for k, v in samples.items() if k.split("/")[0] == what}, place, baseline)
            targets += unit_targets(found, place)
    return found, targets


def _samples(before: list[str], rounds: int, interpreters: int) -> dict[str, list[int]] | str:
    """What was measured there, or why nothing was."""
    program = [sys.executable, str(Path(__file__).with_name("unit_supervisor.py")), str(rounds), str(interpreters)]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("ALLGONE_")}
    try:
        done = subprocess.run([*before, *program], env=environment, capture_output=True, text=True, timeout=WITHIN)
    except subprocess.TimeoutExpired:
        return f"not done within {WITHIN} s"
    if done.returncode:
        return (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1]
    found: dict[str, list[int]] = json.loads(done.stdout)
    return found


@contextlib.contextmanager
def places(left_out: list[str]) -> Iterator[dict[str, list[str]]]:
    """By name, what is put before a command to run it where a manager of systemd hands out scopes."""
    why_not = systemd.pystemd_missing_because()
    if not why_not and systemd.is_running():
        # As root in a service of its own: in one with Delegate=yes, which we may be in, no scope is made.
        own = {ROOT: ["systemd-run", "--quiet", "--pipe", "--wait", "--collect", "--"]}
        yield own if os.getuid() == 0 else {USER: []}
        return
    if os.getuid() != 0:
        why_not = "systemd does not run here, and to boot one needs root"
    if why_not:
        left_out.append(f"scopes, systemd-run and pystemd.run: {why_not}")
        yield {}
        return
    name = f"bench-{os.getpid()}"
    bound = {str(CHECKOUT), *(each for each in (sys.prefix, sys.base_prefix) if not each.startswith("/usr"))}
    options = [word for each in bound for word in ("--bind-ro", each)]
    try:
        booted = subprocess.run([SYSTEMD_ENV, "up", name, *options], capture_output=True, text=True)
        if booted.returncode:
            left_out.append(f"scopes, systemd-run and pystemd.run: {booted.stderr.strip()}")
            yield {}
            return
        run = [SYSTEMD_ENV, "run", name]
        places = {ROOT: [*run, "--"]}
        if subprocess.run([*run, "useradd", "--create-home", "bench"]).returncode == 0:
            places[USER] = [*run, "--user", "bench", "--"]
        else:
            left_out.append("scopes of a user: see above")
        yield places
    finally:
        # A failed "up" has left nothing, which "down" complains about; a killed one has.
        subprocess.run([SYSTEMD_ENV, "down", name], stderr=subprocess.DEVNULL)
