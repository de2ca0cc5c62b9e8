"""What has been used: by a cgroup's own books (cgroup-v2.rst), or by those that the kernel keeps on each process."""

from __future__ import annotations

import errno
from collections.abc import Iterable
from typing import TYPE_CHECKING

from allgone._core.usage import Pressure, Spent, Stalled, Usage, approximate
from allgone._linux.cgroupfs import read

if TYPE_CHECKING:
    from psutil import Process


def of_cgroup(folder: str, *, pressure: bool) -> Usage | None:
    """What has been used in it and below it; None once it is gone, and where it can't be read: it is asked on the way
    to the removal, which must not fail because there are no fds left.

    Without `pressure` that is left out: three more files to read.
    """
    try:
        stat = read(folder + "/cpu.stat").split()
        controllers = read(folder + "/cgroup.controllers").split()  # in place of a failed open() for each missing one
        memory = _numbers(folder, "memory", "current", "peak") if b"memory" in controllers else (None, None)
        killed = _oom_kills(folder) if b"memory" in controllers else None
        tasks = _numbers(folder, "pids", "current", "peak") if b"pids" in controllers else (None, None)
        io = _io(read(folder + "/io.stat")) if b"io" in controllers else (None,) * 4
        pressures = [_pressure(folder, each) for each in ("cpu", "memory", "io")] if pressure else (None,) * 3
    except OSError:
        return None
    spent = dict(zip(stat[::2], stat[1::2], strict=True))
    user, system = int(spent[b"user_usec"]) / 1e6, int(spent[b"system_usec"]) / 1e6
    return Usage(user, system, killed, *memory, *tasks, *io, *pressures)


def _oom_kills(folder: str) -> int:
    """Those that were in the cgroup or below it, whoever had no memory left."""
    words = read(folder + "/memory.events").split()
    return int(dict(zip(words[::2], words[1::2], strict=True))[b"oom_kill"])


def _numbers(folder: str, controller: str, *names: str) -> list[int | None]:
    return [_number(f"{folder}/{controller}.{name}") for name in names]


def _number(path: str) -> int | None:
    text = _read_if_there(path)
    return None if text is None else int(text)


def _read_if_there(path: str) -> bytes | None:
    try:
        return read(path)
    except OSError as e:
        if e.errno in (errno.ENOENT, errno.ENODEV, errno.EOPNOTSUPP):  # of a newer kernel; the last: psi=0
            return None
        raise


def _io(text: bytes) -> list[int]:
    """Bytes read and written, and in how many operations: the sums over the devices in the text of io.stat."""
    words = [word.partition(b"=") for word in text.split()]
    return [sum(int(value) for key, _, value in words if key == name) for name in _IO]


_IO = (b"rbytes", b"wbytes", b"rios", b"wios")


def _pressure(folder: str, of: str) -> Pressure | None:
    text = _read_if_there(f"{folder}/{of}.pressure")
    return None if text is None else parsed_pressure(text)


def parsed_pressure(text: bytes) -> Pressure | None:
    """The text of a pressure file (Documentation/accounting/psi.rst); None if there is nothing in it."""
    found: dict[bytes, Stalled] = {}
    for line in text.splitlines():
        kind, *pairs = line.split()
        value = dict(pair.split(b"=") for pair in pairs)
        found[kind] = Stalled(
            float(value[b"avg10"]), float(value[b"avg60"]), float(value[b"avg300"]), int(value[b"total"]) / 1e6
        )
    return Pressure(found[b"some"], found.get(b"full")) if b"some" in found else None


def of_processes(pids: Iterable[int], ended: Iterable[Spent]) -> Usage:
    """What these processes use, with those that they have waited for, and what has been used by those that `ended`.

    Memory is the sum of their resident sets: what they share is in it several times.
    """
    import psutil  # imported late: not needed by whoever only starts and stops

    spent, memory, tasks = list(ended), 0, 0
    for pid in pids:
        try:
            process = psutil.Process(pid)
            with process.oneshot():
                cpu = process.cpu_times()
                rss, threads = process.memory_info().rss, process.num_threads()
                is_zombie = process.status() == psutil.STATUS_ZOMBIE
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue  # gone; or hidden from us (hidepid=)
        user, system = cpu.user + cpu.children_user, cpu.system + cpu.children_system
        spent.append(Spent(user, system, *_io_of(process)))
        memory += rss
        tasks += 0 if is_zombie else threads
    return approximate(spent, memory, tasks)


def _io_of(process: Process) -> tuple[int | None, int | None]:
    import psutil

    try:
        io = process.io_counters()
    except (psutil.NoSuchProcess, psutil.AccessDenied, NotImplementedError):
        return None, None  # gone just now; another user's; a kernel without CONFIG_TASK_IO_ACCOUNTING
    return io.read_bytes, io.write_bytes
