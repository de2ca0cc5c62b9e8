"""From a stop to its `Report`, and stops that follow an exception without replacing it."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from allgone._core.callers import level_outside
from allgone._core.containment import Containment, Leader
from allgone._core.genealogy import together
from allgone._core.policy import StopPolicy
from allgone._core.report import Port, Process, Report
from allgone._core.stop import Outcome
from allgone._linux import processes
from allgone._process.tracing import Escapees, Traced
from allgone._upkeep import telling
from allgone.errors import EscapedProcessWarning, StopTimeout

if TYPE_CHECKING:
    from allgone._process.listening import Held

_LEFT = {
    "process-group": (
        "process group by setsid()",
        'sweep=True stops such processes too, and backend="cgroup" keeps them from leaving',
    ),
    "cgroup": ("cgroup", 'escapees="kill" ends such processes too, and escapees="ignore" is silent about them'),
}
_LOOKS = 20  # at an escapee that hops from process to process


@dataclass(slots=True)
class Stopping:
    """A stop that a driver is to carry out, and then to set `outcome`; where that is set, nothing is left to stop."""

    containment: Containment
    leaders: Sequence[Leader]
    policy: StopPolicy
    outcome: Outcome | None


@contextmanager
def reported(
    containment: Containment,
    leaders: Sequence[Leader],
    policy: StopPolicy,
    settle: Callable[[], int | None],
    keep: Callable[[Report], None],
    sent_before: Collection[int] = (),
    *,
    ports: bool = False,
    escapees: Escapees = "warn",
    traced: Sequence[Traced] = (),
    all_traced: bool = True,
) -> Iterator[Stopping]:
    """Stop it in the block; then `settle` is called (it returns the return code), and `keep` is told what happened.

    `sent_before` are signals that we have sent before the stop; `ports`: say which it held, too.

    `escapees`: what of those that a process group knows of. `traced`: the commands that are traced, and whether
    those are all (`all_traced`): of some only there is no genealogy of the whole.

    Warns of escapees that are still alive (`EscapedProcessWarning`). Raises `StopTimeout`.
    """
    began, began_at = time.monotonic(), time.time()
    gone = containment.gone
    ended_before = all(leader.has_ended() for leader in leaders)
    left_before = frozenset() if gone else containment.escapees()
    seen = {p.pid: p for p in (*processes.named(containment.members()), *processes.described(left_before))}
    members = tuple(p for pid, p in seen.items() if pid not in left_before)
    held = _held(containment) if ports and not gone else None
    stopping = Stopping(containment, leaders, policy, Outcome(began) if gone else None)
    try:
        yield stopping
    except BaseException as e:
        if held is not None:
            held.close()
        if isinstance(e, StopTimeout):
            telling.ended(containment, "supervisor", e, owner=containment.owner, members=members)
        raise
    outcome = stopping.outcome
    assert outcome is not None
    if outcome.left_running:
        containment.release()
    returncode = settle()
    found = [each.at_stop() for each in traced]
    alive = _still_alive(containment)
    later = {p.pid: p for p in processes.described(outcome.left_running)} | alive
    escaped = {p.pid: p for each in found for p in each.escapees}
    seen |= {pid: p for pid, p in later.items() if pid not in left_before} | escaped
    sent = {*sent_before, *(each.signum for each in outcome.sent)}
    report = Report(
        name=containment.name,
        backend=containment.backend,
        returncode=returncode,
        members=members,
        sent=tuple(outcome.sent),
        killed=_known(outcome.killed, seen),
        left_running=_known(outcome.left_running, seen),
        escapees=_known(left_before | alive.keys() | escaped.keys(), seen),
        duration=time.monotonic() - began,
        ended_from_outside=_ended_from_outside(containment, returncode, sent_before if ended_before else sent),
        began=began_at,
        usage=containment.usage(),
        genealogy=together([each.genealogy for each in found]) if all_traced else None,
        may_have_started=tuple(dict.fromkeys(what for each in found for what in each.may_have_started)),
    )
    if held is not None:
        report = replace(report, ports=_released(held))
    keep(report)
    if containment.gone:
        containment.close()
    chosen = [(escapees, frozenset(alive)), *((t.escapees, f.alive) for t, f in zip(traced, found, strict=True))]
    outlived = frozenset().union(*(pids for choice, pids in chosen if choice == "kill"))
    telling.stopped(containment, report, alive=frozenset().union(*(pids for _, pids in chosen)), failed=bool(outlived))
    if outlived:
        who = ", ".join(str(p) for p in _known(outlived, seen))
        raise StopTimeout(f"{report.name}: escaped, and alive in spite of SIGKILL: {who}", outlived)
    warned_of = frozenset().union(*(pids for choice, pids in chosen if choice == "warn"))
    if warned_of:
        _warn(report, warned_of)  # which may raise, where warnings are errors: the stop is done by then


def _held(containment: Containment) -> Held | None:
    from allgone._process.listening import Held  # which needs pyroute2

    try:
        return Held(containment)
    except OSError:  # no fds left, say: a stop does not wait for what is only to be told of it
        return None


def _released(held: Held) -> tuple[Port, ...] | None:
    try:
        return held.now()
    except OSError:  # the same
        return None


def _ended_from_outside(containment: Containment, returncode: int | None, sent: Collection[int]) -> str:
    """Nobody is asked where the leader was ended by one of the signals `sent`, which are ours."""
    ended_by = -(returncode or 0)
    return "" if ended_by in sent else containment.ended_from_outside(suspected=ended_by > 0)


def _known(pids: frozenset[int], seen: dict[int, Process]) -> tuple[Process, ...]:
    return tuple(seen.get(pid) or Process(pid) for pid in sorted(pids))


def _still_alive(containment: Containment) -> dict[int, Process]:
    """The escapees. One that was gone before its name was read may have gone on under another number: look again."""
    found: tuple[Process, ...] = ()
    for _ in range(_LOOKS):
        found = processes.described(containment.escapees())
        if not found or any(p != Process(p.pid) for p in found):
            break
    return {p.pid: p for p in found}


def _warn(report: Report, alive: Collection[int]) -> None:
    who = ", ".join(str(p) for p in report.escapees if p.pid in alive)
    how, remedy = _LEFT[report.backend]
    warnings.warn(
        f"{report.name}: still alive, for they left the {how}: {who}. {remedy}",
        EscapedProcessWarning,
        stacklevel=level_outside("allgone", "contextlib"),
    )


def stop_after(error: BaseException, stop: Callable[[], object]) -> None:
    """Stop because of `error`, which goes on being raised; a failure of the stop is noted on it."""
    try:
        stop()
    except Exception as failure:  # noqa: BLE001  # whatever it is, it must not replace the error that came first
        note(error, failure)


def note(error: BaseException, failure: Exception) -> None:
    """Say on `error`, which goes on being raised, that the stop after it has failed."""
    if hasattr(error, "add_note"):
        error.add_note(f"and then: {type(failure).__name__}: {failure}")
    else:  # Python 3.10
        last: BaseException = error
        while last.__context__ is not None:
            last = last.__context__
        last.__context__ = failure
