"""A coroutine disturbed at its Nth suspension, on whatever event loop."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Generator
from typing import Any


class Disturbed:
    """Awaiting it awaits the coroutine, and has `disturb` called when that is suspended for the `nth` time.

    `count` says how often it was suspended.
    """

    def __init__(self, coroutine: Coroutine[Any, Any, Any], nth: int, disturb: Callable[[], object]) -> None:
        self._coroutine = coroutine
        self._nth = nth
        self._disturb = disturb
        self.count = 0

    def __await__(self) -> Generator[Any, Any, Any]:
        go_on, value = self._coroutine.send, None
        while True:
            try:
                suspension = go_on(value)
            except StopIteration as end:
                return end.value
            self.count += 1
            if self.count == self._nth:
                self._disturb()
            try:
                value = yield suspension
                go_on = self._coroutine.send
            except BaseException as e:  # noqa: BLE001  # thrown into the coroutine
                value, go_on = e, self._coroutine.throw
