"""What a stop found and did."""

from __future__ import annotations

import signal
from dataclasses import asdict, dataclass

from allgone._core.genealogy import Genealogy
from allgone._core.names import printable
from allgone._core.usage import Usage


@dataclass(frozen=True, slots=True)
class Process:
    """A process as it was seen; facts for people, not a handle."""

    pid: int
    name: str = "?"
    command: str = ""
    user: str = ""
    parent: int = 0  # pid; 0 where it is not known
    started: float | None = None  # seconds since 1970
    how: str = ""  # of an escapee of a traced command: where it is now, and what brought it there

    def __str__(self) -> str:
        return f"{printable(self.name, 64)} (pid {self.pid}{', ' + printable(self.how, 300) if self.how else ''})"


@dataclass(frozen=True, slots=True)
class Port:
    """What a containment listened on when its stop began (as `ListeningSocket`), and whether that was free after it.

    It is not where a process outside was given the socket, and holds it still.
    """

    proto: str
    address: str
    port: int | None
    released: bool

    def __str__(self) -> str:
        where = self.address if self.port is None else f"{self.address} port {self.port}"
        return f"{self.proto} {where}" + ("" if self.released else " (still held)")


@dataclass(frozen=True, slots=True)
class Sample:
    """What a containment used at one moment: `at` in seconds since 1970, `cpu` in seconds until then, `memory` in bytes
    (None without a memory controller)."""

    at: float
    cpu: float
    memory: int | None


@dataclass(frozen=True, slots=True)
class Sent:
    """A signal that was sent: which, to which pids, and how many seconds after the stop began."""

    signum: int
    pids: tuple[int, ...]
    after: float

    def __str__(self) -> str:
        return f"{signal_name(self.signum)} to {_count(len(self.pids), 'process')} after {self.after:.3f} s"


_NAMED = frozenset(map(int, signal.Signals))


def signal_name(signum: int) -> str:
    """As SIGTERM; signal 60 for one that has no name."""
    return signal.Signals(signum).name if signum in _NAMED else f"signal {signum}"


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
    began
        When the stop began, in seconds since 1970; None where that is not known.
    usage
        What it has used; None where it could not be known.
    samples
        With ``sample=``: what it had used when.
    ports
        What it listened on, and whether that was released; None unless somebody asked before the stop, by
        ``ready=listening(…)`` or `Popen.listening`, and where the kernel could not be asked.
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
    ports: tuple[Port, ...] | None = None
    began: float | None = None
    usage: Usage | None = None
    genealogy: Genealogy | None = None
    may_have_started: tuple[str, ...] = ()
    samples: tuple[Sample, ...] = ()

    @property
    def oom_kills(self) -> int | None:
        """How many processes the kernel has killed for want of memory; None where that is not known: it takes the
        memory controller, which a containment with a limit on memory has."""
        return None if self.usage is None else self.usage.oom_kills

    @property
    def outcome(self) -> str:
        """How the leader ended, in words; of a group, which has none, that there is no exit status."""
        return "no exit status" if self.returncode is None else how_ended(self.returncode)

    def to_dict(self) -> dict[str, object]:
        """The report as JSON-serialisable values.

        >>> Report("1-true", "cgroup", 0, (), (), (), (), (), 0.0).to_dict()["returncode"]
        0
        """
        return asdict(self)

    def __str__(self) -> str:
        lines = [f"{self.name} ({self.backend}): {self.outcome}, stopped in {self.duration:.3f} s"]
        for title, who in (
            ("alive at stop", self.members),
            ("had to be killed", self.killed),
            ("left running, as kill_mode says", self.left_running),
            ("escaped", self.escapees),
        ):
            if who:
                lines.append(f"  {title}: " + ", ".join(map(str, who[:8])) + (", …" if len(who) > 8 else ""))
        if self.ports:
            lines.append("  listened on: " + ", ".join(map(str, self.ports)))
        if self.genealogy is not None:
            lines.append(f"  traced: {self.genealogy}")
        if self.may_have_started:
            lines.append("  others may have started something for it: " + ", ".join(self.may_have_started))
        if self.oom_kills:
            lines.append(f"  killed by the kernel for want of memory: {_count(self.oom_kills, 'process')}")
        if self.ended_from_outside:
            lines.append(f"  ended from outside: {printable(self.ended_from_outside, 500)}")
        lines += [f"  sent {sent}" for sent in self.sent if sent.signum != signal.SIGCONT]
        return "\n".join(lines)


def how_ended(returncode: int) -> str:
    """Words for a return code as subprocess has it.

    >>> how_ended(3), how_ended(-15)
    ('exit status 3', 'ended by SIGTERM')
    """
    if returncode < 0:
        return f"ended by {signal_name(-returncode)}"
    return f"exit status {returncode}"
