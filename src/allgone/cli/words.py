"""Processes in a message."""

from __future__ import annotations

from collections.abc import Iterable, Sized

from allgone._core.report import Process

_NAMED = 8  # processes that a message names


def number(found: Sized) -> str:
    """How many.

    >>> number([1]), number([1, 2])
    ('1 process', '2 processes')
    """
    return "1 process" if len(found) == 1 else f"{len(found)} processes"


def names(found: Iterable[Process]) -> str:
    """Which; of many, the first."""
    words = [str(each) for each in found]
    return ", ".join(words[:_NAMED]) + (", …" if len(words) > _NAMED else "")
