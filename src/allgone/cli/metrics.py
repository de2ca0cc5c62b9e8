"""``allgone metrics``: numbers of the containments that there are, and of those that were, for Prometheus."""

from __future__ import annotations

import os
import stat
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from importlib import metadata

import click

from allgone._core import counters, openmetrics
from allgone._core.counters import BACKENDS, BY, Counts
from allgone._core.openmetrics import Family, Format
from allgone._linux import counterfile
from allgone._upkeep import inventory
from allgone.cli import say


def run(*, output: str | None, format: Format, folder: str | None) -> int:
    """Print them, or put them into a file. `folder`: where they are counted; None: they are not."""
    text = openmetrics.text([*_there_are(), *(_there_were(folder) if folder else ())], format)
    if output is None:
        click.echo(text, nl=False)
        return 0
    try:
        _replace(output, text)
    except OSError as e:
        raise click.ClickException(f"cannot write {output}: {e.strerror}") from e
    return 0


def _replace(path: str, text: str) -> None:
    """Whoever reads it meanwhile sees all of the old or all of the new one."""
    if os.path.exists(path) and not stat.S_ISREG(os.stat(path).st_mode):
        raise click.ClickException(f"cannot write {path}: it is not a file, and would be replaced by one")
    folder, name = os.path.split(os.path.abspath(path))
    fd, temporary = tempfile.mkstemp(prefix=f".{name}-", dir=folder)
    try:
        with open(fd, "w", encoding="utf-8") as f:
            os.fchmod(fd, 0o644)  # it is read by somebody else
            f.write(text)
        os.rename(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def _there_are() -> list[Family]:
    """What is to be seen now."""
    build = Family("allgone_build_info", "gauge", "The version of allgone that tells this.")
    build.add(1, version=_version())
    number = Family("allgone_containments", "gauge", "Containments by backend, state and user.")
    members = Family("allgone_processes", "gauge", "Live processes in containments.")
    memory = Family("allgone_memory_bytes", "gauge", "Memory of containments that have a memory controller.", "bytes")
    cpu = Family("allgone_live_cpu_seconds", "gauge", "CPU time that containments have used so far.", "seconds")
    strays = Family("allgone_stray_processes", "gauge", "Processes of process groups that no guard knows.")
    measured = (number, members, memory, cpu)
    sums = {family.name: defaultdict[tuple[tuple[str, object], ...], float](float) for family in measured}
    items = inventory.items()
    for item, pids in zip(items, inventory.members(items), strict=True):
        who = (("backend", item.backend), ("uid", item.uid))
        sums[number.name][(*who, ("state", item.state))] += 1
        sums[members.name][who] += len(pids)
        for family, used in ((memory, item.memory()), (cpu, item.cpu())):
            if used is not None:
                sums[family.name][who] += used
    for family in measured:
        for labels, value in sorted(sums[family.name].items()):
            family.add(value, **dict(labels))
    strays.add(len(inventory.strays()))
    return [build, *measured, strays]


def _version() -> str:
    try:
        return metadata.version("allgone")
    except metadata.PackageNotFoundError:  # a source tree in PYTHONPATH
        return "unknown"


def _there_were(folder: str) -> list[Family]:
    """What was counted, by all users that may."""
    stops = Family("allgone_stops", "counter", "Containments that were stopped, or ended by guard or janitor.")
    failures = Family("allgone_stop_failures", "counter", "Stops after which something was alive still.")
    sums = {
        "stopped_processes": Family("allgone_stopped_processes", "counter", "Processes that a stop has found alive."),
        "killed_processes": Family("allgone_killed_processes", "counter", "Processes that a stop had to SIGKILL."),
        "escaped_processes": Family("allgone_escaped_processes", "counter", "Processes that left their containment."),
        "oom_kills": Family("allgone_oom_kills", "counter", "Processes killed by the kernel for want of memory."),
        "cpu_seconds": Family("allgone_cpu_seconds", "counter", "CPU time of stopped containments.", "seconds"),
    }
    took = Family("allgone_stop_seconds", "histogram", "How long stops by supervisors took.", "seconds")
    for uid, counts in _counted(folder):
        for backend in BACKENDS:
            who = {"backend": backend, "uid": uid}
            for by in BY:
                stops.add(counts.of(backend, "stops", by), **who, by=by)
                failures.add(counts.of(backend, "stop_failures", by), **who, by=by)
            for name, family in sums.items():
                family.add(counts.of(backend, name), **who)
            number = 0.0
            for bound, number in counts.buckets(backend):
                took.add(number, "_bucket", **who, le="+Inf" if bound == float("inf") else bound)
            took.add(counts.of(backend, "stop_seconds"), "_sum", **who)
            took.add(number, "_count", **who)
    return [stops, failures, *sums.values(), took]


def _counted(folder: str) -> Iterator[tuple[int, Counts]]:
    try:
        names = sorted(os.listdir(folder))
    except OSError as e:
        raise click.ClickException(f"cannot read the counters in {folder}: {e.strerror}") from e
    for name in names:
        uid = counters.uid_of(name)
        if uid is None:
            continue
        try:
            yield uid, Counts(counterfile.total(f"{folder}/{name}", counters.COUNT, uid))
        except OSError as e:
            say(f"left out: {folder}/{name}: {e.strerror}")
