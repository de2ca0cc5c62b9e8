"""Counters: what an end adds, and a file that many add to at the same time, whatever becomes of them."""

from __future__ import annotations

import fcntl
import os
import signal
import struct
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from support.tiers import missing

from allgone._core import counters
from allgone._core.counters import Counts, Ending
from allgone._linux import counterfile

ADDS = """
import sys
from allgone._linux import counterfile
for _ in range(int(sys.argv[2])):
    counterfile.add(sys.argv[1], [1.0] * 100)
    print(flush=True)
"""


def of(ending: Ending) -> Counts:
    return Counts(ending.counts())


def test_an_end_is_counted_where_it_belongs() -> None:
    ending = Ending("process-group", "guard", 3, False, 5, 2, 1, 4, 0.5)
    counts = of(ending)
    assert counts.of("process-group", "stops", "guard") == 3
    assert counts.of("process-group", "stops", "supervisor") == counts.of("cgroup", "stops", "guard") == 0
    names = ("stopped_processes", "killed_processes", "escaped_processes", "oom_kills", "cpu_seconds", "stop_seconds")
    assert [counts.of("process-group", name) for name in names] == [5, 2, 1, 4, 0.5, 0]
    failed = of(replace(ending, failed=True))
    assert failed.of("process-group", "stops", "guard") == 0
    assert failed.of("process-group", "stop_failures", "guard") == 3


@pytest.mark.parametrize(("took", "first"), [(0.0, 0.001), (0.001, 0.001), (0.5, 1.0), (1e9, float("inf"))])
def test_how_long_it_took_is_in_each_bucket_from_its_own_on(took: float, first: float) -> None:
    counts = of(Ending("cgroup", "supervisor", stop_seconds=took))
    assert [bound for bound, number in counts.buckets("cgroup") if number] == [
        bound for bound in (*counters.BOUNDS, float("inf")) if bound >= first
    ]
    assert counts.of("cgroup", "stop_seconds") == took
    assert not any(number for _, number in counts.buckets("process-group"))


def test_every_number_has_a_place_of_its_own_and_all_fit_into_a_slot() -> None:
    found = [
        Ending(backend, by, failed=failed, stop_seconds=took).counts()
        for backend in counters.BACKENDS
        for by in counters.BY
        for failed in (False, True)
        for took in (None, *counters.BOUNDS, 1e9)
    ]
    assert len({tuple(map(bool, each)) for each in found}) == len(found)
    assert counters.COUNT * 8 <= 1024


def test_whose_a_file_is_is_in_its_name() -> None:
    assert counters.uid_of(counters.file_name(1000)) == 1000
    for other in ("uid-0.counters-99", "uid-.counters-1", "uid-0.counters-1~", "x", "uid-99999999999.counters-1"):
        assert counters.uid_of(other) is None, other


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "counters")


def total(path: str, count: int = 100) -> list[float]:
    return counterfile.total(path, count, os.geteuid())


def test_what_threads_and_processes_add_at_the_same_time_is_all_there(path: str) -> None:
    def add() -> None:
        for _ in range(200):
            counterfile.add(path, [1.0] * 100)

    others = [subprocess.Popen([sys.executable, "-c", ADDS, path, "200"], stdout=subprocess.DEVNULL) for _ in range(3)]
    threads = [threading.Thread(target=add) for _ in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert [each.wait(60) for each in others] == [0] * 3
    assert total(path) == [1400.0] * 100


def test_sigkill_tears_nothing_and_loses_nothing_that_was_added(path: str) -> None:
    done = 0
    for n in range(10):
        with subprocess.Popen([sys.executable, "-c", ADDS, path, "100000"], stdout=subprocess.PIPE) as adds:
            assert adds.stdout is not None
            for _ in range(n * 7 + 1):
                adds.stdout.readline()
            adds.send_signal(signal.SIGKILL)
            done += n * 7 + 1 + len(adds.stdout.readlines())
    found = total(path)
    assert len(set(found)) == 1
    assert done <= found[0] <= done + 10


def lock(fd: int, start: int, length: int) -> None:
    fcntl.fcntl(fd, fcntl.F_OFD_SETLK, struct.pack("hhqqi0q", fcntl.F_WRLCK, os.SEEK_SET, start, length, 0))


def test_nobody_waits_for_one_who_has_a_slot_and_stands_still(path: str) -> None:
    counterfile.add(path, [1.0])
    held = os.open(path, os.O_RDWR)
    try:
        lock(held, 0, 1024)
        counterfile.add(path, [1.0])
        assert total(path, 1) == [2.0]
        assert os.path.getsize(path) <= 2048
        lock(held, 0, 0)  # all there is
        with pytest.raises(OSError, match="locked"):
            counterfile.add(path, [1.0])
        assert total(path, 1) == [2.0]
    finally:
        os.close(held)


def test_a_file_stays_as_small_as_it_is(path: str) -> None:
    for _ in range(50):
        counterfile.add(path, [1.0] * 100)
    assert os.path.getsize(path) <= 1024


@pytest.mark.parametrize("what", ["symlink", "hard link", "fifo", "directory", "other user's"])
def test_what_is_not_a_file_of_this_user_alone_is_neither_written_nor_read(what: str, path: str) -> None:
    other = path + "-other"
    Path(other).write_bytes(b"precious")
    if what == "symlink":
        os.symlink(other, path)
    elif what == "hard link":
        os.link(other, path)
    elif what == "fifo":
        os.mkfifo(path)
    elif what == "directory":
        os.mkdir(path)
    else:
        if os.geteuid() != 0:
            missing("only root can give a file away")
        counterfile.add(path, [1.0])
        os.chown(path, 4711, -1)
    for act in (lambda: counterfile.add(path, [1.0]), lambda: total(path, 1)):
        with pytest.raises(OSError):  # noqa: PT011  # ELOOP, EPERM, EISDIR, ENXIO
            act()
    assert Path(other).read_bytes() == b"precious"
