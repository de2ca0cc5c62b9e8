"""SIGKILL, wherever it strikes: a supervisor, its guard, both, a launcher. Nothing is left of what had been started."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from support import every_point, launchers, procfs
from support.backends import BackendUnderTest
from support.every_point import Bystanders, Traced, Tree, Trial
from support.tiers import missing


@pytest.fixture
def base(backend: BackendUnderTest, _cgroup_base_or_reason: tuple[str | None, str]) -> str | None:
    return _cgroup_base_or_reason[0] if backend.name == "cgroup" else None


@pytest.fixture
def bystanders(base: str | None) -> Iterator[Bystanders]:
    with closing(Bystanders(base)) as made:
        yield made


@pytest.fixture
def some(request: pytest.FixtureRequest) -> Callable[[int, int, int], list[int]]:
    """So many of the numbers from 1: the second many, with --run-slow the third many at most."""
    slow = request.config.getoption("--run-slow")
    return lambda last, few, most: random.sample(range(1, last + 1), min(last, most if slow else few))


@pytest.mark.timeout(1800)
def test_a_supervisor_killed_at_any_system_call_leaves_nothing(
    backend: BackendUnderTest, base: str | None, bystanders: Bystanders, some: Callable[[int, int, int], list[int]]
) -> None:
    """At every one of them with --run-slow; but most of those of process-group are looks at /proc."""
    with closing(Trial(backend, base)) as trial:
        every_point.warm_up(trial.live)
        stops = every_point.stops_of(trial.live)
        assert not trial.nothing_is_left()
    assert stops > 300, "the life of a supervisor takes more system calls than that"
    for stop in some(stops, 8, 600):
        with closing(Trial(backend, base)) as trial:
            every_point.killed_at(trial.live, stop)
            left = trial.nothing_is_left()
        assert not left, f"killed at stop {stop} of {stops}: {left}"
        assert bystanders.are_all_there(), f"killed at stop {stop}"


@pytest.mark.timeout(1800)
def test_of_a_supervisor_killed_with_its_guard_gc_leaves_nothing(
    backend: BackendUnderTest, base: str | None, bystanders: Bystanders, some: Callable[[int, int, int], list[int]]
) -> None:
    """Both at once, at any system call. Of process-group it knows no more than to list what is left."""
    with closing(Trial(backend, base)) as trial:
        every_point.warm_up(trial.live)
        stops = every_point.stops_of(trial.live)
    for stop in some(stops, 4, 300):
        with closing(Trial(backend, base)) as trial:
            traced = Traced(trial.live)
            try:
                all(traced.to_next_stop() for _ in range(stop))
                every_point.end_guards_of(traced.pid)
            finally:
                traced.kill()
            left = after_gc(trial, backend, base)
        assert not left, f"killed at stop {stop} of {stops}: {left}"
        assert bystanders.are_all_there(), f"killed at stop {stop}"


def after_gc(trial: Trial, backend: BackendUnderTest, base: str | None) -> str:
    """What is left after ``allgone gc``, but for processes of process-group that it lists, which are ended here."""
    for pid in every_point.gc(base):
        if backend.name == "process-group" and trial.has(pid):
            procfs.end(pid)
    return trial.nothing_is_left()


@pytest.fixture(params=[kind for kind in launchers.KINDS if kind != "aarch64"])
def kind(request: pytest.FixtureRequest) -> str:
    """Of guard and launcher."""
    return launchers.get(request.param, request).kind


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("alone", [False, True], ids=["with-all-it-runs", "alone"])
def test_of_a_guard_killed_at_its_work_gc_leaves_nothing(
    backend: BackendUnderTest, kind: str, alone: bool, base: str | None, bystanders: Bystanders,
    some: Callable[[int, int, int], list[int]],
) -> None:  # fmt: skip
    """At any system call of the guard and of the program that it runs. `alone`: one of the two is killed."""
    if os.geteuid() != 0:
        missing("a process that is nobody's child can be traced by root only")

    def killed_at(stop: int) -> int:
        with closing(Trial(backend, base)) as trial:
            supervisor = every_point.fork()
            if supervisor == 0:
                every_point.exits_with(trial.live_on)
            try:
                trial.lines.wait_for("ready")
                trial.lines.wait_for("started")
                (guard,) = every_point.guards_of(supervisor)
                tree = Tree(lambda: every_point.traced_from_now_on(guard), stop, alone=alone)
                tree.begins()
            finally:
                os.kill(supervisor, signal.SIGKILL)
                os.waitpid(supervisor, 0)
            count, _ = tree.ends()
            left = after_gc(trial, backend, base)
        assert not left, f"killed at stop {stop} of {count}: {left}"
        assert bystanders.are_all_there(), f"killed at stop {stop}"
        return count

    stops = killed_at(1 << 30)  # which is never
    assert stops > 100, "the work of a guard takes more system calls than that"
    for stop in some(stops, 1, 60):
        killed_at(stop)


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("alone", [False, True], ids=["with-its-supervisor", "alone"])
def test_of_a_child_killed_when_it_is_the_launcher_nothing_is_left(
    backend: BackendUnderTest, kind: str, alone: bool, base: str | None, bystanders: Bystanders,
    some: Callable[[int, int, int], list[int]],
) -> None:  # fmt: skip
    """At any system call from its birth to the exec of the command."""

    def killed_at(stop: int) -> int:
        with closing(Trial(backend, base)) as trial:
            supervisors: list[int] = []

            def begin() -> int:
                supervisors.append(every_point.traced_from_its_signal_on(trial.live_from_a_second_start_on))
                return supervisors[0]

            tree = Tree(
                begin, stop, alone=alone, counts=lambda pid: pid not in supervisors, leaves=lambda pid: runs(pid, "sh")
            )
            tree.begins()
            count, status = tree.ends()
            left = trial.nothing_is_left()
        assert not left, f"killed at stop {stop} of {count}: {left}"
        assert bystanders.are_all_there(), f"killed at stop {stop}"
        assert status in (every_point.SUCCEEDED, every_point.FAILED, -signal.SIGKILL), f"killed at stop {stop}"
        return count

    stops = killed_at(1 << 30)  # which is never
    assert stops > 10, "a launcher takes more system calls than that"
    for stop in some(stops, 4, 60):
        killed_at(stop)


def runs(pid: int, program: str) -> bool:
    return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0] == program.encode()


def test_gc_leaves_alone_what_has_only_a_name_like_ours(cgroup_base: str) -> None:
    with closing(Bystanders(cgroup_base)) as bystanders:
        every_point.gc(cgroup_base)
        assert bystanders.are_all_there()
        empty = f"{cgroup_base}/allgone-1-0000cafe"
        os.mkdir(empty)
        every_point.gc(cgroup_base)
        assert not os.path.exists(empty), "a supervisor that is killed before it marks it leaves one like this"
