"""What a containment uses."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Stalled:
    """How long processes could not go on, for want of something (Documentation/accounting/psi.rst).

    avg10, avg60, avg300
        Per cent of the time in the last 10, 60 and 300 seconds.
    total
        Seconds in all.
    """

    avg10: float
    avg60: float
    avg300: float
    total: float


@dataclass(frozen=True, slots=True)
class Pressure:
    """Want of one resource: `some` is the time in which one process or more waited for it, `full` that in which all did
    that could have run otherwise (None where the kernel does not tell: of the CPU, before Linux 5.13)."""

    some: Stalled
    full: Stalled | None


@dataclass(frozen=True, slots=True)
class Usage:
    """What all processes of a containment have used together, those that had ended included. See cgroup-v2.rst.

    What the kernel does not tell is None: a controller is not there, a file is of a newer kernel.

    cpu_user, cpu_system
        Seconds (``cpu.stat``).
    memory, memory_peak
        Bytes now (``memory.current``), and the most at a time (``memory.peak``, Linux 5.19).
    tasks, tasks_peak
        Processes and threads now (``pids.current``), and the most at a time (``pids.peak``).
    io_read_bytes, io_write_bytes, io_reads, io_writes
        Bytes and operations of all block devices together (``io.stat``).
    oom_kills
        Processes that the kernel has killed for want of memory (``oom_kill`` in ``memory.events``).
    cpu_pressure, memory_pressure, io_pressure
        Want of the CPU, of memory, of block devices (``cpu.pressure``, ``memory.pressure``, ``io.pressure``).
    approximate
        Whether it is a sum over processes, for the kernel keeps no books on a process group.
    """

    cpu_user: float
    cpu_system: float
    oom_kills: int | None = None
    memory: int | None = None
    memory_peak: int | None = None
    tasks: int | None = None
    tasks_peak: int | None = None
    io_read_bytes: int | None = None
    io_write_bytes: int | None = None
    io_reads: int | None = None
    io_writes: int | None = None
    cpu_pressure: Pressure | None = None
    memory_pressure: Pressure | None = None
    io_pressure: Pressure | None = None
    approximate: bool = False


@dataclass(frozen=True, slots=True)
class Spent:
    """What processes have used up; `io_read_bytes` and `io_write_bytes` are None where nobody may know."""

    cpu_user: float = 0.0
    cpu_system: float = 0.0
    io_read_bytes: int | None = 0
    io_write_bytes: int | None = 0


def approximate(parts: Iterable[Spent], memory: int | None = None, tasks: int | None = None) -> Usage:
    """The usage of a process group."""
    spent = in_all(parts)
    return Usage(
        spent.cpu_user, spent.cpu_system, memory=memory, tasks=tasks, io_read_bytes=spent.io_read_bytes,
        io_write_bytes=spent.io_write_bytes, approximate=True,
    )  # fmt: skip


def in_all(parts: Iterable[Spent]) -> Spent:
    """Their sum; what is not known of one is not known of all.

    >>> in_all([Spent(1.5, 0.5, 100, None), Spent(0.5, 0.25, 200, 7)])
    Spent(cpu_user=2.0, cpu_system=0.75, io_read_bytes=300, io_write_bytes=None)
    """
    known = list(parts)
    return Spent(
        sum(each.cpu_user for each in known),
        sum(each.cpu_system for each in known),
        _sum([each.io_read_bytes for each in known]),
        _sum([each.io_write_bytes for each in known]),
    )


def _sum(numbers: list[int | None]) -> int | None:
    known = [each for each in numbers if each is not None]
    return sum(known) if len(known) == len(numbers) else None
