"""What a stop found and did."""

from __future__ import annotations

import signal
from dataclasses import asdict, dataclass

from allgone._core.genealogy import Genealogy


@dataclass(frozen=True, slots=True)
class Process:
    """A process as it was seen; facts for people, not a handle. `how`: of an escapee, where it is and by what."""

    pid: int
    name: str = "?"
    command: str = ""
    user: str = ""
    how: str = ""

    def __str__(self) -> str:
        return f"{self.name} (pid {self.pid}{', ' + self.how if self.how else ''})"


@dataclass(frozen=True, slots=True)
class Sent:
    """A signal that was sent: which, to which pids, and how many seconds after the stop began."""

    signum: int
    pids: tuple[int, ...]
    after: float

    def __str__(self) -> str:
        name = signal.Signals(self.signum).name if self.signum in _NAMED else f"signal {self.signum}"
        return f"{name} to {_count(len(self.pids), 'process')} after {self.after:.3f} s"


_NAMED = frozenset(map(int, signal.Signals))


def _count(n: int, what: str) -> str:
    return f"1 {what}" if n == 1 else f"{n} {what}es"


@dataclass(frozen=True, slots=True)
class Report:
    """What a stop found and did. ``str()`` of it reads well, `to_dict()` is JSON.

    returncode
        Of the leader, as `subprocess.Popen.returncode`; None for a group, or where it could not be known.
    members
        Who was alive in the containment when the stop began; at most `described` of them in words.
    sent
        What was sent to whom, in order.
    killed
        Who had to be sent SIGKILL (or `final_kill_signal`) because the polite signal did not end them.
    left_running
        Members that ``kill_mode="process"`` spared.
    escapees
        Processes that left the containment: a process group's by setsid(), with ``trace=True`` those that left a cgroup
        as well. With ``sweep=True``, or ``escapees="kill"``, they were killed.
    duration
        Seconds from the beginning of the stop to its end.
    ended_from_outside
        Who or what else stopped or killed it, such as ``systemctl stop`` of its scope; "" if nobody did.
    genealogy
        With ``trace=True``: who started whom, ran what, when, and ended how.
    may_have_started
        With ``trace=True``: what others may have started for it. Programs of its that ask others for that, and
        transient units of systemd's that are there and were not before.
    """

    name: str
    backend: str
    returncode: int | None
    members: tuple[Process, ...]
    sent: tuple[Sent, ...]
    killed: tuple[Process, ...]
    left_running: tuple[Process, ...]
    escapees: tuple[Process, ...]
    duration: float
    ended_from_outside: str = ""
    genealogy: Genealogy | None = None
    may_have_started: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, object]:
        """The report as JSON-serialisable values.

        >>> Report("1-true", "cgroup", 0, (), (), (), (), (), 0.0).to_dict()["returncode"]
        0
        """
        return asdict(self)

    def __str__(self) -> str:
        ended = "still running" if self.returncode is None else _how(self.returncode)
        lines = [f"{self.name} ({self.backend}): {ended}, stopped in {self.duration:.3f} s"]
        for title, who in (
            ("alive at stop", self.members),
            ("had to be killed", self.killed),
            ("left running, as kill_mode says", self.left_running),
            ("escaped", self.escapees),
        ):
            if who:
                lines.append(f"  {title}: " + ", ".join(map(str, who[:8])) + (", …" if len(who) > 8 else ""))
        if self.genealogy is not None:
            lines.append(f"  traced: {self.genealogy}")
        if self.may_have_started:
            lines.append("  others may have started something for it: " + ", ".join(self.may_have_started))
        if self.ended_from_outside:
            lines.append(f"  ended from outside: {self.ended_from_outside}")
        lines += [f"  sent {sent}" for sent in self.sent if sent.signum != signal.SIGCONT]
        return "\n".join(lines)


def _how(returncode: int) -> str:
    if returncode < 0:
        name = signal.Signals(-returncode).name if -returncode in _NAMED else f"signal {-returncode}"
        return f"ended by {name}"
    return f"exit status {returncode}"
