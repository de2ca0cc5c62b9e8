"""Each system call of a supervisor's life fails once: that is an error or it is not, and nothing is left either way."""

from __future__ import annotations

import collections
import errno
import random
from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import Any

import pytest
from support import every_point
from support.backends import BackendUnderTest
from support.every_point import FAILED, SUCCEEDED, Bystanders, Trial, errors_of
from support.tiers import missing

RMDIR = 84
_RARE = 40  # more calls of one kind than that are looks at /proc, all alike


@pytest.fixture
def base(backend: BackendUnderTest, _cgroup_base_or_reason: tuple[str | None, str]) -> str | None:
    return _cgroup_base_or_reason[0] if backend.name == "cgroup" else None


@pytest.fixture
def bystanders(base: str | None) -> Iterator[Bystanders]:
    with closing(Bystanders(base)) as made:
        yield made


def points(calls: Sequence[tuple[int, int]], most: int | None) -> list[tuple[int, int, int]]:
    """Which call, the how manieth of its kind, is to fail with what: each with each, or `most` of them."""
    kinds = collections.Counter((call, code) for call, first in calls for code in errors_of(call, first))
    if most is None:
        return [
            (call, nth, code)
            for (call, code), count in kinds.items()
            for nth in random.sample(range(1, count + 1), min(_RARE, count))
        ]
    chosen = random.choices(list(kinds), k=most)
    return [(call, random.randint(1, kinds[call, code]), code) for call, code in chosen]


@pytest.mark.timeout(3600)
def test_a_system_call_that_fails_is_at_most_an_error_and_nothing_is_left(
    backend: BackendUnderTest, base: str | None, bystanders: Bystanders, request: pytest.FixtureRequest
) -> None:
    """Each of them with each of its errors with --run-slow."""
    check(backend, base, bystanders, request)


@pytest.mark.timeout(3600)
def test_without_a_guard_nothing_is_left_either(
    backend: BackendUnderTest, base: str | None, bystanders: Bystanders, request: pytest.FixtureRequest
) -> None:
    """But for the directory itself: a second attempt to remove it is what the guard is for."""
    check(backend, base, bystanders, request, leave_out=RMDIR, guard=False)


def check(
    backend: BackendUnderTest, base: str | None, bystanders: Bystanders, request: pytest.FixtureRequest,
    leave_out: int = -1, **options: Any,
) -> None:  # fmt: skip
    if not every_point.CAN_FAIL_CALLS:
        missing("system calls are made to fail on x86_64 only")
    with closing(Trial(backend, base, **options)) as trial:
        every_point.warm_up(trial.live)
        calls = [each for each in every_point.calls_of(trial.live_with_errors) if each[0] != leave_out]
        assert not trial.nothing_is_left()
    chosen = points(calls, None if request.config.getoption("--run-slow") else 20)
    wrong: list[str] = []
    results: collections.Counter[int | None] = collections.Counter()
    for call, nth, code in chosen:
        with closing(Trial(backend, base, **options)) as trial:
            result = None
            try:
                while result is None and nth:
                    result = every_point.failed_at(trial.live_with_errors, call, nth, code)
                    nth //= 2  # in this life were fewer
                said = "" if result in (SUCCEEDED, FAILED, None) else f"exit code {result}"
                said = said or trial.nothing_is_left()
            except TimeoutError as e:
                said = str(e)
        results[result] += 1
        if said or not bystanders.are_all_there():
            what = f"{every_point.ERRORS[call][0]} number {nth}, {errno.errorcode[code]}"
            wrong.append(f"{what}: {said or 'a bystander was hit'}")
    print(f"{len(calls)} calls; {len(chosen)} were made to fail: {dict(results)}")
    assert not wrong, "\n".join(wrong)
    assert results[FAILED] > len(chosen) / 10, "they are to make a difference"
