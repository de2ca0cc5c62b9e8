"""The cgroup controllers: which there are, how they are handed down, and the files that limit (cgroup-v2.rst)."""

from __future__ import annotations

import errno
import math
import os
from collections.abc import Iterable, Iterator, Mapping

from allgone._linux import cgroupfs

_PERIOD = 100_000  # microseconds: the kernel's own
# For each of `Limits`: the controller, and its file.
_FILES = {
    "memory_max": ("memory", "memory.max"),
    "memory_high": ("memory", "memory.high"),
    "memory_swap_max": ("memory", "memory.swap.max"),
    "memory_oom_group": ("memory", "memory.oom.group"),
    "tasks_max": ("pids", "pids.max"),
    "cpu_quota": ("cpu", "cpu.max"),
    "cpu_weight": ("cpu", "cpu.weight"),
    "io_weight": ("io", "io.weight"),
}
ALL = ("cpu", "io", "memory", "pids")
_V1_NAMES = {"io": "blkio"}


def of(limits: Iterable[str]) -> frozenset[str]:
    """The controllers that these limits take."""
    return frozenset(_FILES[name][0] for name in limits)


def file_of(limit: str) -> str:
    return _FILES[limit][1]


def available(folder: str) -> frozenset[str]:
    """Those that cgroups below it can have: its cgroup.controllers."""
    return _words(folder + "/cgroup.controllers")


def handed_down(folder: str) -> frozenset[str]:
    """Those that cgroups below it have: its cgroup.subtree_control."""
    return _words(folder + "/cgroup.subtree_control")


def _words(path: str) -> frozenset[str]:
    return frozenset(cgroupfs.read(path).decode().split())


def hand_down(folder: str, controllers: Iterable[str]) -> None:
    """Raises OSError: EBUSY where processes are in it, ENOENT where it has not got one of them."""
    text = " ".join(f"+{each}" for each in sorted(controllers))
    cgroupfs.write(folder + "/cgroup.subtree_control", text.encode())


def missing_because(controller: str) -> str:
    """Why cgroup v2 has not got it on this machine; "" if that is not known."""
    name = _V1_NAMES.get(controller, controller)
    try:
        table = cgroupfs.read("/proc/cgroups").decode().splitlines()
    except FileNotFoundError:
        return ""
    rows = {row.split()[0]: row.split()[1:] for row in table[1:]}
    if name not in rows or rows[name][2] == "0":
        return "the kernel was built or booted without it"
    return "cgroup v1 has it here" if rows[name][0] != "0" else ""


def limit(folder: str, limits: Mapping[str, int | float | str]) -> Iterator[tuple[str, OSError]]:
    """Write them. Yields those that the kernel does not take."""
    for name, value in limits.items():
        try:
            cgroupfs.write(f"{folder}/{_FILES[name][1]}", _text(name, value).encode())
        except OSError as e:
            yield name, e


def _text(name: str, value: int | float | str) -> str:
    if value == math.inf:
        return "max"
    if name == "cpu_quota":
        return f"{round(float(str(value).rstrip('%')) / 100 * _PERIOD)} {_PERIOD}"
    return str(int(value))


def move_all(folder: str, to: str) -> None:
    """Move every process in the one cgroup to another, which is made if it isn't there."""
    try:
        os.mkdir(to)
    except FileExistsError:
        pass  # made by another supervisor
    for pid in cgroupfs.procs(folder):
        try:
            cgroupfs.write(to + "/cgroup.procs", str(pid).encode())
        except OSError as e:
            if e.errno != errno.ESRCH:  # it has ended
                raise
