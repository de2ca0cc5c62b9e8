"""The rounds of a soak one after the other, those who last through them, and the summary."""

from __future__ import annotations

import argparse
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator

import truth
from ground import Ground
from results import Found, grown, growth
from rounds import Round
from run import Run


class Whole:
    """All rounds. `asked`: the command's options."""

    def __init__(self, asked: argparse.Namespace, where: Ground, say: Callable[..., None]) -> None:
        self._asked = asked
        self._ground = where
        self._say = say
        self._found = Found()
        self._lasting: dict[str, Run] = {}
        self._megabytes: dict[str, list[float]] = {}
        self._fds: dict[str, Counter[str]] = {}
        self._rounds = 0
        self._began = time.monotonic()

    def hold(self) -> int:
        """Returns the exit status."""
        place = "slices of systemd's" if self._ground.systemd else f"cgroups below {self._ground.folder}"
        self._say(f"soak: seed {self._asked.seed}, {self._asked.minutes:g} min, in {place}, Linux {os.uname().release}")
        interrupted = False
        try:
            while self._seconds() < self._asked.minutes * 60:
                self._one_round()
        except KeyboardInterrupt:
            interrupted = True
        finally:
            for each in (signal.SIGINT, signal.SIGTERM):
                signal.signal(each, signal.SIG_IGN)
            for each in self._lasting.values():
                each.close()
        self._found.leaks += grown(self._megabytes)
        self._say(*self._summary())
        return 1 if not self._found.is_good else 130 if interrupted else 0

    def _seconds(self) -> float:
        return time.monotonic() - self._began

    def _one_round(self) -> None:
        self._rounds += 1
        for kind in ("cgroup", "sweeping", *(["delegated"] if self._ground.systemd else [])):
            if kind not in self._lasting or self._lasting[kind].process.poll() is not None:
                self._start_lasting(kind)
        began = self._seconds()
        this = Round(
            self._ground, self._rounds, self._asked.seed, list(self._lasting.values()), seconds=self._asked.round,
            supervisors=self._asked.supervisors, memory=self._asked.memory, disturb=self._asked.disturb,
            sabotage=self._asked.sabotage,
        )  # fmt: skip
        found = this.hold()
        found.leaks += self._looked_at()
        self._say(
            f"{self._rounds:4} {self._seconds():6.0f} s, {self._seconds() - began:3.0f} s; want of {this.pressure}; "
            + found.line(),
            *found.details(),
        )
        self._found += found

    def _start_lasting(self, kind: str) -> None:
        if kind in self._lasting:
            self._lasting.pop(kind).close()
        name = f"lasting-{kind}-{self._rounds}"
        self._lasting[kind] = Run(self._ground.room(name), kind, "", f"{self._asked.seed}:{name}", self._asked.sabotage)
        self._megabytes[kind] = []
        self._fds.pop(kind, None)

    def _looked_at(self) -> list[str]:
        """fds and memory of those that last, which are at rest."""
        leaks = []
        for kind, run in self._lasting.items():
            if run.process.poll() is not None or not run.has_answered:
                continue
            self._megabytes[kind].append(truth.resident(run.process.pid))
            fds = truth.fds(run.process.pid)
            more = fds - self._fds.setdefault(kind, fds)
            leaks += [f"{run}: {n} more fds open on {what} than after its first round" for what, n in more.items()]
            self._fds[kind] = self._fds[kind] | fds  # said once
        return leaks

    def _summary(self) -> Iterator[str]:
        found = self._found
        yield f"\n{self._rounds} rounds in {self._seconds():.0f} s, seed {self._asked.seed}"
        yield found.line()
        yield "operations: " + ", ".join(f"{what} {n}" for what, n in found.operations.most_common())
        for kind, each in self._megabytes.items():
            if each:
                yield (
                    f"{kind}, long-lived: {each[0]:.1f} MB after its first round, {each[-1]:.1f} MB after its last, "
                    f"growth {growth(each):+.2f} MB; {self._fds[kind].total()} fds at most"
                )
        yield from found.details()
        yield (
            "nothing survived, nothing leaked"
            if found.is_good
            else f"FAILED; again, in the same place: {self._again()}"
        )

    def _again(self) -> str:
        asked = self._asked
        words = ["scripts/soak", f"--seed {asked.seed}", f"--minutes {asked.minutes:g}", f"--round {asked.round:g}"]
        return " ".join([*words, f"--supervisors {asked.supervisors}", f"--memory {asked.memory}"])
