"""Whose line a warning is about."""

from __future__ import annotations

import sys


def level_outside(*packages: str) -> int:
    """The `stacklevel` for `warnings.warn` in the function that calls this: the first frame outside the packages."""
    frame, level = sys._getframe(1), 1
    while frame.f_back is not None and frame.f_globals.get("__name__", "").split(".")[0] in packages:
        frame, level = frame.f_back, level + 1
    return level
