"""This process's one guard, and what it is told: the register of what is to be ended should this process be gone.

Before anything is made it is written down, and the guard runs, so that there is no moment at which a SIGKILL leaves
something that nobody knows of.
"""

from __future__ import annotations

import os
import sys
import threading
import warnings

from allgone._core.callers import level_outside
from allgone._linux import cgroupfs
from allgone._linux.guard import Guard
from allgone._linux.register import GroupEntry, Register
from allgone.errors import GuardLostWarning

_PROGRAM = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "_upkeep", "guard.py")


_LEAVES_WITHIN = 1.0  # seconds
_TAKEN = -1  # as a home: the guard is about to be in one


class Keeper:
    """Safe in threads. What it starts it starts when it is first needed.

    supervisor
        The pid of the process at whose end the guard is to act, if that is not this one.
    """

    def __init__(self, supervisor: int | None = None) -> None:
        self._supervisor = supervisor
        self._lock = threading.RLock()
        self._guard: Guard | None = None
        self._register: Register | None = None
        self._home: int | None = None  # where in the register the guard's own cgroup is
        self._own = ""

    def expect(self, folder: str, own: str = "") -> int:
        """A home is about to be made there. Returns the number that the other calls take.

        `own`: where the guard may go instead, when it has to leave that.
        """
        with self._lock:
            self._ensure(own)
            return self._list().add_home(folder)

    def made(self, number: int, folder: str, *, with_guard: bool = False) -> None:
        """It is made, `with_guard` in its ``guard/``. A guard that is in none yet goes to this one's."""
        with self._lock:
            self.settle()
            self._list().home_made(number, os.stat(folder).st_ino)
            if with_guard:
                self._home = number
            elif self._home is None and self._guard is not None and not os.path.exists(folder + "/guard"):
                os.mkdir(folder + "/guard")
                self._guard.enter(number)
                self._home = number

    def anchor(self) -> tuple[Guard, bool]:
        """A process to be a scope's first one, and whether that is the guard: it has to be moved to the scope then."""
        with self._lock:
            guard = self._ensure()
            self.settle()
            if self._home is None and not guard.has_moved:
                self._home = _TAKEN
                return guard, True
        return Guard(), False

    def clear(self, number: int, folder: str) -> None:
        """Have the guard out of the home's ``guard/``, should it be there, and remove that."""
        with self._lock:
            if self._home == number and self._guard is not None:
                self._guard.leave(number)
                self._home = None
                cgroupfs.wait_until_empty(folder + "/guard", _LEAVES_WITHIN)
            cgroupfs.remove_soon(folder + "/guard")

    def gone(self, number: int | None, *, was_anchored: bool = False) -> None:
        """The home is removed, or was never made; a scope ends when its guard does."""
        with self._lock:
            if number is not None:
                self._list().remove_home(number)
            if was_anchored:
                guard, self._guard, self._home = self._guard, None, None
                if not self._list().is_empty():
                    self._ensure()  # first, so that there is always one
                if guard is not None:
                    guard.end()
                try:
                    self.settle()
                except OSError:
                    pass  # the next start takes another one, and raises where that can't be had either

    def add_group(self, entry: GroupEntry) -> int:
        """A process-group containment is about to be made."""
        with self._lock:
            self._ensure()
            return self._list().add_group(entry)

    def settle(self) -> None:
        """Raise the OSError of a guard that could not be started after all; the next one needed is another."""
        with self._lock:
            try:
                if self._guard is not None:
                    self._guard.settle()
            except OSError:
                self._drop_guard()
                raise

    def change_group(self, number: int, entry: GroupEntry) -> None:
        self.settle()
        self._list().change_group(number, entry)

    def remove_group(self, number: int) -> None:
        self._list().remove_group(number)

    def check(self) -> None:
        """Replace a guard that was killed, with a warning."""
        with self._lock:
            if self._guard is not None or not self._list().is_empty():  # or one that could not be started
                self._ensure()

    def expected_loss(self) -> None:
        """The guard has ended with the scope that it was in: no reason to warn."""
        with self._lock:
            if self._guard is not None and not self._guard.is_alive():
                self._drop_guard()

    def _list(self) -> Register:
        if self._register is None:
            self._register = Register()
        return self._register

    def _ensure(self, own: str = "") -> Guard:
        self._own = own or self._own
        lost = self._guard if self._guard is not None and not self._guard.is_alive() else None
        left = self._home if lost is not None and lost.has_moved else None
        if lost is not None:
            self._drop_guard()
        if self._guard is None:
            register = self._list().fileno()
            program = [sys.executable, "-I", "-S", _PROGRAM] if sys.executable else []
            self._guard = Guard(register, self._own, program, self._supervisor)
        if left is not None:
            self._guard.enter(left)
            self._home = left
        if lost is not None:
            self.settle()  # nobody else would before the next home, and what has started it stay a zombie
            self._warn()  # last, for where warnings are errors it raises
        return self._guard

    def _warn(self) -> None:
        warnings.warn(
            "allgone-guard, which would have ended what this process started had it been killed, was killed itself; "
            "another one is started",
            GuardLostWarning,
            stacklevel=level_outside("allgone", "contextlib"),
        )

    def _drop_guard(self) -> None:
        guard, self._guard = self._guard, None
        self._home = None
        if guard is not None:
            guard.let_go()

    def close(self) -> None:
        """End the guard, unless there is still something for it to end when we are gone. It can be used again."""
        with self._lock:
            if self._register is None or not self._register.is_empty():
                return
            guard, self._guard, self._home = self._guard, None, None
            if guard is not None:
                guard.end()
            self._register.close()
            self._register = None

    def after_fork_in_child(self) -> None:
        """All that is the parent's."""
        self._lock = threading.RLock()
        self._drop_guard()
        if self._register is not None:
            self._register.close()
            self._register = None


KEEPER = Keeper()

os.register_at_fork(after_in_child=KEEPER.after_fork_in_child)
