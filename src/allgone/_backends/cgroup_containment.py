"""A containment that is a cgroup."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial

from allgone._backends import cgroup_base, limiting, marks
from allgone._backends.homes import Home
from allgone._core.command import Command
from allgone._core.containment import Guarantees, Leader
from allgone._core.limits import Limits
from allgone._core.names import checked_name
from allgone._core.policy import StopPolicy
from allgone._core.usage import Usage
from allgone._linux import accounting, cgroupfs, cgroupns, freezer, launcher
from allgone._linux.fds import above_stdio, pipe
from allgone._linux.systemd import oomd_has_killed
from allgone.errors import PlacementFailed, Unsupported

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
