"""Others that start and stop processes, in turns with us: where systemd runs, so that it is one of them."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import units
from results import Row, rows

WITHIN = 600  # seconds, after which a peer that hangs ends the comparison and not the run
BASELINE = "subprocess"


@dataclass(frozen=True)
class Peers:
    """`left`: how many processes were alive when the stop had returned, at most, by what and how."""

    rows: list[Row]
    left: dict[tuple[str, str], int]
    versions: dict[str, str]


def measure(rounds: int, cgroup: str | None, left_out: list[str]) -> Peers:
    """`cgroup`: where we may make some, where there is no systemd to ask."""
    with contextlib.ExitStack() as stack:
        place = stack.enter_context(units.places([])).get(units.ROOT, [])
        found = _measured(place, rounds, cgroup)
    if isinstance(found, str):
        left_out.append(f"peers: {found}")
        return Peers([], {}, {})
    left_out += [f"{name}: {why}" for name, why in found["left_out"].items()]
    left = {(what, how): n for name, n in found["left"].items() for what, how in [name.split("/")]}
    return Peers(rows(found["samples"], "-", BASELINE), left, found["versions"])


def _measured(place: list[str], rounds: int, cgroup: str | None) -> dict[str, dict] | str:
    program = [sys.executable, str(Path(__file__).with_name("peer_supervisor.py")), str(rounds)]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("ALLGONE_")}
    if cgroup is not None and not place:
        environment["ALLGONE_CGROUP"] = cgroup
    try:
        done = subprocess.run([*place, *program], env=environment, capture_output=True, text=True, timeout=WITHIN)
    except subprocess.TimeoutExpired:
        return f"not done within {WITHIN} s"
    if done.returncode:
        return (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1]
    return json.loads(done.stdout.splitlines()[-1])
