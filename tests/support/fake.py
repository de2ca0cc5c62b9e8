"""A containment in memory: virtual processes and a virtual clock, driving the stop sequence of allgone._core.stop."""

from __future__ import annotations

import heapq
import itertools
import math
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType

import allgone
from allgone._core.containment import Guarantees
from allgone._core.stop import Outcome, Steps, Stop, Wait
from allgone._process import reporting
from support.actors import HEARD, Actor

_FIRST_PID = 1 << 30  # above any pid that the kernel gives out, so that nothing can be mistaken for a real process
_EMPTIED = 1  # the fd of every watch; a leader's fd is its pid


@dataclass(eq=False)
class Virtual:
    """A virtual process."""

    pid: int
    role: str
    ignores: tuple[int, ...] = ()
    stopped: bool = False
    takes: float = 0.0  # seconds from the signal that ends it to its end
    missed_by_kill: bool = False  # as cgroup.kill misses a process whose main thread has ended
    unkillable: bool = False  # as in uninterruptible sleep
    returncode: int | None = None
    heard: list[str] = field(default_factory=list)
    pending: list[int] = field(default_factory=list)

    def is_alive(self) -> bool:
        return self.returncode is None


class World:
    """The virtual clock, and what is going to happen."""

    def __init__(self) -> None:
        self.now = 0.0  # so that sums of what tests wait for are exact
        self._order = itertools.count()
        self._future: list[tuple[float, int, Callable[[], None]]] = []

    def after(self, seconds: float, happens: Callable[[], None]) -> None:
        heapq.heappush(self._future, (self.now + seconds, next(self._order), happens))

    def wait(self, wait: Wait, is_ready: Callable[[int], bool]) -> None:
        """Let time pass as poll() would. Raises AssertionError where nothing would ever end the wait."""
        while not any(map(is_ready, wait.fds)):
            upcoming = self._future[0][0] if self._future else math.inf
            if wait.deadline <= upcoming:
                assert wait.deadline < math.inf, f"waits for ever: {wait}"
                self.now = max(self.now, wait.deadline)
                return
            self.now, _, happens = heapq.heappop(self._future)
            happens()


class FakeContainment:
    """Its members are virtual; what it is told is what the kernel would be told."""

    backend = "fake"
    pins_leader = False
    owner = 0

    def __init__(self, world: World) -> None:
        self.name = "1-fake"
        self.world = world
        self.everyone: list[Virtual] = []
        self.frozen = False
        self.swarm = 0  # how often a member has forked a child just before it was killed
        self.busy = 0  # how often removal says EBUSY
        self.gone = False

    @property
    def guarantees(self) -> Guarantees:
        return Guarantees(escape_proof=True, atomic_kill=False)

    def add(self, actor: Actor) -> Virtual:
        virtual = Virtual(_FIRST_PID + len(self.everyone), actor.role, actor.ignores, actor.stopped)
        self.everyone.append(virtual)
        return virtual

    def where(self) -> str:
        return "/fake"

    def alive(self) -> list[Virtual]:
        return [each for each in self.everyone if each.is_alive()]

    def members(self) -> frozenset[int]:
        return frozenset(each.pid for each in self.alive())

    def escapees(self) -> frozenset[int]:
        return frozenset()

    def signal(self, *signums: int) -> frozenset[int]:
        reached = self.alive()
        for each, signum in itertools.product(reached, signums):
            self.send(each, signum)
        return frozenset(each.pid for each in reached)

    def send(self, to: Virtual, signum: int) -> None:
        if not to.is_alive():
            return
        if signum == signal.SIGKILL:
            self._kill(to)
        elif signum == signal.SIGCONT:
            to.stopped = False
            self._deliver(to)
        else:
            to.pending.append(signum)
            self._deliver(to)

    def _deliver(self, to: Virtual) -> None:
        while to.pending and to.is_alive() and not to.stopped and not self.frozen:
            signum = to.pending.pop(0)
            if signum in HEARD:
                to.heard.append(signal.Signals(signum).name)
            if signum not in to.ignores:
                self.world.after(to.takes, lambda: self._end(to, 0))

    @staticmethod
    def _end(virtual: Virtual, returncode: int) -> None:
        if virtual.is_alive():
            virtual.returncode = returncode

    def _kill(self, virtual: Virtual) -> None:
        if virtual.unkillable:
            return
        if self.swarm:
            self.swarm -= 1
            self.add(Actor("forked", ignores=HEARD))
        self._end(virtual, -signal.SIGKILL)

    def resume(self) -> None:
        self.frozen = False
        for each in self.alive():
            self._deliver(each)

    def kill(self) -> None:
        for each in self.alive():
            if not each.missed_by_kill:
                self._kill(each)

    def kill_each(self) -> None:
        self.signal(signal.SIGKILL)

    def watch(self) -> FakeWatch:
        return FakeWatch(self)

    def ended_from_outside(self, *, suspected: bool) -> str:
        return "somebody" if suspected else ""

    def usage(self) -> None:
        return None

    def cgroup_ids(self) -> frozenset[int]:
        return frozenset()

    def release(self) -> None:
        pass

    def close(self) -> None:
        pass

    def remove(self) -> bool:
        if self.alive():
            return False
        if self.busy:
            self.busy -= 1
            return False
        self.gone = True
        return True


class FakeWatch:
    """Ready when the last member is gone."""

    recheck: float | None = None

    def __init__(self, containment: FakeContainment) -> None:
        self._containment = containment

    def emptied(self) -> bool:
        return not self._containment.alive()

    def fileno(self) -> int:
        return _EMPTIED

    def __enter__(self) -> FakeWatch:
        return self

    def __exit__(self, kind: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None) -> None:
        pass


class FakeLeader:
    """The virtual process that was asked for."""

    def __init__(self, virtual: Virtual, containment: FakeContainment) -> None:
        self.pid = virtual.pid
        self._virtual = virtual
        self._containment = containment

    def has_ended(self) -> bool:
        return not self._virtual.is_alive()

    def fileno(self) -> int:
        return self.pid

    def send(self, signum: int) -> None:
        self._containment.send(self._virtual, signum)


class FakeStarted:
    """The counterpart of support.programs.Started."""

    def __init__(self, actor: Actor, policy: allgone.StopPolicy) -> None:
        self.world = World()
        self.containment = FakeContainment(self.world)
        self.virtuals = {each.role: self.containment.add(each) for each in actor.all()}
        self.leader = FakeLeader(self.virtuals[actor.role], self.containment)
        if actor.ends_first:
            self.virtuals[actor.role].returncode = 7
        self.policy = policy
        self.report: allgone.Report | None = None

    def __getitem__(self, role: str) -> Virtual:
        return self.virtuals[role]

    def heard(self, role: str) -> list[str]:
        return self.virtuals[role].heard

    def all_gone(self) -> bool:
        return not self.containment.alive()

    def steps(self, policy: allgone.StopPolicy) -> tuple[Outcome, Steps]:
        stop = Stop(self.containment, [self.leader], policy, lambda: self.world.now)
        return stop.outcome, stop.steps()

    def stop(self, policy: allgone.StopPolicy | None = None) -> allgone.Report:
        if self.report is None or not self.containment.gone:
            policy = policy or self.policy
            with reporting.reported(self.containment, [self.leader], policy, self._returncode, self._keep) as stopping:
                stopping.outcome = stopping.outcome or self._carry_out(policy)
        assert self.report is not None
        return self.report

    def _keep(self, report: allgone.Report) -> None:
        self.report = report

    def _carry_out(self, policy: allgone.StopPolicy) -> Outcome:
        outcome, steps = self.steps(policy)
        for wait in steps:
            self.world.wait(wait, self._is_ready)
        return outcome

    def _returncode(self) -> int | None:
        return self.virtuals[next(iter(self.virtuals))].returncode

    def _is_ready(self, fd: int) -> bool:
        return self.all_gone() if fd == _EMPTIED else not self.containment.everyone[fd - _FIRST_PID].is_alive()

    def close(self) -> None:
        pass

    def __enter__(self) -> FakeStarted:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        pass
