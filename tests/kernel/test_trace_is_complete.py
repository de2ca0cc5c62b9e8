"""Every fork, exec and exit is in the genealogy, or counted as lost."""

from __future__ import annotations

import collections
import os
import re
import shutil
import sys
from pathlib import Path

import pytest
from support.machine import IS_OURS
from support.tiers import missing

import allgone
from allgone._core.genealogy import Genealogy, Life
from allgone._linux import procevents

# Emulated guests take a hundred times as long (scripts/test-vm).
FILES, PROGRAMS, ROUNDS = (10, 100, 6) if IS_OURS else (200, 2000, 60)


def traced(args: list[str], **options: object) -> Genealogy:
    report = allgone.run(args, trace=True, check=True, **options).report
    assert report.genealogy is not None
    return report.genealogy


def is_complete_or_says_so(found: Genealogy, lives: int, execs: int) -> bool:
    """Whether all that is not there is counted; each that began ended, with 0."""
    assert all(life.returncode in (0, None) for life in found.lives)
    missing = lives - len(found.lives)
    missing += execs - sum(len(life.execs) for life in found.lives)
    missing += sum(life.ended is None or life.began is None for life in found.lives)
    return missing == 0 if found.lost == 0 else missing <= found.lost


def test_thousands_that_live_for_a_millisecond() -> None:
    found = traced(["sh", "-c", f"i=0; while [ $i -lt {PROGRAMS} ]; do /bin/true; i=$((i+1)); done"])
    assert is_complete_or_says_so(found, lives=1 + PROGRAMS, execs=1 + PROGRAMS)
    assert {life.parent for life in found.lives[1:]} == {found.lives[0].pid}


BOMB = f"""
import os
for _ in range({ROUNDS}):
    for _ in range(50):
        if os.fork() == 0:
            os._exit(0)
    for _ in range(50):
        os.wait()
"""


@pytest.mark.parametrize("size", [1, procevents.RECEIVE_BUFFER], ids=["a buffer for a few", "a large buffer"])
def test_what_the_kernel_drops_of_a_fork_bomb_is_counted(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(procevents, "RECEIVE_BUFFER", size)
    found = traced([sys.executable, "-S", "-c", BOMB])
    assert is_complete_or_says_so(found, lives=1 + 50 * ROUNDS, execs=1)
    assert (found.lost > 0) is (size == 1)


def test_drops_are_as_many_as_the_kernels_numbers_of_events_have_gaps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(procevents, "RECEIVE_BUFFER", 1 << 14)
    with procevents.Subscription() as subscription:
        subscription.socket.setblocking(False)
        read: dict[int, set[int]] = {}
        read_one_of_each_cpu(subscription, read)
        for _ in range(200):
            fork_and_wait()
        drops = subscription.drops()
        read_one_of_each_cpu(subscription, read)
        gaps = sum(max(each) - min(each) + 1 - len(each) for each in read.values())
        assert 0 < drops <= gaps <= subscription.drops()  # others fork as well


def read_one_of_each_cpu(subscription: procevents.Subscription, read: dict[int, set[int]]) -> None:
    """What is queued, and then at least one event more of each CPU: what was dropped before is a gap by then."""
    cpus = os.sched_getaffinity(0)
    try:
        for cpu in cpus:
            merge(read, numbers(subscription))
            os.sched_setaffinity(0, {cpu})
            new: dict[int, set[int]] = {}
            while cpu not in new:  # those of others may be in the way
                fork_and_wait()
                merge(new, numbers(subscription))
            merge(read, new)
    finally:
        os.sched_setaffinity(0, cpus)


def fork_and_wait() -> None:
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)


def merge(into: dict[int, set[int]], more: dict[int, set[int]]) -> None:
    for cpu, each in more.items():
        into.setdefault(cpu, set()).update(each)


def numbers(subscription: procevents.Subscription) -> dict[int, set[int]]:
    """What waits to be read: the kernel counts the events of each CPU."""
    found = collections.defaultdict(set)
    while True:
        try:
            message = subscription.socket.recv(procevents.LONGEST)
        except BlockingIOError:
            return dict(found)
        cpu = procevents.EVENT.unpack_from(message, procevents.EVENT_AT)[1]
        found[cpu].add(int.from_bytes(message[24:28], sys.byteorder))


# A build, beside what strace says of the very same one


@pytest.fixture
def project(tmp_path: Path) -> Path:
    names = [f"part{n}" for n in range(FILES)]
    for n, name in enumerate(names):
        (tmp_path / f"{name}.c").write_text(f"int {name}(void) {{ return {n}; }}\n")
    calls = " + ".join(f"{name}()" for name in names)
    declarations = "".join(f"int {name}(void);\n" for name in names)
    (tmp_path / "main.c").write_text(f"{declarations}int main(void) {{ return ({calls}) == 0; }}\n")
    objects = " ".join(f"{name}.o" for name in ("main", *names))
    (tmp_path / "Makefile").write_text(f"all: {objects}\n\t$(CC) -o all {objects}\n%.o: %.c\n\t$(CC) -c -o $@ $<\n")
    return tmp_path


_LINE = re.compile(r"(?P<pid>\d+) +(?P<text>.*)")
_FORKED = re.compile(r"(?:clone3?|v?fork)(?:\(| resumed>).* = (\d+)$")
_EXECED = re.compile(r"execve(?:at)?(?:\(| resumed>).* = 0$")
_EXITED = re.compile(r"\+\+\+ exited with (\d+) \+\+\+$")


class Strace:
    """What strace has seen."""

    def __init__(self, log: Path) -> None:
        self.parents: dict[int, int] = {}
        self.execs: collections.Counter[int] = collections.Counter()
        self.exits: dict[int, int] = {}
        self.first = 0
        for line in log.read_text().splitlines():
            found = _LINE.match(line)
            assert found, line
            pid = int(found["pid"])
            self.first = self.first or pid
            if forked := _FORKED.search(found["text"]):
                self.parents[int(forked[1])] = pid
            elif _EXECED.search(found["text"]):
                self.execs[pid] += 1
            elif exited := _EXITED.search(found["text"]):
                self.exits[pid] = int(exited[1])


def below(found: Genealogy, top: int) -> dict[int, Life]:
    """The lives of `top` and its descendants."""
    chosen: dict[int, Life] = {}
    for life in found.lives:
        if life.pid == top or life.parent in chosen:
            assert life.pid not in chosen, "a number was given twice: run it again"
            chosen[life.pid] = life
    return chosen


def test_a_build_is_as_strace_saw_it(project: Path, tmp_path: Path) -> None:
    for program in ("strace", "make", "cc"):
        if shutil.which(program) is None:
            missing(f"{program} is not installed")
    log = tmp_path / "strace.log"
    make = ["make", "-s", "-j4", "-C", str(project)]
    found = traced(["strace", "-f", "-q", "-e", "trace=process", "-e", "signal=none", "-o", str(log), *make])
    assert found.lost == 0
    strace, ours = Strace(log), below(found, Strace(log).first)
    assert len(strace.exits) > 3 * FILES
    assert {pid: life.returncode for pid, life in ours.items()} == strace.exits
    assert {pid: life.parent for pid, life in ours.items() if pid != strace.first} == strace.parents
    assert {pid: len(life.execs) for pid, life in ours.items() if life.execs} == dict(strace.execs)
