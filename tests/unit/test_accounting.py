"""What is made of the cgroup's books: a directory with the files that a kernel with all controllers has."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from allgone import Pressure, Stalled, Usage
from allgone._core.usage import Spent, in_all
from allgone._linux import accounting

PSI = "some avg10=1.50 avg60=0.50 avg300=0.10 total=2000000\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=1500\n"
FULL = Pressure(Stalled(1.5, 0.5, 0.1, 2.0), Stalled(0.0, 0.0, 0.0, 0.0015))
FILES = {
    "cpu.stat": "usage_usec 1750000\nuser_usec 1500000\nsystem_usec 250000\nnice_usec 0\nnr_periods 0\n",
    "cgroup.controllers": "cpuset cpu io memory hugetlb pids\n",
    "memory.current": "4096\n",
    "memory.peak": "8192\n",
    "memory.events": "low 0\nhigh 0\nmax 7\noom 4\noom_kill 3\noom_group_kill 0\n",
    "pids.current": "2\n",
    "pids.peak": "12\n",
    # A device with costs, one that has not told anything yet, and one with discards.
    "io.stat": "8:16 rbytes=1459200 wbytes=314773504 rios=192 wios=353 dbytes=0 dios=0 cost.usage=31\n253:0 \n"
    "8:0 rbytes=100 wbytes=200 rios=1 wios=2 dbytes=50331648 dios=3021\n",
    "cpu.pressure": PSI,
    "memory.pressure": PSI,
    "io.pressure": PSI,
}


@pytest.fixture
def books(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        (tmp_path / name).write_text(text, encoding="ascii")
    return tmp_path


def usage(books: Path, *, pressure: bool = True) -> Usage:
    found = accounting.of_cgroup(os.fspath(books), pressure=pressure)
    assert found is not None
    return found


def test_all_is_told_where_all_is_there(books: Path) -> None:
    assert usage(books) == Usage(
        1.5, 0.25, 3, 4096, 8192, 2, 12, 1459300, 314773704, 193, 355, FULL, FULL, FULL, approximate=False
    )


def test_pressure_is_read_only_if_it_is_asked_for(books: Path) -> None:
    found = usage(books, pressure=False)
    assert (found.cpu_pressure, found.memory_pressure, found.io_pressure) == (None, None, None)
    assert found.io_reads == 193


@pytest.mark.parametrize(
    ("controllers", "missing"),
    [
        ("", {"oom_kills", "memory", "memory_peak", "tasks", "tasks_peak", "io_read_bytes", "io_write_bytes", "io_reads", "io_writes"}),
        ("memory pids", {"io_read_bytes", "io_write_bytes", "io_reads", "io_writes"}),
        ("io pids", {"oom_kills", "memory", "memory_peak"}),
        ("cpu io memory", {"tasks", "tasks_peak"}),
    ],
)  # fmt: skip
def test_without_a_controller_what_it_tells_is_none(books: Path, controllers: str, missing: set[str]) -> None:
    (books / "cgroup.controllers").write_text(controllers + "\n", encoding="ascii")
    found = usage(books)
    assert {name for name in Usage.__slots__ if getattr(found, name) is None} == missing


def test_files_of_a_newer_kernel_are_none(books: Path) -> None:
    for name in ("memory.peak", "pids.peak", "io.pressure"):
        (books / name).unlink()
    found = usage(books)
    assert (found.memory_peak, found.tasks_peak, found.io_pressure) == (None, None, None)
    assert (found.memory, found.tasks, found.cpu_pressure) == (4096, 2, FULL)


def test_no_io_was_no_io(books: Path) -> None:
    (books / "io.stat").write_text("", encoding="ascii")
    assert usage(books).io_read_bytes == 0


def test_the_cpu_had_no_full_before_linux_5_13(books: Path) -> None:
    (books / "cpu.pressure").write_text(PSI.splitlines()[0] + "\n", encoding="ascii")
    assert usage(books).cpu_pressure == Pressure(FULL.some, None)


def test_where_psi_is_switched_off_pressure_is_none(books: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = accounting.read

    def off(path: str) -> bytes:  # with psi=0 on the kernel's command line
        if path.endswith(".pressure"):
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
        return read(path)

    monkeypatch.setattr(accounting, "read", off)
    assert usage(books).cpu_pressure is None
    assert usage(books).tasks == 2


def test_what_can_not_be_read_is_none_and_no_error(books: Path, tmp_path: Path) -> None:
    assert accounting.of_cgroup(os.fspath(tmp_path / "gone"), pressure=True) is None
    (books / "memory.current").unlink()
    os.symlink("memory.current", books / "memory.current")  # ELOOP, in place of EMFILE
    assert accounting.of_cgroup(os.fspath(books), pressure=True) is None


def test_a_sum_says_nothing_of_what_is_not_known_of_all() -> None:
    assert in_all([]) == Spent(0, 0, 0, 0)
    assert in_all([Spent(1, 2, 3, 4), Spent(1, 2, None, 4)]) == Spent(2, 4, None, 8)
