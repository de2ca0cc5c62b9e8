"""The stop sequence: one generator that decides what comes next and yields what to wait for.

It acts through the `Containment` and `Leader` it is given and never waits itself: drivers do (`_process/driver.py`
with ``poll()``; an event loop or a test may as well). Rules: systemd.kill(5).
"""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field

from allgone._core.containment import Containment, Leader, Watch
from allgone._core.policy import StopPolicy
from allgone._core.report import Sent
from allgone.errors import StopTimeout

KILL_TIMEOUT = 15.0  # seconds in which, after SIGKILL, none of them ends before the stop gives up, loudly
KILL_AGAIN = 0.02  # seconds without progress after which SIGKILL is sent again, and one by one
REMOVE_AGAIN = 0.002  # seconds between two attempts at removal: EBUSY lasts 5-15 ms after a kill, and has no event
_MOST_NAMED = 20  # survivors, in a message


@dataclass(frozen=True, slots=True)
class Wait:
    """Wait until one of `fds` is readable, one of `writable` is writable, or `deadline` (monotonic seconds; inf: none)
    has come."""

    fds: tuple[int, ...]
    deadline: float
    writable: tuple[int, ...] = ()


Steps = Generator[Wait, None, None]


@dataclass(slots=True)
class Outcome:
    """What the stop has done so far; filled in as it goes, so that it can be read after an error too."""

    began: float
    sent: list[Sent] = field(default_factory=list)
    killed: frozenset[int] = frozenset()
    left_running: frozenset[int] = frozenset()


class Stop:
    """One stop of one containment with its leaders. Iterate `steps()`; `outcome` tells what was done."""

    def __init__(
        self,
        containment: Containment,
        leaders: Sequence[Leader],
        policy: StopPolicy,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._containment = containment
        self._leaders = leaders
        self._policy = policy
        self._clock = clock
        self.outcome = Outcome(began=clock())

    def hurry(self) -> None:
        """From now on nobody is asked: `steps()`, begun anew, kills at once."""
        self._policy = self._policy.at_once()

    def steps(self) -> Steps:
        """Yields `Wait`s until the containment is empty and removed (``kill_mode="process"``: its leader ended).

        Raises `StopTimeout` when SIGKILL did not end everything within `KILL_TIMEOUT`.
        """
        with self._containment.watch() as watch:
            self._containment.resume()
            mode = self._policy.kill_mode
            if self._policy.timeout_stop > 0:
                yield from self._ask(watch, self._policy.kill_signal, everyone=mode == "control-group", polite=True)
            if self._policy.final_kill_signal != signal.SIGKILL:
                yield from self._ask(watch, self._policy.final_kill_signal, everyone=mode != "process", polite=False)
            if mode == "process":
                yield from self._kill_leaders()
                self.outcome.left_running = self._containment.members() - {leader.pid for leader in self._leaders}
                if self.outcome.left_running:
                    return
            yield from self._kill_all(watch)

    def _over(self, watch: Watch, everyone: bool) -> bool:
        """Whether whoever the signal is meant for has gone."""
        return not self._alive_leaders() and (not everyone or watch.emptied())

    def _alive_leaders(self) -> list[Leader]:
        return [leader for leader in self._leaders if not leader.has_ended()]

    def _ask(self, watch: Watch, signum: int, *, everyone: bool, polite: bool) -> Steps:
        """Send `signum` to all or to the leaders, then wait for its effect for `timeout_stop` at most."""
        if self._over(watch, everyone):
            return
        hang_up = (signal.SIGHUP,) if polite and self._policy.send_sighup and signum != signal.SIGHUP else ()
        # SIGCONT last: a stopped member has the others pending, and acts on them as soon as it runs.
        reached = self._send((signum, *hang_up, signal.SIGCONT), everyone)
        if not polite:
            self.outcome.killed |= reached
        deadline = self._clock() + self._policy.timeout_stop
        while not self._over(watch, everyone) and self._clock() < deadline:
            wait = self._wait(watch, deadline)
            if not self._over(watch, everyone):
                yield wait

    def _send(self, signums: tuple[int, ...], everyone: bool) -> frozenset[int]:
        reached = self._containment.signal(*signums) if everyone else frozenset()
        for leader in self._alive_leaders():
            if leader.pid not in reached:
                for signum in signums:
                    leader.send(signum)
                reached |= {leader.pid}
        for signum in signums if reached else ():
            self._log(signum, reached)
        return reached

    def _log(self, signum: int, pids: frozenset[int]) -> None:
        after = self._clock() - self.outcome.began
        self.outcome.sent.append(Sent(int(signum), tuple(sorted(pids)), after))

    def _wait(self, watch: Watch, deadline: float) -> Wait:
        """For the leaders first, whose end is told at once; only then for the rest."""
        leaders = tuple(_fds(self._alive_leaders()))
        if leaders:
            return Wait(leaders, deadline)
        fd = watch.fileno()
        recheck = math.inf if watch.recheck is None else self._clock() + watch.recheck
        return Wait((fd,), min(deadline, recheck))

    def _kill_leaders(self) -> Steps:
        deadline = self._clock() + KILL_TIMEOUT
        alive = frozenset(leader.pid for leader in self._alive_leaders())
        if alive:
            self.outcome.killed |= alive
            self._log(signal.SIGKILL, alive)
        for leader in self._leaders:
            leader.send(signal.SIGKILL)
        while left := self._alive_leaders():
            if self._clock() >= deadline:
                raise self._timed_out(frozenset(leader.pid for leader in left))
            yield Wait(tuple(_fds(left)), deadline)

    def _kill_all(self, watch: Watch) -> Steps:
        yield from self._kill_members(watch)
        deadline = self._clock() + KILL_TIMEOUT
        while True:
            yield from self._kill_leaders()  # one that moved itself elsewhere is still our child, and still meant
            if self._containment.remove():
                return
            if self._clock() >= deadline:
                raise StopTimeout(f"cannot remove {self._containment.where()}: it stays busy", frozenset())
            yield Wait((), self._clock() + REMOVE_AGAIN)
            yield from self._kill_members(watch)

    def _kill_members(self, watch: Watch) -> Steps:
        """SIGKILL until the containment is empty.

        Once is not enough: cgroup.kill misses a process whose main thread has ended while others run, and before
        the kernel's fix of February 2025 it could miss one that was being forked. Thousands take their time on a busy
        machine: it gives up when none of those that were there at first has ended for `KILL_TIMEOUT`.
        """
        if watch.emptied():
            return
        awaited = left = self._containment.members()
        deadline = self._clock() + KILL_TIMEOUT
        self._containment.kill()
        if left:
            self.outcome.killed |= left
            self._log(signal.SIGKILL, left)
        again = self._clock() + KILL_AGAIN
        while not watch.emptied():
            now = self._clock()
            if now >= deadline:
                raise self._timed_out(self._containment.members())
            if now >= again:
                before, left = left, self._containment.members()
                if not left < before:
                    self._containment.kill()
                    self._containment.kill_each()
                    self.outcome.killed |= left
                if awaited - left:
                    awaited, deadline = awaited & left, now + KILL_TIMEOUT
                again = self._clock() + KILL_AGAIN
            fd = watch.fileno()
            recheck = math.inf if watch.recheck is None else now + watch.recheck
            if not watch.emptied():
                yield Wait((fd,), min(deadline, again, recheck))

    def _timed_out(self, survivors: frozenset[int]) -> StopTimeout:
        who = ", ".join(map(str, sorted(survivors)[:_MOST_NAMED])) or "unknown, for they are in another pid namespace"
        if len(survivors) > _MOST_NAMED:
            who += f" and {len(survivors) - _MOST_NAMED} more"
        return StopTimeout(
            f"{self._containment.name}: SIGKILL was sent, yet in {KILL_TIMEOUT:g} s none of these has ended: {who}. "
            "A process in uninterruptible sleep (state D) dies when its system call returns; "
            f"look at /proc/PID/wchan and at {self._containment.where()}",
            survivors,
        )


def _fds(leaders: list[Leader]) -> Iterator[int]:
    for leader in leaders:
        try:
            yield leader.fileno()
        except ProcessLookupError:
            continue  # somebody else reaped it just now
