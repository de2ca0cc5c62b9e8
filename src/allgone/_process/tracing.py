"""Popen's ``trace=True``: the kernel's record of a command and its descendants, for the caller and for the report."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from allgone._core.genealogy import Genealogy

TYPE_CHECKING = False  # what is traced is known from _linux/tracer.py, which nobody else needs
if TYPE_CHECKING:
    from allgone._linux.tracer import Trace as Trace
    from allgone._process.popen import Popen


def check(trace: bool) -> None:
    """Raises `Unsupported` where that was asked for and can't be had."""
    if trace:
        from allgone._linux import tracer

        tracer.check()


@contextmanager
def spawned(process: Popen, trace: bool, argv: Sequence[object]) -> Iterator[None]:
    """The process starts in the ``with`` block."""
    if not trace:
        yield
        return
    from allgone._linux import processes, tracer

    with tracer.spawning() as process._trace:
        yield
        words = [os.fsdecode(word) if isinstance(word, (str, bytes, os.PathLike)) else "?" for word in argv]
        # Where the launcher has not become the command, but had it born, only that one is the leader.
        programs = 1 if process._was_born else 2
        process._trace.led_by(process.pid, programs, processes.shown(words))


def genealogy(trace: Trace | None) -> Genealogy:
    """Raises ValueError where nothing is traced."""
    if trace is None:
        raise ValueError("it was started without trace=True")
    return trace.genealogy()


def at_stop(trace: Trace | None, *, over: bool) -> Genealogy | None:
    """For the report; what is `over` is watched no longer."""
    if trace is None:
        return None
    found = trace.genealogy()
    if over:
        trace.close()
    return found
