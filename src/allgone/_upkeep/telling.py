"""What is told of the end of a containment to those who look after many machines: a journal entry, and counters.

Nothing is, unless the environment asks for it: ALLGONE_JOURNAL=1, and ALLGONE_METRICS=DIR. Being told of is worth no
job's failure: what can't be told is logged, once in a process.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from allgone._core.containment import Containment
    from allgone._core.counters import By, Ending
    from allgone._core.report import Report
    from allgone._core.stop import Outcome
    from allgone.errors import StopTimeout

# One for each kind of entry, made by uuid4(): never to be changed, for others search for them.
STOPPED = "c6d2bd5481c643d18825fb236de2a7fd"
NOT_STOPPED = "a7442d7b142c461888120c475ea17c42"
ENDED_FOR = "76fceba1559745e297c6450b42157d77"
_ERROR, _WARNING, _NOTICE, _INFO = 3, 4, 5, 6  # syslog(3)

_has_logged = False


def check() -> None:
    """Raises ValueError for settings that mean nothing."""
    if (asked := os.environ.get("ALLGONE_JOURNAL", "")) not in ("", "0", "1"):
        raise ValueError(f"ALLGONE_JOURNAL must be 0 or 1, not {asked!r}")
    if (asked := os.environ.get("ALLGONE_METRICS", "")) and not asked.startswith("/"):
        raise ValueError(f"ALLGONE_METRICS must be the absolute path of a directory, not {asked!r}")


def is_wanted() -> bool:
    """Whether anybody is to be told."""
    return bool(os.environ.get("ALLGONE_METRICS")) or _wants_journal()


def _wants_journal() -> bool:
    return os.environ.get("ALLGONE_JOURNAL") == "1"


def stopped(containment: Containment, report: Report, *, alive: Collection[int] = (), failed: bool = False) -> None:
    """A stop is done. `alive`: escapees that live on; `failed`: they should not."""
    if not is_wanted():
        return
    from allgone._core.counters import Ending

    usage = report.usage
    is_worth_a_look = bool(alive or report.oom_kills)
    _tell(
        Ending(
            report.backend,
            "supervisor",
            failed=failed,
            stopped_processes=len(report.members),
            killed_processes=len(report.killed),
            escaped_processes=len(report.escapees),
            oom_kills=report.oom_kills or 0,
            cpu_seconds=0.0 if usage is None else usage.cpu_user + usage.cpu_system,
            stop_seconds=report.duration,
        ),
        _ids(containment, containment.owner),
        containment.owner,
        _ERROR if failed else _WARNING if is_worth_a_look else _INFO,
        [
            ("MESSAGE", str(report)),
            ("ALLGONE_NAME", report.name),
            ("ALLGONE_RETURNCODE", "" if report.returncode is None else str(report.returncode)),
            *(("ALLGONE_ESCAPEE", str(each)) for each in report.escapees),
        ],
    )


def ended(
    containment: Containment, by: By, outcome: Outcome | StopTimeout, *, owner: int, members: Collection[object] = ()
) -> None:
    """It was ended without a report. `outcome`: of the stop, or why that has failed; `owner`: the supervisor's pid;
    `members`: who was in it, as far as that is known."""
    if not is_wanted():
        return
    from allgone._core.counters import Ending
    from allgone.errors import StopTimeout

    failed = isinstance(outcome, StopTimeout)
    ids = _ids(containment, owner)
    if isinstance(outcome, StopTimeout):
        message, killed = str(outcome), outcome.survivors
    else:
        whose = "at the exit of its supervisor" if by == "supervisor" else f"by the {by}, for process {owner} is gone"
        message, killed = f"{', '.join(ids)} ({containment.backend}): ended {whose}", outcome.killed
    _tell(
        Ending(containment.backend, by, len(ids), failed, len(members), len(killed) if members else 0),
        ids,
        owner,
        _ERROR if failed else _NOTICE,
        [("MESSAGE", message), ("ALLGONE_NAME", containment.name)],
    )


def _ids(containment: Containment, owner: int) -> list[str]:
    """As ``allgone ps`` has them."""
    from allgone._backends.cgroup_containment import CgroupContainment
    from allgone._upkeep.leftovers import LeftGroups

    if isinstance(containment, CgroupContainment):
        return [os.path.relpath(containment.where(), os.path.dirname(containment.home.folder))]
    names = containment.names() if isinstance(containment, LeftGroups) else [containment.name]
    return [f"{owner}/{name}" for name in names]


def _tell(ending: Ending, ids: Sequence[str], owner: int, priority: int, said: Sequence[tuple[str, str]]) -> None:
    for tell in (_count, partial(_write, ids=ids, owner=owner, priority=priority, said=said)):
        try:
            tell(ending)
        except OSError as e:
            _log(e)


def _log(e: OSError) -> None:
    global _has_logged
    if not _has_logged:
        import logging

        _has_logged = True
        logging.getLogger("allgone").warning("not all that ends is counted or in the journal: %s", e)


def _count(ending: Ending) -> None:
    folder = os.environ.get("ALLGONE_METRICS")
    if not folder:
        return
    from allgone._core import counters
    from allgone._linux import counterfile

    if ending.backend in counters.BACKENDS:  # not somebody's own
        counterfile.add(f"{folder}/{counters.file_name(os.geteuid())}", ending.counts())


def _write(ending: Ending, *, ids: Sequence[str], owner: int, priority: int, said: Sequence[tuple[str, str]]) -> None:
    if not _wants_journal():
        return
    from allgone._linux import journal

    kind = NOT_STOPPED if ending.failed else STOPPED if ending.by == "supervisor" else ENDED_FOR
    counted = {  # what a guard has killed it can't say: it kills first
        "ALLGONE_STOPPED": ending.stopped_processes,
        "ALLGONE_KILLED": ending.killed_processes,
        "ALLGONE_ESCAPED": ending.escaped_processes,
        "ALLGONE_OOM_KILLS": ending.oom_kills,
        "ALLGONE_CPU_USEC": int(ending.cpu_seconds * 1e6),
    }
    took = {} if ending.stop_seconds is None else {"ALLGONE_DURATION_USEC": int(ending.stop_seconds * 1e6)}
    numbers = {"PRIORITY": priority, "ALLGONE_OWNER_PID": owner, **(counted if ending.by != "guard" else {}), **took}
    journal.send(
        [
            *said,
            ("MESSAGE_ID", kind),
            ("SYSLOG_IDENTIFIER", "allgone"),
            *(("ALLGONE_ID", each) for each in ids),
            ("ALLGONE_BACKEND", ending.backend),
            ("ALLGONE_BY", ending.by),
            *((name, str(value)) for name, value in numbers.items()),
        ]
    )
