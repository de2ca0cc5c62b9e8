"""Containments that are cgroups: one directory per supervisor, in it one per containment."""

from __future__ import annotations

import errno
import itertools
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial

from allgone._backends import cgroup_base, limiting, marks
from allgone._backends.homes import Home
from allgone._backends.keeper import KEEPER
from allgone._core.command import Command
from allgone._core.containment import Guarantees, Leader
from allgone._core.limits import Limits
from allgone._core.names import checked_name, made_up_name
from allgone._core.policy import DEFAULT, StopPolicy
from allgone._core.unit import Unit
from allgone._core.usage import Usage
from allgone._linux import accounting, cgroupfs, cgroupns, freezer, launcher
from allgone._linux.fds import above_stdio, pipe
from allgone._linux.systemd import oomd_has_killed
from allgone.errors import BackendUnavailable, PlacementFailed, Reason, Unsupported

_Placed = tuple[dict[str, int], Callable[[], None]]  # for the launcher's prefix; for a preexec_fn


class CgroupContainment:
    """A cgroup of our own: nothing leaves it by setsid() or a double fork, and cgroup.kill ends all of it."""

    backend = "cgroup"
    pins_leader = False

    def __init__(
        self, name: str, folder: str, home: Home, forget: Callable[[CgroupContainment], None], *, exists: bool = False
    ) -> None:
        self.name = name
        self.owner = os.getpid()
        self._folder = folder
        self.home = home
        self._mount = home.mount
        self._forget = forget
        self._release: int | None = None
        self._own = ExitStack()
        self.gone = False
        self._lost = ""
        self.frozen = False
        self._used: Usage | None = None
        self._with_pressure = False
        self._seal: str | None = None
        if not exists:  # else a dead supervisor has left it
            os.mkdir(folder)

    @property
    def guarantees(self) -> Guarantees:
        can_be_limited = frozenset() if self.gone else limiting.obtainable(self.home)
        return Guarantees(True, atomic_kill=cgroupfs.has_kill(self._folder), limits=can_be_limited)

    @contextmanager
    def command(
        self,
        argv: Sequence[object],
        executable: object,
        status: int | None,
        *,
        restore_signals: bool = True,
        other_user: bool = False,
        same_process: bool = False,
        sockets: Sequence[int] | None = None,
    ) -> Iterator[Command]:
        in_place = other_user or same_process or status is None or self._seal is not None
        placed = self._moved_in(same_process) if self.home.admits() else self._entering(in_place)
        with (
            placed as (how, enter),
            launcher.prefix(
                status=status,
                procs=how.get("procs"),
                cgroup=how.get("cgroup"),
                seal=self._seal,
                wait=how.get("wait"),
                sockets=sockets,
                restore_signals=restore_signals,
                other_user=other_user,
            ) as before,
        ):
            yield Command(
                argv=launcher.with_command(before, executable, argv),
                executable=before.executable,
                pass_fds=before.pass_fds,
                start_new_session=False,
                enter=enter,
            )

    @contextmanager
    def _entering(self, in_place: bool) -> Iterator[_Placed]:
        """The child goes there itself."""
        # Opened here, by us: the child writes to it with our rights, also after it changed its user. Birth by clone3
        # is by the child's own rights.
        path, flags = ("/cgroup.procs", os.O_WRONLY) if in_place else ("", os.O_RDONLY | os.O_DIRECTORY)
        try:
            fd = above_stdio(os.open(self._folder + path, flags | os.O_CLOEXEC))
        except FileNotFoundError as e:  # not to be mistaken for a command that is not found
            remedy = cgroup_base.placement_remedy(errno.ENOENT)
            raise PlacementFailed(errno.ENOENT, os.strerror(errno.ENOENT), self._folder, remedy) from e
        try:
            yield {"procs" if in_place else "cgroup": fd}, partial(_enter, fd)
        finally:
            os.close(fd)

    @contextmanager
    def _moved_in(self, same_process: bool) -> Iterator[_Placed]:
        """The child waits until `born()` has had it moved."""
        if same_process:
            raise Unsupported(
                "preexec_fn runs before systemd has moved the process to its cgroup, which this user can't do itself; "
                'use backend="process-group", or start the supervisor by "systemd-run --user --scope -p Delegate=yes"'
            )
        reader, self._release = pipe()
        try:
            yield {"wait": reader}, _nothing
        finally:
            os.close(reader)
            os.close(self._release)
            self._release = None

    def seal(self) -> None:
        if why := cgroupns.unavailable_because(self._mount.point):
            raise Unsupported(f"seal=True: {why}")
        self._seal = self._mount.point

    def born(self, leader: Leader) -> None:
        marks.note_leader(self._folder, leader.pid)
        if self._release is not None:
            self.home.admit(self._folder, leader)
            os.write(self._release, b"!")

    def close_with(self, close: Callable[[], None]) -> None:
        self._own.callback(close)

    def note(self, policy: StopPolicy, argv: Sequence[object]) -> None:
        """What others are to know of it, and whether the guard must not kill it at once."""
        marks.note_containment(self._folder, policy, argv)
        if policy.of_guard().timeout_stop > 0:
            marks.note_polite(self._folder)

    def usage(self, *, pressure: bool = False) -> Usage | None:
        self._with_pressure = self._with_pressure or pressure
        return self._used if self.gone else self._usage_now()

    def _usage_now(self) -> Usage | None:
        return accounting.of_cgroup(self._folder, pressure=self._with_pressure)

    def release(self) -> None:
        marks.note_released(self._folder)

    def nested(self, name: str, limits: Limits | None = None) -> CgroupContainment:
        folder = f"{self._folder}/{checked_name(name)}"
        if self.frozen and freezer.is_frozen(self._folder):
            raise ValueError(f"{self.name} is frozen: what is started in it would not run; thaw() it first")
        try:
            inner = CgroupContainment(name, folder, self.home, lambda _: None)
        except FileExistsError:
            raise ValueError(f"name {name!r} is in use: {folder} exists") from None
        with inner._kept_only_if_done():
            inner.limit(limits)
        self.close_with(inner.close)
        return inner

    def limit(self, limits: Limits | None, *, by_unit: bool = False) -> None:
        """While it is still empty. `by_unit`: systemd limits the scope that it is in. Raises `LimitUnavailable`."""
        if limits is not None and limits.given():
            limiting.put(limits, self._folder, self.home, by_unit=by_unit)

    @contextmanager
    def _kept_only_if_done(self) -> Iterator[None]:
        try:
            yield
        except BaseException:  # Ctrl-C as well: nobody else would remove it before the exit
            self.remove()
            self.close()
            raise

    def where(self) -> str:
        return self._folder

    def members(self) -> frozenset[int]:
        return frozenset() if self.gone else frozenset(cgroupfs.all_procs(self._folder))

    def holds(self, pid: int) -> bool:
        return not self.gone and cgroupfs.contains(self._folder, pid, self._mount)

    def cgroup_ids(self) -> frozenset[int]:
        return frozenset() if self.gone else frozenset(cgroupfs.ids(self._folder))

    def escapees(self) -> frozenset[int]:
        return frozenset()

    def signal(self, *signums: int) -> frozenset[int]:
        reached: set[int] = set()
        # Again for those that were forked meanwhile; a swarm that outruns this is what kill() is for.
        for _ in range(8):
            new = self.members() - reached
            if not new:
                break
            for pid in new:
                self._signal_one(pid, signums)
            reached |= new
        return frozenset(reached)

    def _signal_one(self, pid: int, signums: tuple[int, ...]) -> None:
        try:
            cgroupfs.signal_member(self._folder, self._mount, pid, signums)
        except PermissionError:
            pass  # a setuid child of an unprivileged supervisor: cgroup.kill reaches it, single signals don't

    def freezing(self) -> freezer.FreezeWatch:
        try:
            watch = freezer.FreezeWatch(self._folder)
        except OSError as e:
            if e.errno not in (errno.ENOENT, errno.ENODEV):
                raise
            if os.path.isdir(self._folder):
                raise Unsupported("freezing takes Linux 5.2 or newer (cgroup.freeze)") from e
            raise ValueError(f"{self.name} has been stopped, or has ended: there is nothing to freeze") from e
        self.frozen = True
        return watch

    def thaw(self) -> None:
        freezer.thaw(self._folder)
        self.frozen = False

    def resume(self) -> None:
        self.frozen = False
        freezer.thaw_all(self._folder)

    def kill(self) -> None:
        try:
            cgroupfs.kill(self._folder)
        except FileNotFoundError:
            if os.path.isdir(self._folder):
                self._freeze_and_kill()
        except OSError as e:
            if e.errno != errno.ENODEV:  # removed meanwhile
                raise

    def _freeze_and_kill(self) -> None:
        """For kernels before 5.14: frozen tasks can't fork, and a frozen task dies of SIGKILL all the same."""
        try:
            freezer.freeze(self._folder, True)
            self.kill_each()
        finally:
            try:
                freezer.thaw_all(self._folder)
            except FileNotFoundError:
                pass  # somebody else removed it; nothing is left to thaw

    def kill_each(self) -> None:
        self.signal(signal.SIGKILL)

    def watch(self) -> cgroupfs.EmptiedWatch:
        return cgroupfs.EmptiedWatch(self._folder)

    def ended_from_outside(self, *, suspected: bool) -> str:
        self._lost = self._lost or self._killed_by_oomd() or self.home.lost(suspected=suspected)
        return self._lost

    def _killed_by_oomd(self) -> str:
        return "systemd-oomd killed it, for the machine was short of memory" if oomd_has_killed(self._folder) else ""

    def remove(self) -> bool:
        if self.gone:
            return True
        self._lost = self._lost or self._killed_by_oomd() or self.home.lost()  # as long as that can be seen
        self._used = self._usage_now() or self._used
        if not cgroupfs.remove(self._folder):
            return False
        self.gone = True
        self._forget(self)
        return True

    def close(self) -> None:
        self._own.close()


def _enter(procs: int) -> None:
    os.write(procs, b"0")


def _nothing() -> None:
    pass


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
