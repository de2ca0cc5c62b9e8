"""What a network of its own costs: `Popen(network=…)` against a plain one, in one supervisor, taking turns."""

from __future__ import annotations

import json
import os
import subprocess
import sys

from results import Row, rows

import allgone

PLAIN = "no network of its own"
_HOWS = (PLAIN, "private", "veth")
_SUPERVISOR = """
import json, sys, allgone
from time import perf_counter_ns
backend, rounds, first = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])

def took(network):
    began = perf_counter_ns()
    allgone.Popen(["sleep", "1000"], backend=backend, network=network).stop()
    return perf_counter_ns() - began

order = [None, "private", "veth"]
order = order[first:] + order[:first]
firsts = [took(network) for network in order]
samples = {str(network): [] for network in order}
for _ in range(rounds):
    for network in order:
        samples[str(network)].append(took(network))
    order.append(order.pop(0))
print(json.dumps([firsts[0], samples]))
"""


def measure(backends: list[str], rounds: int, supervisors: int, folder: str | None, left_out: list[str]) -> list[Row]:
    """In this many rounds of so many supervisors; what is the first of its interpreter, and imports, counts apart."""
    try:
        allgone.run(["true"], network="veth")
    except allgone.Unsupported as e:
        left_out.append(f"networks: {e}")
        return []
    found: list[Row] = []
    for backend in backends:
        samples: dict[str, list[int]] = {}
        for each in range(supervisors * len(_HOWS)):
            begins_with = each % len(_HOWS)
            first, later = _supervised(backend, rounds, begins_with, folder)
            samples.setdefault(f"network, {backend}, the first/{_HOWS[begins_with]}", []).append(first)
            for how, took in zip(_HOWS, (later[name] for name in ("None", "private", "veth")), strict=True):
                samples.setdefault(f"network, {backend}/{how}", []).extend(took)
        found += rows(samples, "-", PLAIN)
    return found


def _supervised(backend: str, rounds: int, first: int, folder: str | None) -> tuple[int, dict[str, list[int]]]:
    others = {name: value for name, value in os.environ.items() if not name.startswith("ALLGONE_")}
    environment = {**others, "ALLGONE_CGROUP": folder} if folder else others
    words = [sys.executable, "-c", _SUPERVISOR, backend, str(rounds), str(first)]
    took, later = json.loads(subprocess.run(words, stdout=subprocess.PIPE, check=True, env=environment).stdout)
    return took, later
