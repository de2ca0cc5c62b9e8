"""Values of systemd's unit properties as texts, as unit files have them (systemd.syntax(7))."""

from __future__ import annotations

import difflib
import re
import signal
from collections.abc import Collection

from allgone._core.limits import size

# systemd.time(7)
_SPANS = {
    "us": 1e-6, "usec": 1e-6, "µs": 1e-6, "ms": 1e-3, "msec": 1e-3, "s": 1, "sec": 1, "second": 1, "seconds": 1, "": 1,
    "m": 60, "min": 60, "minute": 60, "minutes": 60, "h": 3600, "hr": 3600, "hour": 3600, "hours": 3600,
    "d": 86400, "day": 86400, "days": 86400, "w": 604800, "week": 604800, "weeks": 604800,
}  # fmt: skip
_INFINITY = (1 << 64) - 1
_BOOLEANS = {"1": True, "yes": True, "true": True, "on": True, "0": False, "no": False, "false": False, "off": False}
_TYPES: dict[object, type] = {b"b": bool, b"t": int, b"u": int, b"i": int, b"s": str, b"as": list}
_OURS = {"PIDs", "PIDFDs", "Delegate", "DelegateControllers", "CollectMode", "ControlGroup"}


def converted(name: str, value: object, signature: object, known: Collection[bytes]) -> object:
    """`value` as `signature` (D-Bus, or pystemd's function that makes one) wants it. Raises ValueError, TypeError."""
    if name in _OURS:
        raise ValueError(f"property {name!r} is set by allgone")
    if not signature:
        near = difflib.get_close_matches(name, [each.decode() for each in known], n=1)
        raise ValueError(f"unknown property {name!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
    if not isinstance(value, str):
        return _checked(name, value, signature)
    try:
        return _from_text(name, value.strip(), signature)
    except (KeyError, ValueError):
        raise ValueError(f"property {name}={value!r}: not a value of this property") from None


def _checked(name: str, value: object, signature: object) -> object:
    wanted = _TYPES.get(signature)
    if wanted is not None and (not isinstance(value, wanted) or (wanted is int and isinstance(value, bool))):
        raise TypeError(f"property {name}={value!r}: must be a text or of type {wanted.__name__}")
    if signature in (b"t", b"u") and isinstance(value, int) and value < 0:
        raise ValueError(f"property {name}={value!r}: can't be negative")
    return value


def _from_text(name: str, text: str, signature: object) -> object:
    if callable(signature):
        if text == "infinity":
            return _INFINITY / 1e6
        return _percent(text) if name == "CPUQuota" else _seconds(text)
    if signature == b"b":
        return _BOOLEANS[text.lower()]
    if signature == b"as":
        return text.split()
    if signature == b"i" and name.endswith("Signal"):
        return int(signal.Signals[text]) if text.startswith("SIG") else int(text)
    if signature in (b"t", b"u") and name.endswith("USec"):
        return _INFINITY if text == "infinity" else round(_seconds(text) * 1e6)
    if signature in (b"t", b"u"):
        return _INFINITY if text == "infinity" else size(text)
    if signature == b"i":
        return int(text)
    if signature == b"s":
        return text
    raise ValueError


def _seconds(text: str) -> float:
    parts = re.findall(r"([\d.]+)\s*([a-zµ]*)", text)
    if not parts or re.sub(r"[\d.]+\s*[a-zµ]*\s*", "", text):
        raise ValueError
    return sum(float(number) * _SPANS[unit] for number, unit in parts)


def _percent(text: str) -> float:
    if not text.endswith("%"):
        raise ValueError
    return float(text[:-1]) / 100
