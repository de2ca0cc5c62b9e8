"""The guard and the janitor when one of their own system calls fails: nothing is left in the end, and gc sees to it."""

from __future__ import annotations

import collections
import errno
import os
import random
import signal
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from support import every_point, launchers, procfs
from support.backends import BACKENDS, BackendUnderTest
from support.every_point import ERRORS, Bystanders, Tree, Trial
from support.tiers import missing

import allgone
from allgone._upkeep import inventory, janitor

NEVER = 1 << 30


@pytest.fixture(autouse=True)
def _x86_64() -> None:
    if not every_point.CAN_FAIL_CALLS:
        missing("system calls are made to fail on x86_64 only")


@pytest.fixture
def bystanders(cgroup_base: str) -> Iterator[Bystanders]:
    with closing(Bystanders(cgroup_base)) as made:
        yield made


@pytest.fixture(params=BACKENDS, ids=lambda each: each.label)
def backend(request: pytest.FixtureRequest) -> BackendUnderTest:
    chosen: BackendUnderTest = request.param
    return chosen


@pytest.fixture(params=[kind for kind in launchers.KINDS if kind != "aarch64"])
def kind(request: pytest.FixtureRequest) -> str:
    return launchers.get(request.param, request).kind


def is_guard(pid: int) -> bool:
    """Whether it is a guard or what that runs, and not the fork of a supervisor that will be one."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except (FileNotFoundError, ProcessLookupError):
        return False
    return any(os.path.basename(word) in (b"allgone-guard", b"interpreted_guard.py", b"guard.py") for word in words[:5])


def is_at_another(pid: int) -> bool:
    return not is_guard(pid)


@pytest.mark.timeout(3600)
def test_a_guard_of_which_a_system_call_fails_leaves_nothing_that_gc_does_not_find(
    backend: BackendUnderTest, kind: str, cgroup_base: str, bystanders: Bystanders, request: pytest.FixtureRequest
) -> None:
    """Any of its calls, from its start to its end, and of the program that it runs; more of them with --run-slow."""
    slow = request.config.getoption("--run-slow")
    base = cgroup_base if backend.name == "cgroup" else None
    with closing(Trial(backend, base)) as trial:
        every_point.warm_up(trial.live)
    calls, _ = outcome(backend, base, NEVER, every_point.any_that_can_fail)
    codes = collections.Counter(code for call in calls for code in every_point.errors_of(*call))
    points = [(stop, code) for code, most in codes.items() for stop in range(1, most + 1)]
    assert len(points) > 300, "the life of a guard takes more system calls than that"
    needed_gc = 0
    for stop, code in random.sample(points, min(len(points), 150 if slow else 2)):
        _, by_gc = outcome(backend, base, stop, every_point.failing_with(code))
        needed_gc += by_gc
        assert bystanders.are_all_there(), f"{errno.errorcode[code]} at call {stop}"
    print(f"{len(points)} points, {needed_gc} times gc had something to do")


def outcome(
    backend: BackendUnderTest, base: str | None, stop: int, fail: Callable[[int, int], int | None]
) -> tuple[list[tuple[int, int]], bool]:
    """Kill a supervisor whose guard has, at its `stop`th call that can, an error; AssertionError if anything is left.

    Returns these calls up to there, and whether gc was needed.
    """
    with closing(Trial(backend, base)) as trial:
        tree = Tree(
            lambda: every_point.traced_from_its_signal_on(trial.live_on_from_here),
            stop,
            counts=is_guard,
            leaves=is_at_another,
            fail=fail,
        )
        tree.begins()
        trial.close_writer()
        try:
            _, pid = trial.lines.wait_for("started").split()
            os.kill(int(pid), signal.SIGKILL)  # nobody but the tracer reaps it, which is not over yet
        except EOFError:
            pass  # the guard could not be started, say
        count, status = tree.ends()
        said = f"{tree.calls[-1:]} at stop {stop} of {count}"
        assert status in (every_point.FAILED, -signal.SIGKILL), said
        by_itself = trial.lines.are_over(0.5) and (base is None or not every_point.directories_left(base, within=0.5))
        for left in every_point.gc(base) if not by_itself else ():
            if backend.name == "process-group" and trial.has(left):
                procfs.end(left)
        found = trial.nothing_is_left()
    assert not found, f"{said}: {found}"
    return tree.calls, not by_itself


@contextmanager
def stale(backend: BackendUnderTest, base: str) -> Iterator[Trial]:
    """What is left when a supervisor and its guard are killed at the same time."""
    with closing(Trial(backend, base)) as trial:
        supervisor = every_point.fork()
        if supervisor == 0:
            every_point.exits_with(trial.live_on)
        try:
            trial.lines.wait_for("ready")
            trial.lines.wait_for("started")
            every_point.end_guards_of(supervisor)
        finally:
            os.kill(supervisor, signal.SIGKILL)
            os.waitpid(supervisor, 0)
        yield trial


def sweep_once(base: str) -> Callable[[], int]:
    """The work of ``allgone gc``, below `base` only."""

    def sweep() -> int:
        janitor._FRESH = 0  # a minute later; we are a fork
        try:
            for folder in list(inventory.homes()):
                if folder.startswith(base + "/"):
                    janitor.sweep(folder)
            inventory.strays()
        except (OSError, allgone.AllgoneError):
            return every_point.FAILED
        return every_point.SUCCEEDED

    return sweep


@pytest.mark.timeout(3600)
def test_what_a_janitor_can_not_finish_the_next_one_does(
    cgroup_base: str, bystanders: Bystanders, request: pytest.FixtureRequest
) -> None:
    """Each of its system calls fails, with one of its errors; more of them with --run-slow."""
    slow = request.config.getoption("--run-slow")
    backend, sweep = BackendUnderTest("cgroup", sweep=False), sweep_once(cgroup_base)
    with stale(backend, cgroup_base) as trial:
        every_point.warm_up(trial.live)
        every_point.warm_up(sweep)
        assert not trial.nothing_is_left(), "the sweep does it"
    with stale(backend, cgroup_base) as trial:
        calls = every_point.calls_of(sweep)
    kinds = collections.Counter((call, code) for call, first in calls for code in every_point.errors_of(call, first))
    points = [(call, nth, code) for (call, code), count in kinds.items() for nth in range(1, count + 1)]
    assert len(points) > 100
    results: collections.Counter[int | None] = collections.Counter()
    for call, nth, code in random.sample(points, min(len(points), 300 if slow else 12)):
        name = f"{ERRORS[call][0]} number {nth}, {errno.errorcode[code]}"
        with stale(backend, cgroup_base) as trial:
            result = every_point.failed_at(sweep, call, nth, code)
            assert result in (every_point.SUCCEEDED, every_point.FAILED, None), f"{name}: {result}"
            every_point.gc(cgroup_base)
            left = trial.nothing_is_left()
        assert not left, f"{name}: {left}"
        assert bystanders.are_all_there(), name
        results[result] += 1
    print(f"{len(points)} points: {dict(results)}")
