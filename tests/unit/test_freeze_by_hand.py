"""The steps of a freeze, driven by hand: what is waited for, and that whoever gives up has thawed."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from allgone import FreezeTimeout
from allgone._core.freeze import freeze_steps
from allgone._core.stop import Wait


class Freezing:
    """A containment that says so when it is frozen; its clock is turned by hand."""

    name, where, frozen = "1-x", (lambda self: "/fake"), False

    def __init__(self) -> None:
        self.now, self.done, self.closed = 0.0, False, 0

    def freezing(self) -> Any:
        self.frozen = True
        return self

    def thaw(self) -> None:
        self.frozen = False

    def clock(self) -> float:
        return self.now

    def __enter__(self) -> Any:
        return SimpleNamespace(frozen=lambda: self.done, fileno=lambda: 7)

    def __exit__(self, *_: object) -> None:
        self.closed += 1


def test_it_waits_until_all_are_frozen() -> None:
    held = Freezing()
    steps = freeze_steps(held, 5, held.clock)
    assert next(steps) == next(steps) == Wait((7,), 5.0)
    held.done = True
    assert list(steps) == []
    assert held.frozen
    assert held.closed == 1


def test_it_waits_for_nothing_where_all_are_at_once() -> None:
    held = Freezing()
    held.done = True
    assert list(freeze_steps(held, 0, held.clock)) == []
    assert held.frozen


@pytest.mark.parametrize("frozen_before", [False, True])
def test_after_the_deadline_it_is_as_it_was(frozen_before: bool) -> None:
    held = Freezing()
    held.frozen = frozen_before
    steps = freeze_steps(held, 5, held.clock)
    next(steps)
    held.now = 5.0
    with pytest.raises(FreezeTimeout, match="1-x was not frozen within 5 s"):
        next(steps)
    assert held.frozen == frozen_before
    assert held.closed == 1


def test_who_gives_up_has_thawed() -> None:
    held = Freezing()
    steps = freeze_steps(held, 5, held.clock)
    next(steps)
    steps.close()
    assert not held.frozen
    assert held.closed == 1
