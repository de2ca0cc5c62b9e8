"""Each system call of a supervisor's life fails once: that is an error or it is not, and nothing is left either way."""

from __future__ import annotations

import errno
import random
from collections.abc import Iterator, Sequence
from contextlib import closing

import pytest
from support import every_point
from support.backends import BackendUnderTest
from support.every_point import FAILED, SUCCEEDED, Bystanders, Trial, errors_of
from support.tiers import missing

_RARE = 40  # more calls of one kind than that are looks at /proc, all alike


@pytest.fixture
def base(backend: BackendUnderTest, _cgroup_base_or_reason: tuple[str | None, str]) -> str | None:
    return _cgroup_base_or_reason[0] if backend.name == "cgroup" else None


@pytest.fixture
def bystanders(base: str | None) -> Iterator[Bystanders]:
    with closing(Bystanders(base)) as made:
        yield made


def points(calls: Sequence[tuple[int, int]], most: int | None) -> list[tuple[int, int]]:
    """Which call is to fail with what: each with each, or `most`, of every kind of call as many as of the others."""
    kinds: dict[tuple[int, int], list[int]] = {}
    for at, (call, first) in enumerate(calls, 1):
        for code in errors_of(call, first):
            kinds.setdefault((call, code), []).append(at)
    if most is None:
        return [(at, code) for (_, code), where in kinds.items() for at in random.sample(where, min(_RARE, len(where)))]
    chosen = random.choices(list(kinds), k=most)
    return [(random.choice(kinds[kind]), kind[1]) for kind in chosen]


@pytest.mark.timeout(3600)
def test_a_system_call_that_fails_is_at_most_an_error_and_nothing_is_left(
    backend: BackendUnderTest, base: str | None, bystanders: Bystanders, request: pytest.FixtureRequest
) -> None:
    """Each of them with each of its errors with --run-slow."""
    if not every_point.CAN_FAIL_CALLS:
        missing("system calls are made to fail on x86_64 only")
    with closing(Trial(backend, base)) as trial:
        every_point.warm_up(trial.live)
        calls = every_point.calls_of(trial.live_with_errors)
        assert not trial.nothing_is_left()
    chosen = points(calls, None if request.config.getoption("--run-slow") else 40)
    wrong: list[str] = []
    for at, code in chosen:
        with closing(Trial(backend, base)) as trial:
            try:
                failed = every_point.failed_at(trial.live_with_errors, at, every_point.failing_with(code))
                said = "" if failed is None or failed[2] in (SUCCEEDED, FAILED) else f"exit code {failed[2]}"
                said = said or trial.nothing_is_left()
            except TimeoutError as e:
                failed, said = None, str(e)
        name = "?" if failed is None else every_point.ERRORS[failed[0]][0]
        if said or not bystanders.are_all_there():
            wrong.append(f"{name} fails with {errno.errorcode[code]}, at call {at}: {said or 'a bystander was hit'}")
    print(f"{len(calls)} calls, {len(chosen)} failures")
    assert not wrong, "\n".join(wrong)
