"""Popen's ``trace=True``: the kernel's record of a command and its descendants, for the caller and for the report."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from allgone._core.containment import Containment
from allgone._core.genealogy import Genealogy
from allgone._core.report import Process

if TYPE_CHECKING:  # for what is traced alone: whoever does not trace imports none of it
    from allgone._linux.tracer import Trace
    from allgone._process.popen import Popen

Escapees = Literal["kill", "warn", "ignore"]


@dataclass(frozen=True, slots=True)
class Found:
    """What the kernel told until a stop was done."""

    genealogy: Genealogy
    escapees: tuple[Process, ...]  # also those that were killed
    alive: frozenset[int]  # of these, who lives on
    may_have_started: tuple[str, ...]


class Traced:
    """A command whose descendants are known, and what is to become of those that left its containment."""

    def __init__(self, trace: Trace, containment: Containment, escapees: Escapees) -> None:
        self._trace = trace
        self._containment = containment
        self.escapees = escapees

    def genealogy(self) -> Genealogy:
        return self._trace.genealogy()

    def outside(self) -> frozenset[int]:
        """Live descendants that are no members."""
        from allgone._process import escapees

        return escapees.outside(self._trace, self._containment)

    def at_stop(self) -> Found:
        """Look for what has escaped, and end it if that is wanted. What is over is watched no longer."""
        from allgone._process import escapees

        alive = self.outside()
        who = escapees.described(alive, self._trace.genealogy()) if alive else ()
        if self.escapees == "kill":
            alive = escapees.kill(self._trace, self._containment)
        genealogy = self._trace.genealogy()
        if self._containment.gone:
            self._trace.close()
        return Found(genealogy, who, alive, escapees.may_have_started(genealogy))


def check(trace: bool, escapees: Escapees) -> None:
    """Raises ValueError for what makes no sense, and `Unsupported` where tracing can't be had."""
    if escapees not in get_args(Escapees):
        raise ValueError(f"escapees must be one of {', '.join(get_args(Escapees))}, not {escapees!r}")
    if trace:
        from allgone._linux import tracer

        tracer.check()
    elif escapees == "kill":
        raise ValueError("escapees='kill' needs trace=True, or else nobody knows which processes that is")


@contextmanager
def spawned(process: Popen, trace: bool, escapees: Escapees, argv: Sequence[object]) -> Iterator[None]:
    """The process starts in the ``with`` block."""
    if not trace:
        yield
        return
    from allgone._linux import processes, tracer

    with tracer.spawning() as its_trace:
        process._traced = Traced(its_trace, process._containment, escapees)
        yield
        words = [os.fsdecode(word) if isinstance(word, (str, bytes, os.PathLike)) else "?" for word in argv]
        # Where the launcher has not become the command, but had it born, only that one is the leader.
        programs = 1 if process._was_born else 2
        its_trace.led_by(process.pid, programs, processes.shown(words))


def genealogy(traced: Traced | None) -> Genealogy:
    """Raises ValueError where nothing is traced."""
    if traced is None:
        raise ValueError("it was started without trace=True")
    return traced.genealogy()
