"""These starve the machine, fill its disk and set its clock: they run in a guest of scripts/test-vm only."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import pytest
from support.machine import IS_OURS, traces
from support.programs import PATIENCE


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for each in items:
        if not IS_OURS and "vm/inside" in each.path.as_posix():
            each.add_marker(pytest.mark.skip("for a guest of scripts/test-vm only"))
        elif each.get_closest_marker("root") and os.getuid() != 0:
            each.add_marker(pytest.mark.skip("needs root in the guest"))


@pytest.fixture(autouse=True)
def _leaves_no_trace() -> Iterator[None]:
    if not IS_OURS:
        yield
        return
    before = set(traces())
    yield
    until = time.monotonic() + PATIENCE
    while left := set(traces()) - before:
        assert time.monotonic() < until, f"left behind: {sorted(left)}"
        time.sleep(0.1)
