"""The directory of a supervisor that its containments are made in: a cgroup of its own, or a scope of systemd's.

Both are held by `flock` while the supervisor lives: whoever can take the lock knows that it is dead, and whoever finds
``guard/`` empty as well knows that nobody else will clean up. With a `Keeper`, its guard is told of them.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol

from allgone._backends import marks
from allgone._backends.keeper import Keeper
from allgone._core.containment import Leader
from allgone._core.unit import Unit
from allgone._linux import cgroupfs, controllers, fds, freezer, systemd
from allgone._linux.cgroupfs import Mount
from allgone._linux.guard import Guard
from allgone._linux.systemd import Manager, UnitState
from allgone.errors import PlacementFailed, SystemdError

# A cgroup that hands controllers down may have no processes in it ("no internal processes" in cgroup-v2.rst). Where
# ours is to, what runs in it goes here; whoever looks for its cgroup then takes the one above. (guard.c knows it, too.)
SUPERVISORS = "allgone.supervisors"
_OOM_POLICY_OF_SCOPES = 253  # the first systemd that has it
_ANCHOR_ENDS_WITHIN = 1.0  # seconds
_FAILED = "org.freedesktop.systemd1.JobFailed"  # what systemd calls it
_MOVED_WITHIN = 0.5  # seconds from the end of who has asked systemd for that
_MOVED_LATE_WITHIN = 30.0  # the same, of a systemd that is slow, or stands still
_KILLED_WITH_IT = 0.05  # seconds from the end of a process to that of the anchor, which was sent SIGKILL as well


class Home(Protocol):
    """Where containments are made."""

    folder: str
    mount: Mount
    top: str  # that, or above it: from where on we may hand controllers down
    may_empty: str  # the cgroup whose processes we may move away for that; "": none

    def admits(self) -> bool:
        """Whether processes that come from outside must be moved in by `admit()`, for they can't enter themselves."""
        ...

    def admit(self, folder: str, leader: Leader) -> None:
        """Have a process moved to a cgroup below. Raises `PlacementFailed`, `SystemdError`."""
        ...

    def lost(self, *, suspected: bool = False) -> str:
        """How others ended it; "" while it stands. `suspected`: look twice."""
        ...

    def can_take_more(self) -> bool:
        """Whether to make more containments in it; not if what kept it alive is gone."""
        ...

    def lives_on(self) -> bool:
        """Where it can't: whether others killed just that, and what runs in it goes on."""
        ...

    def let_go(self) -> None:
        """Close what is held, touching nothing: it is another process's now, or gone."""
        ...

    def close(self) -> None:
        """Remove it, if it is empty."""
        ...


class DirectoryHome:
    """A cgroup that we made ourselves, ``allgone-<pid>-<random>``. `own` is the one that we are in; `owner` the pid of
    the process that it is for, if that is not this one."""

    def __init__(
        self,
        below: str,
        mount: Mount,
        keeper: Keeper | None,
        own: str = "",
        top: str = "",
        may_empty: str = "",
        owner: int | None = None,
    ) -> None:
        self.folder = f"{below}/allgone-{owner or os.getpid()}-{os.urandom(4).hex()}"
        self.mount = mount
        self.top = top or below
        self.may_empty = may_empty
        self._lock: int | None = None
        self._keeper = keeper
        self._number = keeper.expect(self.folder, own) if keeper else 0
        try:
            os.mkdir(self.folder)
            self._lock = _locked(self.folder)
            marks.note_owner(self.folder, owner)
            if keeper:
                keeper.made(self._number, self.folder)
        except BaseException:  # Ctrl-C as well: nobody else would close it before the exit
            self.close()
            raise

    def admits(self) -> bool:
        return False

    def admit(self, folder: str, leader: Leader) -> None:
        raise NotImplementedError("a process enters by itself")

    def lost(self, *, suspected: bool = False) -> str:
        return ""

    def can_take_more(self) -> bool:
        return True

    def lives_on(self) -> bool:
        return True

    def let_go(self) -> None:
        lock, self._lock = self._lock, None
        if lock is not None:
            os.close(lock)

    def close(self) -> None:
        if self._keeper:
            self._keeper.clear(self._number, self.folder)
        cgroupfs.remove_soon(self.folder)
        if self._keeper:
            self._keeper.gone(self._number)
        self.let_go()


class ScopeHome:
    """A transient scope, delegated to us (systemd.scope(5)).

    Its first process, in ``guard/``, keeps it alive until we close it, or end.
    """

    may_empty = ""

    def __init__(self, manager: Manager, unit: Unit, mount: Mount, keeper: Keeper | None) -> None:
        self._manager = manager
        self.unit = unit.name
        self.mount = mount
        self._must_admit = False
        self._lost = ""
        self._is_closed = False
        self._lock: int | None = None
        self._keeper = keeper
        self._number: int | None = None
        properties = systemd.check_properties(unit.properties) if unit.properties else {}
        self._anchor, self._is_guard = keeper.anchor() if keeper else (Guard(), False)
        try:
            pid = self._anchor.pid
            path = self._started(manager, unit, properties)
            with _still_there(unit.name):
                self.folder = self.top = self._directory_of(path, pid)
                if keeper:
                    self._number = keeper.expect(self.folder)
                os.mkdir(self.folder + "/guard")
                cgroupfs.write(self.folder + "/guard/cgroup.procs", str(pid).encode())
                self._lock = _locked(self.folder)
                marks.note_owner(self.folder)
                if keeper and self._number is not None:
                    keeper.made(self._number, self.folder, with_guard=self._is_guard)
        except BaseException:  # Ctrl-C as well: the anchor would keep the scope
            self._leave()
            raise

    def _started(self, manager: Manager, unit: Unit, properties: Mapping[str, object]) -> str:
        """Its ControlGroup. The anchor does not end while systemd may still come to it."""
        asked = False

        def given(own: UnitState | None, version: int) -> dict[str, object]:
            nonlocal asked
            asked = True
            self._anchor.may_be_moved(_MOVED_WITHIN)
            return {**_properties(unit, own, version), **properties}

        try:
            return manager.start_scope(unit.name, self._anchor.pid, given)
        except SystemdError as e:
            late = asked and e.dbus_name in systemd.UNANSWERED
            self._anchor.may_be_moved(_MOVED_LATE_WITHIN if late else 0)
            raise

    def _directory_of(self, path: str, pid: int) -> str:
        """Where a ControlGroup is here, having looked that the process really is in it."""
        found = cgroupfs.own_cgroup(os.fsdecode(cgroupfs.read(f"/proc/{pid}/cgroup")))
        folder = cgroupfs.directory(self.mount, path)
        if found != path or folder is None:
            raise SystemdError(f"{self.unit} is said to be {path}, and its process is in {found}", _FAILED)
        return folder

    def must_admit(self) -> None:
        """From now on processes are moved in by the manager."""
        self._must_admit = True

    def admits(self) -> bool:
        return self._must_admit

    def admit(self, folder: str, leader: Leader) -> None:
        self._manager.attach(self.unit, folder.removeprefix(self.folder), leader.pid)
        if not cgroupfs.contains(folder, leader.pid, self.mount):
            raise PlacementFailed(errno.EXDEV, "systemd has not moved it there", folder)

    def lost(self, *, suspected: bool = False) -> str:
        if self._lost or self._is_closed:
            return self._lost
        if suspected and self._is_being_stopped():
            self._lost = f"{self.unit} was stopped"
        # cgroup.kill and systemctl kill have sent the anchor its signal by now; systemd-oomd kills one after the other.
        elif self._anchor.has_ended(_KILLED_WITH_IT if suspected else 0):
            self._lost = f"{self.unit} was stopped or killed"
        return self._lost

    def can_take_more(self) -> bool:
        return not self._lost and self._anchor.is_alive()

    def lives_on(self) -> bool:
        return cgroupfs.populated(self.folder) and not self._is_being_stopped()

    def _is_being_stopped(self) -> bool:
        """Asked of systemd, which answers when it has sent all signals: the anchor may be the last to get one."""
        return self._state() not in ("active", "")

    def _state(self) -> str:
        try:
            return self._manager.state(self.unit)
        except SystemdError as e:  # then nobody can tell
            _debug(e)
            return ""

    def let_go(self) -> None:
        lock, self._lock = self._lock, None
        if lock is not None:
            os.close(lock)
        if not self._is_guard:
            self._anchor.let_go()  # it ends by that, unless it is a fork that lets go

    def close(self) -> None:
        freezer.thaw(self.folder)  # or else the anchor could not end, if systemctl has frozen the scope
        was_lost = self.lost()
        self._leave()
        # systemd does not come again where we have made a cgroup just when it was about to remove the scope's. But not
        # before it is done: it would wait for the end of what it can't see any more.
        if was_lost and self._state() == "inactive":
            cgroupfs.remove(self.folder)

    def _leave(self) -> None:
        """When the last process is gone systemd removes the scope."""
        self._is_closed = True
        if self._keeper:
            self._keeper.gone(self._number, was_anchored=self._is_guard)
        self.let_go()


class NamedScopeHome(ScopeHome):
    """A scope whose name somebody chose: once it is closed, the name is free again."""

    def close(self) -> None:
        super().close()
        cgroupfs.wait_until_empty(self.folder, _ANCHOR_ENDS_WITHIN)
        try:
            self._manager.stop_unit(self.unit)
        except SystemdError as e:  # it is empty, and goes when systemd comes to itself: nothing that a caller can do
            _debug(e)


def _debug(e: Exception) -> None:
    import logging  # a few milliseconds, for what hardly ever happens

    logging.getLogger("allgone").debug("%s", e)


@contextmanager
def _still_there(scope: str) -> Iterator[None]:
    """Systemd has made it; its directory and its first process may go at any moment."""
    try:
        yield
    except OSError as e:
        if e.errno not in (errno.ENOENT, errno.ESRCH, errno.ENODEV):
            raise
        message = f"{scope} has ended while it was made: it was stopped, or its first process killed"
        raise SystemdError(message, _FAILED) from e


def _locked(folder: str) -> int:
    """An fd that holds the directory's lock. Who is quicker can't make us wait: the owner's mark says that we live."""
    fd = fds.above_stdio(os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
    for kind in (fcntl.LOCK_EX, fcntl.LOCK_SH):
        try:
            fcntl.flock(fd, kind | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            continue
        except OSError:
            os.close(fd)
            raise
    return fd


def _properties(unit: Unit, own: UnitState | None, version: int) -> dict[str, object]:
    given: Mapping[str, object] = {"Slice": unit.slice} if unit.slice else {}
    # Not Delegate=yes, which is all controllers: with cpuset the processes of all units around would forget which CPUs
    # they were given (before Linux 6.3).
    properties: dict[str, object] = {
        "Description": unit.description or f"allgone: what process {os.getpid()} started",
        "TimeoutStopUSec": 10_000_000,
        **_bound_to(own),
        **given,
        "DelegateControllers": list(controllers.ALL),
        "CollectMode": "inactive-or-failed",
    }
    if version >= _OOM_POLICY_OF_SCOPES:  # one that is killed is no reason to stop the others
        properties["OOMPolicy"] = "continue"
    return properties


def _bound_to(own: UnitState | None) -> dict[str, object]:
    """So that whoever stops our unit stops this, and so does its crash. In the same slice, so that its limits hold."""
    if own is None or own.name == "init.scope":
        return {}
    bound: dict[str, object] = {}
    if own.active_state in ("active", "reloading"):
        bound = {"BindsTo": [own.name], "After": [own.name]}
    elif own.active_state == "activating":
        # A oneshot service, say: its start ends when we do, so being ordered After it would wait for ourselves.
        bound = {"BindsTo": [own.name]}
    if own.slice:
        bound["Slice"] = own.slice
    return bound
