"""Who started whom, ran what, and ended how: what the kernel told of a leader and its descendants."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Exec:
    """A program that a process became (execve(2)): when, and its command line.

    That is read a moment later. A program that had ended by then has its name only, or "", if its parent knew of the
    end as well; one that had become another has the command line of that.
    """

    at: float
    command: str


@dataclass(frozen=True, slots=True)
class Life:
    """One process from its beginning to its end. Times are seconds since the (first) leader was started.

    parent
        Who the kernel says forked it; where CLONE_PARENT was used, the parent of that one.
    began, ended
        None where it is not known; `ended` is None also while it lives.
    returncode
        As `subprocess.Popen.returncode`: negative is a signal. None where `ended` is.
    execs
        What it became, in order. Empty: it was only ever a fork of its parent.
    sessions
        When it called setsid(2).
    """

    pid: int
    parent: int
    began: float | None
    ended: float | None
    returncode: int | None
    execs: tuple[Exec, ...]
    sessions: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Genealogy:
    """The leader and all its descendants; of a group, all leaders and theirs.

    A number may come twice: the kernel gives those of ended processes again.

    since
        When the (first) leader was started, in seconds since 1970.
    lives
        In the order of their beginning, the (first) leader first.
    lost
        Events that the kernel dropped, of all processes of the machine, since nobody read them fast enough. Unless it
        is 0, lives can be missing, and an end or an exec.
    unrecorded
        Processes beyond the first 100,000, and execs and calls of setsid(2) beyond the first 400,000: only counted.
    """

    since: float
    lives: tuple[Life, ...]
    lost: int
    unrecorded: int

    def __str__(self) -> str:
        processes = "1 process" if len(self.lives) == 1 else f"{len(self.lives)} processes"
        execs = sum(len(life.execs) for life in self.lives)
        lost = f"; {self.lost} events were lost" if self.lost else ""
        beyond = f"; {self.unrecorded} were too many to record" if self.unrecorded else ""
        return f"{processes}, execs: {execs}{lost}{beyond}"


def together(all_of_them: Sequence[Genealogy]) -> Genealogy | None:
    """Of several leaders that were traced at the same time; None of none."""
    if len(all_of_them) <= 1:
        return all_of_them[0] if all_of_them else None
    since = min(each.since for each in all_of_them)
    lives = [_later(life, each.since - since) for each in all_of_them for life in each.lives]
    return Genealogy(
        since,
        tuple(sorted(lives, key=lambda life: life.began or 0.0)),
        max(each.lost for each in all_of_them),  # of the whole machine's: what was lost at the same time is the same
        sum(each.unrecorded for each in all_of_them),
    )


def _later(life: Life, seconds: float) -> Life:
    return replace(
        life,
        began=None if life.began is None else life.began + seconds,
        ended=None if life.ended is None else life.ended + seconds,
        execs=tuple(Exec(each.at + seconds, each.command) for each in life.execs),
        sessions=tuple(at + seconds for at in life.sessions),
    )
