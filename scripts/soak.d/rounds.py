"""One round: supervisors at work under pressure, killed and disturbed at random; then what is left is counted."""

from __future__ import annotations

import heapq
import itertools
import random
import re
import select
import signal
import sys
import time
from collections.abc import Callable
from functools import partial

import pressure
import truth
from ground import Ground, systemctl
from results import Found
from run import Run, chosen_fate

GRACE = 30.0  # seconds for guards to end what killed supervisors had, which is what they take with a process in D state
_GUARD_TAKES = 3.0  # seconds, of one that was started again just before its supervisor was killed
ANSWERS_WITHIN = 120.0  # seconds for an operation that was begun, under pressure
_SURVIVED = " has survived"  # what a supervisor says that has looked
_TOO_LATE = 1.5  # seconds to the end of a round, in which no supervisor is started any more
_DISTURBANCES = {
    "bus restarted": ("restart", "dbus"),
    "daemon-reload": ("daemon-reload",),
    "daemon-reexec": ("daemon-reexec",),
}
_KINDS = ["cgroup", "cgroup", "process-group", "sweeping"]


class Round:
    """`disturb`: whether systemd and the bus are ours to restart."""

    def __init__(
        self, ground: Ground, number: int, seed: int, lasting: list[Run], *, seconds: float, supervisors: int,
        memory: int, disturb: bool, sabotage: str,
    ) -> None:  # fmt: skip
        self._ground = ground
        self._number = number
        self._seed = seed
        self._chance = random.Random(f"{seed}:{number}")
        self._lasting = lasting
        self._until = time.monotonic() + seconds
        self._supervisors = supervisors
        self._memory = memory
        self._disturb = disturb
        self._sabotage = sabotage
        self._runs: list[Run] = []
        self._order = itertools.count()
        self._paused: set[Run] = set()
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self.found = Found()
        self.pressure = self._chance.choice(pressure.KINDS)

    def hold(self) -> Found:
        on_disk = truth.on_disk()
        room = self._ground.room(f"pressure-{self._number}")
        try:
            with pressure.on(room, self.pressure, self._chance, self._memory):
                self._plan_chaos()
                for each in self._lasting:
                    self._tell(each)
                for _ in range(self._supervisors):
                    self._start()
                self._until_time_is_over()
            self._end()
            while self._runs:
                self._check(self._runs[0])
                del self._runs[0]
            for each in self._lasting:
                self._check_lasting(each)
        finally:
            room.close()
            for each in self._runs:  # interrupted
                each.close()
        self.found.leaks += sorted(truth.on_disk() - on_disk)
        return self.found

    # What happens when

    def _at(self, when: float, what: Callable[[], None]) -> None:
        heapq.heappush(self._events, (when, next(self._order), what))

    def _moment(self) -> float:
        now = time.monotonic()
        return self._chance.uniform(now, max(now, self._until))

    def _plan_chaos(self) -> None:
        for each in self._lasting:
            if self._chance.random() < 0.5:
                self._at(self._moment(), partial(self._kill_guards, each))
            self._plan_pause(each)
        if self._disturb and self._chance.random() < 0.7:
            self._at(self._moment(), partial(self._disturb_system, self._chance.choice(list(_DISTURBANCES))))

    def _plan_pause(self, run: Run) -> None:
        """SIGSTOP to it, or to its guard, and SIGCONT soon."""
        if self._chance.random() < 0.3:
            begin = self._moment()
            send = run.send_guards if self._chance.random() < 0.3 else run.send
            self._at(begin, partial(self._pause, run, send))
            self._at(begin + self._chance.uniform(0.01, 1.0), partial(self._go_on, run))

    def _start(self) -> None:
        kinds = [*_KINDS, *(["delegated"] if self._ground.systemd else [])]
        n = self.found.supervisors
        name, seed = f"{self._number}-{n}", f"{self._seed}:{self._number}:{n}"
        fate = chosen_fate(self._chance, systemd=self._ground.systemd)
        started = Run(self._ground.room(name), self._chance.choice(kinds), fate, seed, self._sabotage)
        self._runs.append(started)
        self.found.supervisors += 1
        self._plan_pause(started)
        moment = self._moment()
        if fate != "end":
            self._at(moment, partial(self._meet, started, fate.partition(",")[0]))
        if fate == "guard, later kill":
            self._at(self._chance.uniform(moment, max(moment, self._until)), partial(self._meet, started, "kill"))

    def _until_time_is_over(self) -> None:
        deaf: set[Run] = set()
        while (now := time.monotonic()) < self._until:
            while self._events and self._events[0][0] <= now:
                heapq.heappop(self._events)[2]()
            talking = {each.fileno(): each for each in [*self._runs, *self._lasting] if each not in deaf}
            poller = select.poll()
            for fd in talking:
                poller.register(fd, select.POLLIN)
            soonest = min([self._until, *(when for when, _, _ in self._events[:1])])
            for fd, _ in poller.poll(max(0.0, soonest - time.monotonic()) * 1000):
                each = talking[fd]
                if not each.listen():
                    deaf.add(each)
                    if each.fate and self._until - time.monotonic() > _TOO_LATE:
                        self._start()
                elif each.fate and not each.has_answered:
                    self._tell(each)
        self._events.clear()  # what comes too late would meet who is at rest
        for each in self._paused:
            self._go_on(each)

    def _tell(self, run: Run) -> None:
        left = max(0.0, self._until - time.monotonic())
        run.tell(f"{'round' if run.fate else 'rest'} {left:.2f}")

    # Chaos

    def _meet(self, run: Run, fate: str) -> None:
        if run.process.poll() is not None:
            return
        self.found.chaos[fate] += 1
        if fate in ("guard", "both"):
            run.send_guards(signal.SIGKILL)
        if fate in ("kill", "both"):
            run.send(signal.SIGKILL)
        if fate == "term":
            run.send(signal.SIGTERM)
        if fate == "int":
            run.send(signal.SIGINT)
        if fate == "unit":
            run.was_ended = True
            if run.is_up:
                run.room.stop_unit()
            else:
                run.send(signal.SIGKILL)

    def _kill_guards(self, run: Run) -> None:
        if run.send_guards(signal.SIGKILL):
            self.found.chaos["guard"] += 1

    def _pause(self, run: Run, send: Callable[[int], object]) -> None:
        if run.process.poll() is None:
            self.found.chaos["paused"] += 1
            self._paused.add(run)
            send(signal.SIGSTOP)

    def _go_on(self, run: Run) -> None:
        run.send_guards(signal.SIGCONT)
        run.send(signal.SIGCONT)

    def _disturb_system(self, what: str) -> None:
        self.found.chaos[what] += 1
        systemctl(*_DISTURBANCES[what])

    # What is left

    def _end(self) -> None:
        deadline = time.monotonic() + ANSWERS_WITHIN
        for each in [*self._runs, *self._lasting]:
            while each.process.poll() is None and not each.was_ended and not each.has_answered:
                poller = select.poll()
                poller.register(each.fileno(), select.POLLIN)
                if not poller.poll(max(0.0, deadline - time.monotonic()) * 1000) or not each.listen():
                    break
                if each.fate and not each.has_answered:  # it has come up just now
                    self._tell(each)
            if each.fate and each.process.poll() is None:
                each.hang_up()

    def _check(self, run: Run) -> None:
        """Of one that is over."""
        before = len(self.found.survivors) + len(self.found.leaks) + len(self.found.errors)
        if not run.ends(ANSWERS_WITHIN):
            self.found.errors.append(f"{run} does not end: {truth.command(run.process.pid)}")
            run.send(signal.SIGKILL)
            run.ends(GRACE)
        elif said := run.error():
            (self.found.survivors if _SURVIVED in said else self.found.errors).append(f"{run}: {said}")
        self.found.operations.update(run.done or {"begun": run.started()})
        self.found.escapees += run.escapees
        self._count_survivors(run)
        fresh = truth.unmarked_homes(run.room.folder) if run.guard_was_killed else set()
        self.found.leaks += [f"{run}: {each}" for each in run.room.left() if each not in fresh]
        if len(self.found.survivors) + len(self.found.leaks) + len(self.found.errors) > before:
            self.found.errors.append("\n".join([f"{run}, last operations:", *run.last_operations()]))
        run.close()

    def _count_survivors(self, run: Run) -> None:
        folder = run.room.folder
        nobody_is_left = run.guard_was_killed and run.process.returncode < 0
        if nobody_is_left and (not truth.empties(folder, _GUARD_TAKES) or run.room.left()):  # a janitor is to come
            self._sweep(run)
        if nobody_is_left and run.kind in ("process-group", "sweeping"):
            self.found.lost += len(truth.living(folder))
            truth.kill_all(folder)
        if run.kind == "process-group":
            self._end_the_excused(run)
        if not truth.empties(folder, GRACE):
            self.found.survivors += [f"{run}: {each}" for each in truth.living(folder)]
            truth.kill_all(folder)

    def _sweep(self, run: Run) -> None:
        """Another supervisor in the same place, or what an administrator runs."""
        self.found.chaos["janitor"] += 1
        once = [sys.executable, "-c", "import allgone; allgone.run(['true'])"]
        process = run.room.start([sys.executable, "-m", "allgone", "gc"] if self._ground.systemd else once)
        process.communicate(timeout=ANSWERS_WITHIN)

    def _end_the_excused(self, run: Run) -> None:
        """Daemons that left their session, when they are all that is left but what a guard is still at."""
        until = time.monotonic() + GRACE
        while truth.is_populated(run.room.folder) and time.monotonic() < until:
            escaped = run.escaped()
            left = truth.pids(run.room.folder)
            if set(left) <= escaped:
                self.found.escapees += sum(truth.send(pid, run.room.folder, signal.SIGKILL) for pid in left)
            truth.empties(run.room.folder, 0.1)  # and look who has come; there is no event for that

    def _check_lasting(self, run: Run) -> None:
        """Of one that is at rest, and goes on."""
        if not run.has_answered:
            run.ends(1.0)
            state = "does not answer" if run.process.poll() is None else run.error()
            kind = self.found.survivors if _SURVIVED in state else self.found.errors
            kind.append("\n".join([f"{run}: {state}", *run.last_operations()]))
            return
        self.found.operations.update(run.done)
        self.found.escapees += run.escapees
        run.done.clear()
        run.escapees = 0
        if run.guard_was_killed and (self._others(run, _GUARD_TAKES) or self._unused(run)):
            self._sweep(run)  # what it has forked has a guard, too, which may have been killed after that fork's end
        self.found.survivors += [f"{run}, at rest: {each}" for each in self._others(run, GRACE)]
        self.found.leaks += [f"{run}, at rest: cgroup {each}" for each in self._unused(run)]
        zombies = truth.zombies(run.process.pid)
        if run.guard_was_killed and not truth.guards(
            run.room.folder
        ):  # just now: the next start finds out, and reaps it
            zombies = [each for each in zombies if truth.stat(each)[:1] != ["allgone-guard"]]
        self.found.leaks += [f"{run}, at rest: zombie {each} {truth.stat(each)[:1]}" for each in zombies]
        run.guard_was_killed = False

    def _others(self, run: Run, seconds: float) -> list[truth.Living]:
        """Who lives in its room, but itself and one guard; those who are about to end have some time for that."""
        until = time.monotonic() + seconds
        while True:
            found = [each for each in truth.living(run.room.folder) if each.pid != run.process.pid]
            guards = [each for each in found if each.name == "allgone-guard"]
            others = [each for each in found if each not in guards[:1]]
            if not others or time.monotonic() > until:
                return others
            time.sleep(0.05)  # no event tells when they are the only ones

    def _unused(self, run: Run) -> list[str]:
        """Cgroups in its room that are neither its own, nor its guard's (who may have been killed just now)."""
        folders = truth.tree(run.room.folder)
        used = {each.cgroup for each in truth.living(run.room.folder)}
        used |= {each for each in folders if re.search(rf"/allgone-{run.process.pid}-[^/]+(/guard)?$", each)}
        return [each for each in folders if not any(f"{one}/".startswith(f"{each}/") for one in used)]
