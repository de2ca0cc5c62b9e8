"""Durations as in systemd.time(7): 10m, 1h30m, 250ms, 5, infinity."""

from __future__ import annotations

import math
import re

_UNITS = {
    "us µs μs usec": 1e-6,
    "ms msec": 1e-3,
    "s sec second seconds": 1.0,
    "m min minute minutes": 60.0,
    "h hr hour hours": 3600.0,
    "d day days": 86400.0,
    "w week weeks": 604800.0,
    "M month months": 30.44 * 86400,
    "y year years": 365.25 * 86400,
}
_SECONDS = {name: seconds for names, seconds in _UNITS.items() for name in names.split()} | {"": 1.0}
_PART = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?|\.[0-9]+)(?![.0-9])\s*([A-Za-zµμ]*)", re.ASCII)  # there are two letters mu


def seconds(text: str) -> float:
    """The duration in seconds; ``math.inf`` for ``infinity``.

    >>> seconds("1h 30m"), seconds("250ms"), seconds("5"), seconds("infinity")
    (5400.0, 0.25, 5.0, inf)

    Raises ValueError.
    """
    if text.strip() == "infinity":
        return math.inf
    position, total = 0, 0.0
    stripped = text.rstrip()
    while position < len(stripped):
        part = _PART.match(stripped, position)
        if part is None or part[2] not in _SECONDS:
            break
        total += float(part[1]) * _SECONDS[part[2]]
        position = part.end()
    if not stripped or position < len(stripped):
        raise ValueError(f"{text!r} is not a duration; write 10m, 5s, 1h30m, 250ms, a number of seconds, or infinity")
    return total


def shown(duration: float) -> str:
    """It for people.

    >>> shown(5400), shown(0.25), shown(1.5)
    ('1h30m', '250ms', '1.5s')
    """
    if math.isinf(duration):
        return "infinity"
    if 0 < duration < 1:
        return f"{duration * 1000:g}ms"
    words, rest = "", duration
    for unit in "dhm":
        count, rest = divmod(rest, _SECONDS[unit])
        words += f"{count:.0f}{unit}" if count else ""
    return words + (f"{rest:g}s" if rest or not words else "")
