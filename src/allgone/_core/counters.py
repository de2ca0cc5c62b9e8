"""What is counted of ends: which numbers there are, and in which order they are kept."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

By = Literal["supervisor", "guard", "janitor"]

BACKENDS = ("cgroup", "process-group")
BY: tuple[By, ...] = ("supervisor", "guard", "janitor")
BOUNDS = (0.001, 0.01, 0.1, 1.0, 10.0, 100.0)  # seconds that a stop takes at most; the last bucket has no bound

_SUMS = ("stopped_processes", "killed_processes", "escaped_processes", "oom_kills", "cpu_seconds", "stop_seconds")
_NAMES = (*(f"{what}/{by}" for what in ("stops", "stop_failures") for by in BY), *_SUMS)
_OF_A_BACKEND = len(_NAMES) + len(BOUNDS) + 1
COUNT = len(BACKENDS) * _OF_A_BACKEND
"""How many numbers there are. Another number, or another order, is another `VERSION`."""
VERSION = 1


def file_name(uid: int) -> str:
    """Of what a user has counted."""
    return f"uid-{uid}.counters-{VERSION}"


def uid_of(file_name: str) -> int | None:
    """Whose counters a file of that name has; None for another one's, or another version's."""
    found = re.fullmatch(rf"uid-([0-9]{{1,10}})\.counters-{VERSION}", file_name)
    return int(found[1]) if found else None


@dataclass(frozen=True, slots=True)
class Ending:
    """An end of one containment, or of several at a time (`stops`), as it is counted."""

    backend: str
    by: By
    stops: int = 1
    failed: bool = False
    stopped_processes: int = 0  # alive when the stop began
    killed_processes: int = 0  # of these, those that SIGKILL was needed for
    escaped_processes: int = 0
    oom_kills: int = 0
    cpu_seconds: float = 0.0
    stop_seconds: float | None = None  # None: nobody took the time

    def counts(self) -> list[float]:
        """What it adds to each number."""
        found = [0.0] * COUNT
        start = BACKENDS.index(self.backend) * _OF_A_BACKEND
        what = "stop_failures" if self.failed else "stops"
        found[start + _NAMES.index(f"{what}/{self.by}")] = self.stops
        for name in _SUMS:
            found[start + _NAMES.index(name)] = getattr(self, name) or 0.0
        if self.stop_seconds is not None:
            found[start + len(_NAMES) + bisect_left(BOUNDS, self.stop_seconds)] = 1
        return found


class Counts:
    """All numbers of one user, by name."""

    def __init__(self, numbers: Sequence[float]) -> None:
        self._numbers = numbers

    def of(self, backend: str, name: str, by: By | None = None) -> float:
        """One of `stops` and `stop_failures`, `by` whom; or one of the sums."""
        at = _NAMES.index(name if by is None else f"{name}/{by}")
        return self._numbers[BACKENDS.index(backend) * _OF_A_BACKEND + at]

    def buckets(self, backend: str) -> Iterator[tuple[float, float]]:
        """(bound in seconds, how many stops took so long at most)"""
        start = BACKENDS.index(backend) * _OF_A_BACKEND + len(_NAMES)
        so_far = 0.0
        for n, bound in enumerate((*BOUNDS, float("inf"))):
            so_far += self._numbers[start + n]
            yield bound, so_far
