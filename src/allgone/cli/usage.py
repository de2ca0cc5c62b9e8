"""What ``allgone run --usage`` prints: as ``time -v`` of GNU does, and what is not known is left out."""

from __future__ import annotations

from collections.abc import Sequence

from allgone._core.names import printable
from allgone._core.usage import Pressure, Usage

_LONGEST = 1000  # characters of the command


def text(args: Sequence[str], status: int, elapsed: float, usage: Usage | None) -> str:
    """`status`: the exit status of this command; `elapsed`: seconds."""
    lines = [
        f'Command being timed: "{printable(" ".join(args), _LONGEST)}"',
        *(_used(usage, elapsed) if usage is not None else ()),
        f"Elapsed (wall clock) time (h:mm:ss or m:ss): {_clock(elapsed)}",
        *(_more(usage) if usage is not None else ()),
        f"Exit status: {status}",
    ]
    return "".join(f"\t{line}\n" for line in lines)


def _used(usage: Usage, elapsed: float) -> list[str]:
    share = (usage.cpu_user + usage.cpu_system) / elapsed if elapsed > 0 else 0.0
    return [
        f"User time (seconds): {usage.cpu_user:.2f}",
        f"System time (seconds): {usage.cpu_system:.2f}",
        f"Percent of CPU this job got: {share:.0%}",
    ]


def _more(usage: Usage) -> list[str]:
    found = [
        ("Peak memory (kbytes)", None if usage.memory_peak is None else usage.memory_peak // 1024),
        ("Peak tasks", usage.tasks_peak),
        ("Bytes read", usage.io_read_bytes),
        ("Bytes written", usage.io_write_bytes),
        ("Read operations", usage.io_reads),
        ("Write operations", usage.io_writes),
        ("Stalled for the CPU (seconds)", _stalled(usage.cpu_pressure)),
        ("Stalled for memory (seconds)", _stalled(usage.memory_pressure)),
        ("Stalled for IO (seconds)", _stalled(usage.io_pressure)),
        ("Killed for want of memory", usage.oom_kills or None),
        ("Approximate", "what was not waited for may be missing" if usage.approximate else None),
    ]
    return [f"{name}: {value}" for name, value in found if value is not None]


def _stalled(pressure: Pressure | None) -> str | None:
    return None if pressure is None else f"{pressure.some.total:.2f}"


def _clock(seconds: float) -> str:
    """As time(1) has it.

    >>> _clock(61.239), _clock(3661)
    ('1:01.23', '1:01:01')
    """
    hours, rest = divmod(seconds, 3600)
    minutes, rest = divmod(rest, 60)
    if hours:
        return f"{hours:.0f}:{minutes:02.0f}:{int(rest):02d}"
    return f"{minutes:.0f}:{int(rest):02d}.{int(rest % 1 * 100):02d}"
