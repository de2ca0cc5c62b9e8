"""The directory of a supervisor that its containments are made in: a cgroup of its own, or a scope of systemd's.

Both are held by `flock` while the supervisor lives: whoever can take the lock knows that it is dead.
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import subprocess
from collections.abc import Mapping
from typing import Protocol

from allgone._core.containment import Leader
from allgone._core.unit import Unit
from allgone._linux import cgroupfs, fds, launcher, systemd
from allgone._linux.cgroupfs import Mount
from allgone._linux.systemd import Manager, UnitState
from allgone.errors import PlacementFailed, SystemdError

_OOM_POLICY_OF_SCOPES = 253  # the first systemd that has it
_ANCHOR_ENDS_WITHIN = 1.0  # seconds
_KILLED_WITH_IT = 0.05  # seconds from the end of a process to that of the anchor, which was sent SIGKILL before it


class Home(Protocol):
    """Where containments are made."""

    folder: str
    mount: Mount

    def admits(self) -> bool:
        """Whether processes that come from outside must be moved in by `admit()`, for they can't enter themselves."""
        ...

    def admit(self, folder: str, leader: Leader) -> None:
        """Have a process moved to a cgroup below. Raises `PlacementFailed`, `SystemdError`."""
        ...

    def lost(self, *, suspected: bool = False) -> str:
        """How others ended it; "" while it stands. `suspected`: look twice."""
        ...

    def let_go(self) -> None:
        """Close what is held, touching nothing: it is another process's now, or gone."""
        ...

    def close(self) -> None:
        """Remove it, if it is empty."""
        ...


class DirectoryHome:
    """A cgroup that we made ourselves, ``allgone-<pid>-<random>``."""

    def __init__(self, below: str, mount: Mount) -> None:
        self.folder = f"{below}/allgone-{os.getpid()}-{os.urandom(4).hex()}"
        self.mount = mount
        os.mkdir(self.folder)
        self._lock = _locked(self.folder)

    def admits(self) -> bool:
        return False

    def admit(self, folder: str, leader: Leader) -> None:
        raise NotImplementedError("a process enters by itself")

    def lost(self, *, suspected: bool = False) -> str:
        return ""

    def let_go(self) -> None:
        os.close(self._lock)

    def close(self) -> None:
        cgroupfs.remove_soon(self.folder)
        self.let_go()


class ScopeHome:
    """A transient scope, delegated to us (systemd.scope(5)).

    Its first process, in ``guard/``, keeps it alive until we close it, or end.
    """

    def __init__(self, manager: Manager, unit: Unit, mount: Mount) -> None:
        self._manager = manager
        self.unit = unit.name
        self.mount = mount
        self._must_admit = False
        self._lost = ""
        self._anchor: int | None = None
        self._lock: int | None = None
        properties = systemd.check_properties(unit.properties) if unit.properties else {}
        reader, self._anchor = fds.pipe()
        try:
            try:
                pid = _start_anchor(reader)
            finally:
                os.close(reader)
            self.folder = self._directory_of(
                manager.start_scope(unit.name, pid, lambda *of: {**_properties(unit, *of), **properties}), pid
            )
            os.mkdir(self.folder + "/guard")
            cgroupfs.write(self.folder + "/guard/cgroup.procs", str(pid).encode())
            self._lock = _locked(self.folder)
        except BaseException:  # Ctrl-C as well: the anchor would keep the scope
            self.let_go()
            raise

    def _directory_of(self, path: str, pid: int) -> str:
        """Where a ControlGroup is here, having looked that the process really is in it."""
        found = cgroupfs.own_cgroup(os.fsdecode(cgroupfs.read(f"/proc/{pid}/cgroup")))
        folder = cgroupfs.directory(self.mount, path)
        if found != path or folder is None:
            raise SystemdError(
                f"{self.unit} is said to be {path}, and its process is in {found}", "org.freedesktop.systemd1.JobFailed"
            )
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
        if self._anchor is not None and not self._lost:
            poller = select.poll()
            poller.register(self._anchor, 0)
            if suspected and self._is_being_stopped():
                self._lost = f"{self.unit} was stopped"
            # POLLERR: nobody reads any more. cgroup.kill and systemctl kill have sent the anchor its signal by now.
            elif poller.poll(_KILLED_WITH_IT * 1000 if suspected else 0):
                self._lost = f"{self.unit} was stopped or killed"
        return self._lost

    def _is_being_stopped(self) -> bool:
        """Asked of systemd, which answers when it has sent all signals: the anchor may be the last to get one."""
        try:
            return self._manager.state(self.unit) != "active"
        except SystemdError as e:  # then nobody can tell
            _debug(e)
            return False

    def let_go(self) -> None:
        for fd in (self._anchor, self._lock):
            if fd is not None:
                os.close(fd)
        self._anchor = self._lock = None

    def close(self) -> None:
        cgroupfs.thaw(self.folder)  # or else the anchor could not end, if systemctl has frozen the scope
        self.let_go()  # the anchor ends by that, and when the last process is gone systemd removes the scope


class NamedScopeHome(ScopeHome):
    """A scope whose name somebody chose: once it is closed, the name is free again."""

    def close(self) -> None:
        super().close()
        with cgroupfs.EmptiedWatch(self.folder) as watch:
            poller = select.poll()
            poller.register(watch.fileno(), select.POLLIN)
            if not watch.emptied():
                poller.poll(_ANCHOR_ENDS_WITHIN * 1000)
        try:
            self._manager.stop_unit(self.unit)
        except SystemdError as e:  # it is empty, and goes when systemd comes to itself: nothing that a caller can do
            _debug(e)


def _debug(e: Exception) -> None:
    import logging  # a few milliseconds, for what hardly ever happens

    logging.getLogger("allgone").debug("%s", e)


def _locked(folder: str) -> int:
    fd = fds.above_stdio(os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
    fcntl.flock(fd, fcntl.LOCK_EX)
    return fd


def _start_anchor(reader: int) -> int:
    """The pid of a process that lives until the other end of `reader` is closed. It is nobody's child."""
    status, writer = fds.pipe()
    try:
        with launcher.prefix(status=writer, wait=reader, stays=True) as before:
            null = subprocess.DEVNULL
            child = subprocess.Popen(
                [*before.argv, "/"], executable=before.executable, pass_fds=before.pass_fds,
                stdin=null, stdout=null, stderr=null, cwd="/",
            )  # fmt: skip
        os.close(writer)
        writer = -1
        failure, pid = launcher.outcome(status)
        child.wait()
    finally:
        os.close(status)
        if writer >= 0:
            os.close(writer)
    if pid is None:
        code = failure.error if failure else errno.ECHILD
        raise OSError(code, f"cannot start the scope's first process: {os.strerror(code)}")
    return pid


def _properties(unit: Unit, own: UnitState | None, version: int) -> dict[str, object]:
    given: Mapping[str, object] = {"Slice": unit.slice} if unit.slice else {}
    properties: dict[str, object] = {
        "Description": unit.description or f"allgone: what process {os.getpid()} started",
        "TimeoutStopUSec": 10_000_000,
        **_bound_to(own),
        **given,
        "Delegate": True,
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
