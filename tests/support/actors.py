"""Trees of processes for the contract tests, described once for real processes and for the fake's."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from dataclasses import asdict, dataclass

HEARD = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)


@dataclass(frozen=True)
class Actor:
    """A process that tells which of `HEARD` it hears, and ends at the first that it does not ignore."""

    role: str
    children: tuple[Actor, ...] = ()
    ignores: tuple[int, ...] = ()  # it hears them and goes on
    stopped: bool = False  # it has stopped itself with SIGSTOP
    escaped: bool = False  # it has a session of its own
    ends_first: bool = False  # it ends, with status 7, as soon as all is set up

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    def all(self) -> Iterator[Actor]:
        """It and everyone below."""
        yield self
        for child in self.children:
            yield from child.all()


def deaf(role: str, *children: Actor) -> Actor:
    """One that only SIGKILL ends."""
    return Actor(role, children, ignores=HEARD)
