"""Where cgroups may be made on this machine, and the proof by doing it."""

from __future__ import annotations

import errno
import os
from subprocess import Popen  # by name: others may put ours in its place
from typing import NamedTuple

from allgone._backends.homes import SUPERVISORS, DirectoryHome, Home, NamedScopeHome, ScopeHome
from allgone._backends.keeper import Keeper
from allgone._core.unit import Unit
from allgone._linux import cgroupfs, fds, launcher, pidfd, systemd
from allgone._linux.cgroupfs import Mount
from allgone._linux.pidfd import Child
from allgone._linux.systemd import Manager
from allgone.errors import BackendUnavailable, Reason, SystemdError, Unsupported

ASKING = "a scope from systemd"
NO_USER_MANAGER = (
    "loginctl enable-linger USER starts a manager for this user, and so does a login session (pam_systemd(8)), "
    "such as that of su -"
)
HOW = {
    "told": "base= or ALLGONE_CGROUP names it",
    "nested": "an outer allgone made it, and what we start stays inside",
    "delegated": "systemd has delegated our unit's cgroup to us (Delegate=yes)",
    "scope": "a transient scope of our own, from the systemd at {manager}",
    "own": "no systemd runs here, so it is made below our own cgroup",
}
MOUNT_HELP = "mount -t cgroup2 none /sys/fs/cgroup, or boot with systemd.unified_cgroup_hierarchy=1"


class Base(NamedTuple):
    """A cgroup directory to work below, the mount it is in, and why it was taken.

    With a `manager` it is the supervisor's own, and of use only to ask that one for a scope.
    """

    folder: str
    mount: Mount
    how: str  # "told" | "delegated" | "nested" | "own" | "scope"
    manager: Manager | None = None

    @property
    def may_empty(self) -> str:
        """The cgroup whose processes we may move to another below it."""
        return self.folder if self.how in ("delegated", "nested") else ""

    @property
    def top(self) -> str:
        """That, or above it: from where on controllers may be handed down."""
        if self.how == "delegated":
            return _of_unit(self.folder)
        parts = self.folder.split("/")
        outer = next((n for n, part in enumerate(parts) if part.startswith("allgone-")), None)
        if self.how != "nested" or outer is None:
            return self.folder
        return "/".join(parts[: outer + parts[outer].endswith(".scope")])


def find(told: str | None = None) -> Base:
    """The base to use: told, delegated to us, a scope of systemd's, or (where no systemd runs) our own cgroup.

    Raises `BackendUnavailable` with a reason for each way that was tried.
    """
    if why := pidfd.unavailable_because():
        raise _unavailable(Reason("pidfds", why, "Linux 5.3 and pidfd_open(2) not filtered by seccomp"))
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as f:
        mounts = cgroupfs.mounts(f.read())
    if not mounts:
        raise _unavailable(Reason("cgroup v2", "not mounted", MOUNT_HELP))
    if told:
        return _told(os.path.abspath(told), mounts)
    asked = os.environ.get("ALLGONE_CGROUP")
    if asked and not _is_within_allgone_below(os.path.abspath(asked), mounts):
        return _told(os.path.abspath(asked), mounts)
    return _own(mounts)


def _unavailable(*reasons: Reason) -> BackendUnavailable:
    return BackendUnavailable("cgroup", reasons)


def _told(folder: str, mounts: list[Mount]) -> Base:
    tried = f"the cgroup given ({folder})"
    if not os.path.isdir(folder):
        raise _unavailable(Reason(tried, "no such directory", "create it, or unset ALLGONE_CGROUP"))
    around = [m for m in mounts if folder == m.point or folder.startswith(m.point.rstrip("/") + "/")]
    if not around:
        points = ", ".join(m.point for m in mounts)
        raise _unavailable(Reason(tried, "not in a cgroup2 file system", f"those here are at {points}"))
    return _writable(Base(folder, max(around, key=lambda m: len(m.point)), "told"), tried)


def _is_within_allgone_below(folder: str, mounts: list[Mount]) -> bool:
    """Whether we run in a containment made below `folder`: the variable was meant for our supervisor, not for us."""
    path = _own_path()
    shown = (cgroupfs.directory(mount, path) for mount in mounts) if path else ()
    return any(own is not None and own.startswith(f"{folder}/allgone-") for own in shown)


def _own_path() -> str | None:
    with open("/proc/self/cgroup", encoding="utf-8", errors="surrogateescape") as f:
        return cgroupfs.own_cgroup(f.read())


def _own(mounts: list[Mount]) -> Base:
    path = _own_path()
    tried = f"the supervisor's own cgroup ({path})"
    if path is None:
        raise _unavailable(Reason("the supervisor's own cgroup", "no 0:: line in /proc/self/cgroup", MOUNT_HELP))
    if ".." in path.split("/"):
        raise _unavailable(
            Reason(tried, "it is outside our cgroup namespace", "start the process inside the container's cgroup")
        )
    shown = [(m, folder) for m in mounts if (folder := cgroupfs.directory(m, path)) and os.path.isdir(folder)]
    if not shown:
        points = ", ".join(m.point for m in mounts)
        raise _unavailable(
            Reason(tried, f"no cgroup2 mount shows it; there are {points}", "mount cgroup2 in this cgroup namespace")
        )
    mount, folder = max(shown, key=lambda pair: pair[0].writable)
    folder = folder.removesuffix("/" + SUPERVISORS)
    if any(part.startswith("allgone-") for part in folder.split("/")):  # made by an outer allgone: ours to divide
        return _writable(Base(folder, mount, "nested"), tried)
    if _delegated(_of_unit(folder)):
        return _writable(Base(folder, mount, "delegated"), tried)
    if systemd.is_running():
        return _scope(folder, mount, path)
    return _writable(Base(folder, mount, "own"), tried)


def _of_unit(folder: str) -> str:
    """The cgroup of the unit that the cgroup `folder` belongs to: what systemd manages, as opposed to what is below."""
    unit = folder
    while not unit.endswith((".service", ".scope")) and unit != "/":
        unit = os.path.dirname(unit)
    return folder if unit == "/" else unit


def _delegated(folder: str) -> bool:
    # systemd marks what Delegate=yes gave away: for root's units trusted.delegate, for users' user.delegate.
    for name in ("trusted.delegate", "user.delegate"):
        try:
            if os.getxattr(folder, name) == b"1":
                return True
        except OSError as e:
            if e.errno not in (errno.ENODATA, errno.EOPNOTSUPP, errno.EPERM):
                raise
    return False


def _scope(folder: str, mount: Mount, path: str) -> Base:
    _mounted_writable(mount, ASKING, "leave ProtectControlGroups=yes out of the unit that this runs in, or mount it rw")
    _need_pystemd(ASKING, "; with Delegate=yes in the unit that this runs in there is no need to")
    manager = _manager(path)
    if os.geteuid() != 0 and os.access(folder + "/cgroup.procs", os.W_OK) and _says_delegated(manager):
        return _writable(Base(folder, mount, "delegated"), f"the supervisor's own cgroup ({path})")
    return Base(folder, mount, "scope", manager)


def _need_pystemd(tried: str, or_else: str = "") -> None:
    if why := systemd.pystemd_missing_because():
        raise _unavailable(Reason(tried, f"pystemd can't be imported: {why}", systemd.PACKAGES + or_else))


def _says_delegated(manager: Manager) -> bool:
    """Asked of the manager, for systemd 252's user managers don't mark the cgroup."""
    try:
        own = manager.unit_of(os.getpid())
    except SystemdError:  # the request for a scope, which comes next, meets the same, and says so
        return False
    return own is not None and own.delegate


def _manager(path: str) -> Manager:
    """Whom to ask for a scope: the manager that we are below, or else the system's for root, our user's for others."""
    user = os.geteuid()
    if user == 0 and "/user@0.service/" not in path:
        return systemd.SYSTEM
    return systemd.manager_of_user(user)


def scope_refused(e: SystemdError) -> BackendUnavailable:
    """Why there is no scope, as a reason with a remedy."""
    if e.dbus_name == systemd.OUTSIDE:
        remedy = systemd.OUTSIDE_REMEDY
    elif e.dbus_name == systemd.NOT_THERE:
        remedy = "" if os.geteuid() == 0 else NO_USER_MANAGER
    else:
        remedy = (
            "look at systemctl status; a unit with Delegate=yes needs no scope, and ALLGONE_CGROUP names another cgroup"
        )
    return _unavailable(Reason(ASKING, str(e), remedy))


def _writable(base: Base, tried: str) -> Base:
    _mounted_writable(base.mount, tried)
    if not os.access(base.folder, os.W_OK):
        raise _unavailable(
            Reason(
                tried,
                "not writable for this user",
                'run as root, or have it delegated: "systemd-run --user --scope -p Delegate=yes"',
            )
        )
    return base


def _mounted_writable(mount: Mount, tried: str, remedy: str = "run the container privileged, or mount it rw") -> None:
    if not mount.writable:
        raise _unavailable(Reason(tried, f"{mount.point} is mounted read-only", remedy))


def home(base: Base, keeper: Keeper | None, *, try_it: bool) -> Home:
    """A directory of this supervisor's own in which to make containments. Raises `BackendUnavailable`.

    `try_it`: make sure that processes can enter; with a scope that is always done.
    """
    if base.manager is None:
        try:
            own = cgroupfs.directory(base.mount, _own_path() or "..") if base.how == "told" else base.folder
            made = DirectoryHome(base.folder, base.mount, keeper, own or "", base.top, base.may_empty)
        except FileNotFoundError:
            raise
        except OSError as e:
            remedy = "choose another cgroup with ALLGONE_CGROUP"
            raise _unavailable(Reason(rehearsal(base.folder), f"mkdir: {e.strerror}", remedy)) from e
        return _entered(made) if try_it else made
    unit = Unit(f"allgone-{os.getpid()}-{os.urandom(4).hex()}.scope")
    try:
        return _entered(ScopeHome(base.manager, unit, base.mount, keeper))
    except SystemdError as e:
        raise scope_refused(e) from e


def scope_by_name(base: Base, unit: Unit, keeper: Keeper | None) -> Home:
    """A scope that is called and made as the user says. Raises `SystemdError`, `Unsupported`, `BackendUnavailable`."""
    if base.how == "nested":
        raise Unsupported(f"a scope of its own ({unit.name}) would be outside of the allgone that we run in")
    if not systemd.is_running():
        raise _unavailable(Reason(f"the scope {unit.name}", "systemd does not run here", "leave out unit="))
    _need_pystemd(f"the scope {unit.name}")
    try:
        return _entered(NamedScopeHome(base.manager or _manager(_own_path() or ""), unit, base.mount, keeper))
    except SystemdError as e:
        if e.dbus_name != systemd.NOT_THERE:
            raise
        raise scope_refused(e) from e


def _entered(made: DirectoryHome | ScopeHome) -> Home:
    """Having tried whether processes can enter by themselves."""
    try:
        code = rehearse(made.folder)
        shown = made.folder if isinstance(made, ScopeHome) else os.path.dirname(made.folder)
        if code == errno.EACCES and isinstance(
            made, ScopeHome
        ):  # the cgroup above us and the scope is root's, as for a login session's processes
            made.must_admit()
        elif code:
            raise not_entered(shown, code)
    except BaseException:  # Ctrl-C as well: its anchor would keep the scope
        made.close()
        raise
    return made


def rehearse(below: str) -> int | None:
    """Make a cgroup, have a process enter it and end there, remove it; returns the errno of entering, None if it did.

    The only proof that it can be done: permissions, read-only mounts, threaded parents and namespaces all have a say.
    Raises `BackendUnavailable` where no cgroup can be made.
    """
    folder = f"{below}/allgone-{os.getpid()}-{os.urandom(4).hex()}"
    try:
        os.mkdir(folder)
    except OSError as e:
        remedy = "choose another cgroup with ALLGONE_CGROUP"
        raise _unavailable(Reason(rehearsal(below), f"mkdir: {e.strerror}", remedy)) from e
    try:
        return _enter(folder)
    finally:
        cgroupfs.remove_soon(folder)


def rehearsal(below: str) -> str:
    """What was tried."""
    return f"a rehearsal in {below}"


def not_entered(below: str, code: int) -> BackendUnavailable:
    return _unavailable(Reason(rehearsal(below), f"entering it: {os.strerror(code)}", placement_remedy(code)))


def _enter(folder: str) -> int | None:
    """The errno of a launcher whose command was to be born there; None if it was."""
    reader, writer = fds.pipe()
    try:
        try:
            child = _launched(folder, writer)
        finally:
            os.close(writer)
        failure, born = launcher.outcome(reader)
        child.wait()
        if born is not None:
            Child(born).reap(block=True)
    except OSError as e:
        return e.errno
    finally:
        os.close(reader)
    if failure is None:
        return errno.ECHILD  # killed before it could report
    return failure.error if failure.stage == launcher.ENTER else None


def _launched(folder: str, status: int) -> Popen[bytes]:
    cgroup = fds.above_stdio(os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
    try:
        with launcher.prefix(status=status, cgroup=cgroup) as before:
            command = [*before.argv, "/", "/"]  # a directory can't be executed: the launcher enters, and ends
            return Popen(command, executable=before.executable, pass_fds=before.pass_fds)
    finally:
        os.close(cgroup)


_REMEDIES = {
    errno.EACCES: "the cgroup above both the supervisor and the containment must be writable: run the supervisor "
    "inside the delegated subtree",
    errno.EBUSY: "controllers are enabled in its cgroup.subtree_control; processes may only be in its leaves",
    errno.EOPNOTSUPP: "it is, or is below, a threaded cgroup; choose another base with ALLGONE_CGROUP",
    errno.ENOENT: "somebody removed the cgroup",
    errno.ENODEV: "somebody removed the cgroup",
    errno.EAGAIN: "a pids limit (pids.max) is exhausted",
}


def placement_remedy(code: int) -> str:
    """What helps when a process could not enter a cgroup with this errno (cgroups(7))."""
    return _REMEDIES.get(code, "")
