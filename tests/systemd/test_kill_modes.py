"""Stopped by systemd and by allgone, the same unruly programs hear the same and end alike; docs/kill-modes.md has the table.

ALLGONE_WRITE_DOCS=1 writes the table into the page.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest
from support.systemd_env import CHECKOUT, Environment

RUNNER = CHECKOUT / "tests/programs/stops_compared.py"
PAGE = CHECKOUT / "docs/kill-modes.md"
BEGIN, END = "<!-- begin: made by tests/systemd/test_kill_modes.py -->\n", "<!-- end -->\n"

# Long enough for a busy machine's processes to act on a signal; whoever does not is killed twice or four times later.
TIMEOUT_STOP = "2"
MODES = ("control-group", "mixed", "process")
ASKING = ("SIGTERM", "SIGHUP")

Fate = list[str]  # the signals that a process heard, then how it ended


def actor(role: str, *children: dict[str, Any], ends_on: tuple[str, ...] = (), **more: bool) -> dict[str, Any]:
    """One process of tests/programs/hears_signals.py."""
    return {"role": role, "ends_on": ends_on, "children": children, **more}


def leader(*children: dict[str, Any], ends_on: tuple[str, ...] = (), **more: bool) -> dict[str, Any]:
    return actor("leader", *children, ends_on=ends_on, **more)


def child(*ends_on: str, **more: bool) -> dict[str, Any]:
    return actor("child", ends_on=ends_on, **more)


TERM, HUP, QUIT = ("SIGTERM",), ("SIGHUP",), ("SIGQUIT",)
SHELL = leader(child(*HUP), ends_on=HUP)


@dataclass(frozen=True, eq=False)
class Table:
    """Programs, each stopped in every mode, and the settings that they share."""

    title: str
    settings: Mapping[str, str]
    programs: Mapping[str, dict[str, Any]]


PLAIN = Table(
    "With the defaults",
    {},
    {
        "both end on SIGTERM": leader(child(*TERM), ends_on=TERM),
        "the leader ignores SIGTERM": leader(child(*TERM)),
        "the child ignores SIGTERM": leader(child(), ends_on=TERM),
        "the child called `setsid()`": leader(child(*TERM, session=True), ends_on=TERM),
        "a daemon (two forks and `setsid()`) that ignores SIGTERM": leader(actor("daemon", daemon=True), ends_on=TERM),
        "the child is stopped, by SIGSTOP": leader(child(*TERM, stopped=True), ends_on=TERM),
        "the leader waits for its child to end": leader(child(*TERM), ends_on=TERM, waits=True),
        "the leader passes SIGTERM on to its child, and waits for it to end": leader(
            child(*TERM), ends_on=TERM, passes_on=True, waits=True
        ),
        # SIGUSR1 is what the child tells it by.
        "the leader ends when its child has heard SIGTERM; the child ends on a second one": leader(
            child(*TERM, *TERM, tells=True), ends_on=(*TERM, "SIGUSR1")
        ),
        "both end on SIGHUP only, as interactive shells do": SHELL,
    },
)
HANG_UP = Table(
    "With `send_sighup`",
    {"SendSIGHUP": "yes"},
    {
        "both end on SIGHUP only, as interactive shells do": SHELL,
        # Whether one that ends on the first of the two hears the second as well is a matter of luck.
        "both end when they have heard both": leader(child(*TERM, *HUP), ends_on=(*TERM, *HUP)),
        "the leader ends when it has heard both; the child ignores both, as under `nohup`": leader(
            child(), ends_on=(*TERM, *HUP)
        ),
        "both end when they have heard both; the child is stopped": leader(
            child(*TERM, *HUP, stopped=True), ends_on=(*TERM, *HUP)
        ),
    },
)
FINAL = Table(
    "With `final_kill_signal=SIGQUIT`",
    {"FinalKillSignal": "SIGQUIT"},
    {
        "both end on SIGTERM only": leader(child(*TERM), ends_on=TERM),
        "both end on SIGQUIT only": leader(child(*QUIT), ends_on=QUIT),
        "the leader ends on SIGTERM, the child on SIGQUIT": leader(child(*QUIT), ends_on=TERM),
        "the leader ends on SIGTERM, the child on SIGQUIT; it is stopped": leader(
            child(*QUIT, stopped=True), ends_on=TERM
        ),
        "the leader ends on SIGQUIT, the child on neither": leader(child(), ends_on=QUIT),
        "neither ends on either": leader(child()),
    },
)
TABLES = (PLAIN, HANG_UP, FINAL)


@dataclass(frozen=True)
class Case:
    """A cell: one program, stopped by one setting."""

    table: Table
    program: str
    mode: str

    def __str__(self) -> str:
        return ", ".join([self.program, self.mode, *(f"{k}={v}" for k, v in self.table.settings.items())])

    def to_dict(self) -> dict[str, object]:
        defaults = {"SendSIGHUP": "no", "FinalKillSignal": "SIGKILL", "TimeoutStopSec": TIMEOUT_STOP}
        return {
            "tree": self.table.programs[self.program],
            "setting": {"KillMode": self.mode, **defaults, **self.table.settings},
        }


CASES = [Case(table, program, mode) for table in TABLES for program in table.programs for mode in MODES]

# What differs, by design. A difference that is not here is a bug, and one that is here and not found as well.
ASKS_AGAIN, GIVES_UP = "a", "b"
REASONS = {
    ASKS_AGAIN: (
        "When the leader has ended and others have not, systemd sends `KillSignal=` to those once more, and begins another "
        "`TimeoutStopSec=`. allgone asks each process once, and `timeout_stop` is for all of them together: a stop takes no "
        "longer than you said."
    ),
    GIVES_UP: (
        "systemd sends no SIGKILL where `FinalKillSignal=` is another signal. It goes through the signals once more, then "
        "gives up: the unit is `failed`, and its processes live on. allgone kills what is left after another "
        "`timeout_stop`, for nothing may be left after a stop."
    ),
}
DIFFERENT = {
    (
        PLAIN.title,
        "the leader ends when its child has heard SIGTERM; the child ends on a second one",
        "control-group",
    ): ASKS_AGAIN,
    **{(FINAL.title, "neither ends on either", mode): GIVES_UP for mode in MODES},
    **{(FINAL.title, "the leader ends on SIGQUIT, the child on neither", mode): GIVES_UP for mode in MODES[:2]},
    (FINAL.title, "both end on SIGTERM only", "mixed"): GIVES_UP,
}


def reason(case: Case) -> str | None:
    return DIFFERENT.get((case.table.title, case.program, case.mode))


@dataclass(frozen=True)
class Found:
    """What was found of a case: role -> fate, by systemd and by allgone; and what allgone's report says."""

    systemd: dict[str, Fate]
    allgone: dict[str, Fate]
    report: dict[str, dict[str, bool]]


@pytest.fixture(scope="module")
def found(environment: Environment) -> dict[Case, Found]:
    """All cases, run at the same time."""
    cases = json.dumps([case.to_dict() for case in CASES])
    done = environment.run(environment.python, str(RUNNER), input=cases)
    return {case: as_told(case, **each) for case, each in zip(CASES, json.loads(done.stdout), strict=True)}


def as_told(
    case: Case, systemd: dict[str, Fate], allgone: dict[str, Fate], report: dict[str, dict[str, bool]]
) -> Found:
    if reason(case) == ASKS_AGAIN:  # a program that makes sure that the first has been heard before there is another
        return Found(systemd, allgone, report)
    return Found(*({role: settled(fate) for role, fate in side.items()} for side in (systemd, allgone)), report)


def settled(fate: Fate) -> Fate:
    """Without what is luck: in which order signals are taken that came together, and whether two SIGTERM became one."""
    *heard, end = fate
    runs = [sorted(set(run), reverse=True) for _, run in itertools.groupby(heard, ASKING.__contains__)]
    return [*itertools.chain(*runs), end]


def test_allgone_does_as_systemd_does_where_no_reason_is_given(found: dict[Case, Found]) -> None:
    differing = {
        str(case): (each.systemd, each.allgone) for case, each in found.items() if each.systemd != each.allgone
    }
    assert {case: sides for case, sides in differing.items() if case not in map(str, filter(reason, CASES))} == {}


def test_each_difference_that_has_a_reason_is_there(found: dict[Case, Found]) -> None:
    assert [str(case) for case in CASES if reason(case) and found[case].systemd == found[case].allgone] == []
    assert {reason(case) for case in CASES} == {None, *REASONS}
    assert len([case for case in CASES if reason(case)]) == len(DIFFERENT)


def test_nothing_lives_on_that_allgone_was_not_asked_to_leave(found: dict[Case, Found]) -> None:
    survivors = {(case, role) for case in CASES for role, fate in found[case].allgone.items() if fate[-1] == "lives"}
    assert {(case.mode, role == "leader") for case, role in survivors} == {("process", False)}


def test_the_report_names_who_was_killed_and_who_lives_on(found: dict[Case, Found]) -> None:
    for case in CASES:
        for role, (*heard, end) in found[case].allgone.items():
            told = found[case].report[role]
            assert told["left_running"] == (end == "lives"), (case, role)
            assert told["killed"] == (end == "killed" or "SIGQUIT" in heard), (case, role)


def test_the_page_has_what_was_found(found: dict[Case, Found], environment: Environment) -> None:
    page = PAGE.read_text(encoding="utf-8")
    head, begin, rest = page.partition(BEGIN)
    shown, end, tail = rest.partition(END)
    made = "\n".join(table_lines(found))
    if os.environ.get("ALLGONE_WRITE_DOCS") == "1":
        PAGE.write_text(head + begin + made + end + tail, encoding="utf-8")
    else:
        assert shown == made, "ALLGONE_WRITE_DOCS=1 writes the page anew"


def table_lines(found: dict[Case, Found]) -> list[str]:
    lines = []
    for table in TABLES:
        lines += ["", f"### {table.title}", "", "| Program | " + " | ".join(f"`{mode}`" for mode in MODES) + " |"]
        lines += ["|---|" + "---|" * len(MODES)]
        for program in table.programs:
            cells = [cell(case, found[case]) for mode in MODES for case in [Case(table, program, mode)]]
            lines.append(f"| {program} | " + " | ".join(cells) + " |")
    lines += ["", "### Where allgone differs", ""]
    return lines + [f"- **{letter}**: {why}" for letter, why in REASONS.items()] + ["", ""]


def cell(case: Case, seen: Found) -> str:
    lines = []
    for role in sorted(seen.systemd, key=lambda role: (role != "leader", role)):
        ours, theirs = seen.allgone[role], seen.systemd[role]
        lines.append(f"{role}: {' '.join(ours)}")
        if ours != theirs:
            lines.append(f"systemd's {role}: {' '.join(theirs)} **{reason(case) or '?'}**")
    return "<br>".join(lines)
