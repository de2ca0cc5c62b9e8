"""Containments that are cgroups: one directory per supervisor, in it one per containment."""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Callable, Sequence

from allgone._backends import cgroup_base
from allgone._backends.cgroup_containment import CgroupContainment
from allgone._backends.homes import Home
from allgone._backends.keeper import KEEPER
from allgone._core.limits import Limits
from allgone._core.names import checked_name, made_up_name
from allgone._core.policy import DEFAULT, StopPolicy
from allgone._core.unit import Unit
from allgone.errors import BackendUnavailable, Reason


class CgroupBackend:
    """Makes containments below one directory of this supervisor, ``allgone-<pid>-<random>``.

    base
        The cgroup directory to work below; default: as docs/how-it-works.md says (ALLGONE_CGROUP, a delegated cgroup
        of our own, a scope of systemd's, without systemd the supervisor's cgroup).

    try_it
        Whether to make sure that it works, which takes a few milliseconds, or to leave that to the first containment.

    guard
        Whether a guard ends what is left should this process be killed.

    Raises `BackendUnavailable` with the reasons where no cgroup can be made and entered.
    """

    name = "cgroup"

    def __init__(self, base: str | os.PathLike[str] | None = None, *, try_it: bool = True, guard: bool = True) -> None:
        self._base = cgroup_base.find(os.fspath(base) if base is not None else None)
        self._keeper = KEEPER if guard else None
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)
        self._home: Home | None = None
        self._live: set[CgroupContainment] = set()
        self._is_fork = False
        self._made_by = os.getpid()
        if try_it:
            self._own_home(try_it=True)  # which is the proof

    @property
    def base(self) -> str:
        """The cgroup directory that it works below."""
        if self._base.manager is None:
            return self._base.folder
        with self._lock:
            return self._own_home().folder

    @property
    def how(self) -> str:
        """How that directory was found."""
        return cgroup_base.HOW[self._base.how].format(manager=self._base.manager)

    @property
    def is_at_hand(self) -> bool:
        """Whether there is a directory to make containments in, and nobody has to be asked to move processes there."""
        home = self._home
        return home is not None and home.can_take_more() and not home.admits()

    @property
    def moves_in(self) -> bool:
        """Whether systemd must move processes in, for they can't enter by themselves: no ``preexec_fn`` then."""
        with self._lock:
            return self._own_home().admits()

    def create(
        self,
        name: str | None,
        executable: object,
        unit: Unit | None = None,
        *,
        policy: StopPolicy = DEFAULT,
        argv: Sequence[object] = (),
        limits: Limits | None = None,
    ) -> CgroupContainment:
        if name is not None:
            checked_name(name)
        if unit is None:
            with self._lock:
                made = self._in_own_home(name, executable)
        else:
            made = self._in_scope_of_its_own(name, executable, unit)
        with made._kept_only_if_done():
            made.limit(limits, by_unit=unit is not None)
            made.note(policy, argv)
        return made

    def _in_own_home(self, name: str | None, executable: object) -> CgroupContainment:
        for _ in range(2):
            home = self._own_home()
            chosen = name or made_up_name(executable, next(self._numbers))
            try:
                return self._made(chosen, home, self._forget)
            except FileExistsError:
                raise ValueError(f"name {name!r} is in use: {home.folder}/{name} exists") from None
            except FileNotFoundError:
                self._leave_home()  # somebody removed our empty directory; make another
        raise self._vanished()

    def _in_scope_of_its_own(self, name: str | None, executable: object, unit: Unit) -> CgroupContainment:
        home = cgroup_base.scope_by_name(self._base, unit, self._keeper)
        try:
            made = self._made(name or made_up_name(executable, next(self._numbers)), home, self._live.discard)
            made.close_with(home.close)
            return made
        except BaseException:  # Ctrl-C as well: nobody else would close it before the exit
            home.close()
            raise

    def _made(self, name: str, home: Home, forget: Callable[[CgroupContainment], None]) -> CgroupContainment:
        made = CgroupContainment(name, f"{home.folder}/{name}", home, forget)
        self._live.add(made)
        return made

    def _own_home(self, *, try_it: bool = False) -> Home:
        if self._home is not None and not self._home.can_take_more():
            if self._keeper and not self._home.lives_on():
                self._keeper.expected_loss()
            self._leave_home()
        if self._keeper:
            self._keeper.check()
        if self._home is None:
            try:
                self._home = cgroup_base.home(self._base, self._keeper, try_it=try_it)
            except FileNotFoundError:
                raise self._vanished() from None
        return self._home

    def _vanished(self) -> BackendUnavailable:
        reason = Reason(f"the cgroup to work below ({self._base.folder})", "it has vanished", "create it again")
        return BackendUnavailable(self.name, (reason,))

    def _leave_home(self) -> None:
        """For another one. What still lives in it keeps it."""
        home, self._home = self._home, None
        if home is not None and not self._is_used(home):
            home.close()

    def _is_used(self, home: Home) -> bool:
        return any(containment.home is home for containment in self._live)

    def _forget(self, containment: CgroupContainment) -> None:
        with self._lock:
            self._live.discard(containment)
            if containment.home is not self._home and not self._is_used(containment.home):
                containment.home.close()
            if self._is_fork and not self._live:
                self._leave_home()  # multiprocessing ends its children without atexit

    def close(self) -> None:
        """Remove the supervisor's directory, if it is empty. Done at exit; the backend can be used again after it."""
        with self._lock:
            if self._home is not None and not self._is_used(self._home):
                self._leave_home()

    def __del__(
        self, *, getpid: Callable[[], int] = os.getpid
    ) -> None:  # at the end of the interpreter `os` may be gone
        if getattr(self, "_made_by", None) == getpid():
            self.close()

    def after_fork_in_child(self) -> None:
        """Let go of what is the parent's: its lock must not outlive it because we hold a copy."""
        self._lock = threading.Lock()
        self._is_fork = True
        self._made_by = os.getpid()
        homes = {containment.home for containment in self._live}
        if self._home is not None:
            homes.add(self._home)
        self._home = None
        self._live.clear()
        for home in homes:
            home.let_go()
