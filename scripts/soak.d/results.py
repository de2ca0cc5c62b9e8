"""What a soak found: a line for each round, a summary, and whether memory grows."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from statistics import median

WARM_UP = 1 / 3  # of all rounds: until each operation has imported what it needs
FEWEST = 12  # rounds that tell whether memory grows
MAY_GROW = 4.0  # MB, as a heap may by itself; a leak of 1 kB an operation is more than that in half an hour


@dataclass
class Found:
    """In one round, or in several."""

    operations: Counter[str] = field(default_factory=Counter)
    chaos: Counter[str] = field(default_factory=Counter)
    supervisors: int = 0
    escapees: int = 0  # daemons of process groups, which are not held, as documented
    lost: int = 0  # of a process group whose supervisor and guard both were killed, as documented
    survivors: list[str] = field(default_factory=list)
    leaks: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def __iadd__(self, other: Found) -> Found:
        self.operations += other.operations
        self.chaos += other.chaos
        self.supervisors += other.supervisors
        self.escapees += other.escapees
        self.lost += other.lost
        self.survivors += other.survivors
        self.leaks += other.leaks
        self.errors += other.errors
        return self

    @property
    def is_good(self) -> bool:
        return not (self.survivors or self.leaks or self.errors)

    def line(self) -> str:
        chaos = ", ".join(f"{what} {n}" for what, n in sorted(self.chaos.items()))
        return (
            f"supervisors {self.supervisors}, operations {self.operations.total()}; {chaos or 'no chaos'}; "
            f"escapees {self.escapees}, lost {self.lost}; "
            f"SURVIVORS {len(self.survivors)}, LEAKS {len(self.leaks)}, ERRORS {len(self.errors)}"
        )

    def details(self) -> list[str]:
        return [
            f"  {kind}: {text}".replace("\n", "\n    ")
            for kind in ("survivors", "leaks", "errors")
            for text in getattr(self, kind)
        ]


def growth(megabytes: list[float]) -> float:
    """From the first third after the warm-up to the last, in MB, of one that was looked at after each round."""
    warm = megabytes[round(len(megabytes) * WARM_UP) :]
    third = max(1, len(warm) // 3)
    return median(warm[-third:]) - median(warm[:third]) if warm else 0.0


def grown(megabytes: dict[str, list[float]]) -> list[str]:
    """The supervisors that grew by more than a heap does, in words."""
    return [
        f"{name} grew by {growth(each):.1f} MB: {', '.join(f'{mb:.1f}' for mb in each)}"
        for name, each in megabytes.items()
        if len(each) >= FEWEST and growth(each) > MAY_GROW
    ]
