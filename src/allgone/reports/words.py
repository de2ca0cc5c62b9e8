"""Numbers and facts in words, as several renderings have them."""

from __future__ import annotations

from allgone._core.names import printable
from allgone.reports.story import Row, Story


def seconds(value: float) -> str:
    """As people read it: 0.4 ms, 35 ms, 1.25 s, 2 min 5 s."""
    if value < 0.01:
        return f"{value * 1000:.1f} ms"
    if value < 1:
        return f"{value * 1000:.0f} ms"
    if value < 60:
        return f"{value:.2f} s"
    return f"{int(value // 60)} min {int(value % 60)} s"


def lived(row: Row) -> str:
    """For how long; "" where that is not known."""
    return "" if row.began is None or row.ended is None else seconds(max(0.0, row.ended - row.began))


def facts(story: Story) -> list[tuple[str, str]]:
    """What is to be said besides the processes: title and text, only what there is."""
    report = story.report
    found = [
        ("Leader", report.outcome),
        ("Backend", report.backend),
        ("Stop", f"took {seconds(report.duration)}"),
        ("Killed for want of memory", f"{report.oom_kills} by the kernel" if report.oom_kills else ""),
        ("Ended from outside", printable(report.ended_from_outside, 500)),
        ("Had to be killed", ", ".join(map(str, report.killed))),
        ("Escaped", ", ".join(map(str, report.escapees))),
        ("Others may have started", ", ".join(printable(each, 300) for each in report.may_have_started)),
        ("Left running, as kill_mode says", ", ".join(map(str, report.left_running))),
        ("Listened on", ", ".join(printable(str(port)) for port in report.ports or ())),
        ("Used", _usage(story)),
        ("Processes", f"{len(story.rows)}" + ("" if story.is_whole else " alive when the stop began")),
        ("Not in here", story.missing if story.is_whole else ""),
    ]
    return [(title, text) for title, text in found if text]


def _usage(story: Story) -> str:
    usage = story.report.usage
    if usage is None:
        return ""
    said = [
        ("about " if usage.approximate else "")
        + f"{seconds(usage.cpu_user)} of CPU time in user mode, {seconds(usage.cpu_system)} in the kernel"
    ]
    if usage.memory_peak is not None:
        said.append(f"{_mebibytes(usage.memory_peak)} of memory at most")
    if usage.tasks_peak is not None:
        said.append(f"{usage.tasks_peak} tasks at most")
    if usage.io_read_bytes or usage.io_write_bytes:
        said.append(f"{_mebibytes(usage.io_read_bytes or 0)} read, {_mebibytes(usage.io_write_bytes or 0)} written")
    pressures = (("the CPU", usage.cpu_pressure), ("memory", usage.memory_pressure), ("IO", usage.io_pressure))
    said += [f"{seconds(each.some.total)} stalled for {what}" for what, each in pressures if each and each.some.total]
    return "; ".join(said)


def _mebibytes(value: int) -> str:
    return f"{value / (1 << 20):.1f} MiB"
