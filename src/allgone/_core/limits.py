"""What a containment may use at most, and its share where there is not enough for all."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, fields

_SIZES = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40, "P": 1 << 50, "E": 1 << 60}
_MOST = (1 << 63) - 1
_MOST_TASKS = 1 << 22  # the kernel's PID_MAX_LIMIT
_LEAST_QUOTA = 1.0  # per cent: the kernel takes no less than 1 ms of its period of 100 ms (cpu.max)
_MOST_QUOTA = 100.0 * 8192  # per cent: more CPUs than Linux is built for
_MOST_WEIGHT = 10_000


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of a containment and all that is in it together (cgroup-v2.rst). What is None is not limited by us.

    memory_max
        Bytes, or a text as ``"512M"`` (K, M, G, T, P, E: powers of 1024). Who needs more is killed by the kernel
        (``memory.max``).
    memory_high
        The same; who needs more is slowed down, and its memory taken back as well as can be (``memory.high``).
    memory_swap_max
        The same, of swap; 0: none (``memory.swap.max``).
    memory_oom_group
        Whether for want of memory all of it is killed together, and not one process (``memory.oom.group``).
    tasks_max
        Processes and threads at a time; ``fork(2)`` fails with EAGAIN then (``pids.max``).
    cpu_quota
        CPU time as a text in per cent of one CPU: ``"150%"`` is one and a half (``cpu.max``).
    cpu_weight
        Share of CPU time among its siblings, 1 to 10,000; who has none given has 100 (``cpu.weight``).
    io_weight
        The same of the block devices' time; it takes an IO scheduler that knows weights (``io.weight``).

    For sizes, tasks and quota ``"infinity"`` is no limit. systemd.resource-control(5) has the same names in its own
    spelling.

    >>> Limits(memory_max="1.5G", cpu_quota="50%").memory_max
    1610612736

    Raises ValueError and TypeError for values that make no sense.
    """

    memory_max: int | float | str | None = None
    memory_high: int | float | str | None = None
    memory_swap_max: int | float | str | None = None
    memory_oom_group: bool = False
    tasks_max: int | float | str | None = None
    cpu_quota: str | float | None = None
    cpu_weight: int | None = None
    io_weight: int | None = None

    def __post_init__(self) -> None:
        for field, checked in _CHECKS.items():
            value = getattr(self, field)
            if value is not None:
                object.__setattr__(self, field, math.inf if value in ("infinity", math.inf) else checked(field, value))
        for field in ("cpu_weight", "io_weight"):
            if getattr(self, field) is not None:
                _whole(field, getattr(self, field), 1, _MOST_WEIGHT, "a number")
        if not isinstance(self.memory_oom_group, bool):
            raise TypeError(f"memory_oom_group must be True or False, not {self.memory_oom_group!r}")

    def given(self) -> dict[str, int | float | str]:
        """What was given, by name: bytes, tasks, per cent as a text, weights; `math.inf` for no limit."""
        found = {each.name: getattr(self, each.name) for each in fields(self)}
        return {name: value for name, value in found.items() if value is not None and value is not False}

    def as_unit_properties(self) -> dict[str, str]:
        """The same for a systemd unit (systemd.resource-control(5)), which has nothing for memory.oom.group.

        >>> Limits(cpu_quota="50%", tasks_max="infinity").as_unit_properties()
        {'TasksMax': 'infinity', 'CPUQuota': '50%'}
        """
        return {_PROPERTIES[name]: _in_unit(value) for name, value in self.given().items() if name in _PROPERTIES}


def check_limits(limits: object) -> None:
    """Raises TypeError."""
    if limits is not None and not isinstance(limits, Limits):
        raise TypeError(f"limits must be a Limits, not {type(limits).__name__}")


_PROPERTIES = {
    "memory_max": "MemoryMax", "memory_high": "MemoryHigh", "memory_swap_max": "MemorySwapMax", "tasks_max": "TasksMax",
    "cpu_quota": "CPUQuota", "cpu_weight": "CPUWeight", "io_weight": "IOWeight",
}  # fmt: skip


def size(text: str) -> int:
    """Bytes, as systemd.syntax(7) has them. Raises ValueError.

    >>> size("512M")
    536870912
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([A-Za-z]?)", text.strip(), re.ASCII)
    if found is None or found[2].upper() not in _SIZES:
        raise ValueError(f"{text!r} is not a number of bytes")
    number = float(found[1]) if "." in found[1] else int(found[1])
    return int(number * _SIZES[found[2].upper()])


def _in_unit(value: object) -> str:
    return "infinity" if value == math.inf else str(value)


def _size_of(least: int) -> Callable[[str, object], int]:
    def checked(field: str, value: object) -> int:
        what = "a number of bytes, a text such as '512M', or 'infinity'"
        try:
            number = size(value) if isinstance(value, str) else value
        except ValueError:
            raise ValueError(f"{field} must be {what}, not {value!r}") from None
        return _whole(field, number, least, _MOST, what)

    return checked


def _tasks(field: str, value: object) -> int:
    number = int(value) if isinstance(value, str) and value.isascii() and value.isdigit() else value
    return _whole(field, number, 1, _MOST_TASKS, "a number of processes and threads, or 'infinity'")


def _quota(field: str, value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{field} must be a text in per cent of one CPU, such as '150%', or 'infinity', not {value!r}")
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*%", value.strip(), re.ASCII)
    if found is None:
        raise ValueError(f"{field} must be in per cent of one CPU, such as '150%', or 'infinity', not {value!r}")
    if not _LEAST_QUOTA <= float(found[1]) <= _MOST_QUOTA:
        raise ValueError(f"{field} must be from {_LEAST_QUOTA:g}% to {_MOST_QUOTA:g}%, not {value!r}")
    return f"{found[1]}%"


def _whole(field: str, value: object, least: int, most: int, what: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        kind = ValueError if isinstance(value, str) else TypeError
        raise kind(f"{field} must be {what}, not {value!r}")
    if not least <= value <= most:
        raise ValueError(f"{field} must be from {least} to {most}, not {value!r}")
    return value


_CHECKS: dict[str, Callable[[str, object], int | str]] = {
    "memory_max": _size_of(1), "memory_high": _size_of(1), "memory_swap_max": _size_of(0), "tasks_max": _tasks,
    "cpu_quota": _quota,
}  # fmt: skip
