"""SIGKILL to supervisors with scopes, and to their guards: no process, unit, failed unit or directory is left."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Sequence

import pytest
from support.systemd_env import (
    CHECKOUT,
    ROOT_DELEGATED,
    ROOT_SERVICE,
    USER_DELEGATED,
    USER_LINGERING,
    USER_SERVICE,
    USER_SESSION,
    Environment,
    Place,
)
from support.tiers import missing

PLACES = (ROOT_SERVICE, USER_SESSION, USER_SERVICE, ROOT_DELEGATED, USER_DELEGATED, USER_LINGERING)
VARIABLES = {"PYTHONPATH": f"{CHECKOUT}/tests:{CHECKOUT}/src"}
PATIENCE = 20.0  # seconds

# What all that runs inside begins with.
PRELUDE = """
import json, os, random, signal, subprocess, sys, time
from contextlib import closing
import allgone
from allgone._linux import cgroupfs
from support import every_point, procfs
from support.backends import BackendUnderTest
from support.every_point import PATIENCE, Traced, Trial

with open("/proc/self/mountinfo") as f:
    mount, = {each.point for each in cgroupfs.mounts(f.read())}
ours = f"allgone-{os.getpid()}-"
cgroup = BackendUnderTest("cgroup", sweep=False)

def homes(*names):
    return [folder for folder, _, _ in os.walk(mount) if os.path.basename(folder).startswith(names)]

def wait_until_gone(*names):
    deadline = time.monotonic() + PATIENCE  # systemd removes a scope when it comes to it
    while left := homes(*names):
        assert time.monotonic() < deadline, (left, [open(each + "/cgroup.procs").read() for each in left])
        time.sleep(0.01)

"""

AT_POINTS = """
SENDS = (44, 46, 307)  # sendto, sendmsg, sendmmsg of x86_64
MKDIR = 83
how, sample, with_guard, when = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "with-guard", sys.argv[4]
def trial(n):
    return Trial(cgroup, None, **({"unit": f"killed-{os.getpid()}-{n}.scope"} if how == "named" else {}))
with closing(trial(0)) as first:
    every_point.warm_up(first.live)
wait_until_gone("allgone-", "killed-")
with closing(trial(1)) as second:
    calls = every_point.calls_of(second.live)
stops = 2 * len(calls) - 1
points = range(1, stops + 1)
if when == "asking":  # systemd for the scope, with one of the last messages before a directory is made in it
    numbers = [call for call, _ in calls]
    asked = [at for at, call in enumerate(numbers[: numbers.index(MKDIR)]) if call in SENDS][-4]
    points = range(2 * asked, 2 * asked + 40)
points = random.sample(points, min(len(points), sample))
for n, stop in enumerate(points, 2):
    with closing(trial(n)) as it:
        traced = Traced(it.live)
        try:
            with every_point.bounded(2 * PATIENCE):
                all(traced.to_next_stop() for _ in range(stop))
            if with_guard:
                every_point.end_guards_of(traced.pid)
        finally:
            traced.kill()
        if with_guard:
            every_point.gc(mount)
        left = it.nothing_is_left()
        assert not left, f"{left}, killed at stop {stop} of {stops}"
        try:
            wait_until_gone("allgone-", "killed-")
        except AssertionError as e:
            raise AssertionError(f"killed at stop {stop} of {stops}") from e
print(json.dumps([stops, len(points)]))
"""


def killed_at_points(
    environment: Environment, place: Place, *words: str, slow: bool, few: int, many: int
) -> tuple[int, int]:
    how, guard, when = words
    said = environment.run_python(
        PRELUDE + AT_POINTS, how, str(many if slow else few), guard, when,
        place=place, variables=VARIABLES, seconds=1500 if slow else 150,
    )  # fmt: skip
    stops, done = json.loads(said.stdout)
    print(f"{place}, {how}, {guard}, {when}: killed at {done} of {stops} stops")
    return stops, done


def some_only(place: Place, is_slow: bool) -> None:
    if not is_slow and place not in (ROOT_SERVICE, USER_SESSION):
        pytest.skip("takes long: --run-slow")


@pytest.fixture
def is_slow(request: pytest.FixtureRequest) -> bool:
    return bool(request.config.getoption("--run-slow"))


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("place", PLACES, ids=str)
def test_a_supervisor_killed_at_any_system_call_leaves_nothing(
    environment: Environment, place: Place, is_slow: bool
) -> None:
    stops, _ = killed_at_points(environment, place, "own", "without-guard", "any", slow=is_slow, few=6, many=400)
    assert stops > 300


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("place", [ROOT_SERVICE, USER_SESSION, USER_SERVICE, USER_LINGERING], ids=str)
def test_with_a_scope_by_name_it_leaves_nothing(environment: Environment, place: Place, is_slow: bool) -> None:
    some_only(place, is_slow)
    killed_at_points(environment, place, "named", "without-guard", "any", slow=is_slow, few=4, many=300)


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("place", PLACES, ids=str)
def test_killed_with_its_guard_it_leaves_nothing_after_gc(
    environment: Environment, place: Place, is_slow: bool
) -> None:
    some_only(place, is_slow)
    killed_at_points(environment, place, "own", "with-guard", "any", slow=is_slow, few=3, many=150)


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("place", [ROOT_SERVICE, USER_SERVICE], ids=str)
def test_a_scope_whose_first_process_is_killed_while_it_is_asked_for_is_gone_after_gc(
    environment: Environment, place: Place, is_slow: bool
) -> None:
    """systemd can overlook that it is empty, and then keeps it."""
    if platform.machine() != "x86_64":
        missing("the request is recognised by the numbers that system calls have on x86_64")
    killed_at_points(environment, place, "own", "with-guard", "asking", slow=is_slow, few=10, many=40)


@pytest.mark.parametrize("place", PLACES, ids=str)
def test_a_guard_that_is_killed_alone_takes_nothing_with_it_and_is_replaced(
    environment: Environment, place: Place, is_slow: bool
) -> None:
    some_only(place, is_slow)
    code = """
import warnings
with allgone.Popen(["sleep", "1000"], backend="cgroup") as before:
    every_point.end_guards_of(os.getpid())
    assert before.poll() is None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        after = allgone.Popen(["sleep", "1000"], backend="cgroup")
    assert [each.category for each in caught] == [allgone.GuardLostWarning], caught
    assert len(every_point.guards_of(os.getpid())) == 1
    for each in (before, after):
        report = each.stop()
        assert report.returncode == -15, report
        assert not report.ended_from_outside, report
supervisor = os.fork()
if supervisor == 0:
    first = allgone.Popen(["sleep", "1000"], backend="cgroup")
    every_point.end_guards_of(os.getpid())
    warnings.simplefilter("ignore")
    second = allgone.Popen(["sleep", "1000"], backend="cgroup")
    os.kill(os.getpid(), signal.SIGKILL)
os.waitpid(supervisor, 0)
wait_until_gone(f"allgone-{supervisor}-")
"""
    environment.run_python(PRELUDE + code, place=place, variables=VARIABLES)


UNIT = "supervisor-to-be-killed.service"


@pytest.mark.parametrize("named", [[], ["named-and-killed.scope"]], ids=["own", "named"])
@pytest.mark.parametrize("place", [ROOT_SERVICE, ROOT_DELEGATED], ids=str)
def test_systemctl_kill_of_its_service_leaves_nothing(
    environment: Environment, place: Place, named: Sequence[str]
) -> None:
    code = """
given = {"unit": sys.argv[1]} if sys.argv[1:] else {"backend": "cgroup"}
with allgone.Popen(["sh", "-c", "setsid sleep 1000 & sleep 1000 & wait"], **given) as child:
    while len(child.members()) < 3:
        pass
    print(child._containment.where().removeprefix(mount + "/"), flush=True)
    child.wait()
"""
    options = ("--unit", UNIT)
    with environment.start_python(PRELUDE + code, *named, place=place, options=options, variables=VARIABLES) as running:
        assert running.stdout is not None
        where = running.stdout.readline().strip()
        assert where, running.stderr and running.stderr.read()
        environment.systemctl("kill", "--signal=KILL", UNIT)
        assert running.wait(PATIENCE) == 128 + 9
    assert environment.empties(where, PATIENCE)
    deadline = time.monotonic() + PATIENCE
    while left := [
        each
        for each in environment.tree()
        if each.suffix == ".scope" and ("allgone-" in each.name or "named" in each.name)
    ]:
        assert time.monotonic() < deadline, left
        time.sleep(0.01)
