"""Where cgroups may be made on this machine, and the proof by doing it."""

from __future__ import annotations

import errno
import os
import subprocess
from typing import NamedTuple

from allgone._linux import cgroupfs, fds, launcher, systemd
from allgone._linux.cgroupfs import Mount
from allgone.errors import BackendUnavailable, Reason

MOUNT_HELP = "mount -t cgroup2 none /sys/fs/cgroup, or boot with systemd.unified_cgroup_hierarchy=1"


class Base(NamedTuple):
    """A cgroup directory to work below, the mount it is in, and why it was taken."""

    folder: str
    mount: Mount
    how: str


def find(told: str | None = None) -> Base:
    """The base to use: told, delegated to us, or (where no systemd runs) our own cgroup.

    Raises `BackendUnavailable` with a reason for each way that was tried.
    """
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
        raise _unavailable(Reason(tried, "no cgroup2 mount shows it", f"mounted: {mounts}"))
    mount, folder = max(shown, key=lambda pair: pair[0].writable)
    if _delegated(folder):
        return _writable(Base(folder, mount, "delegated"), tried)
    if systemd.is_running():
        raise _unavailable(
            Reason(
                tried,
                "systemd runs here and has not delegated it",
                'Delegate=yes in the unit, or start with "systemd-run --scope -p Delegate=yes" '
                '("systemd-run --user --scope -p Delegate=yes" for ordinary users)',
            )
        )
    return _writable(Base(folder, mount, "own"), tried)


def _delegated(folder: str) -> bool:
    # systemd marks what Delegate=yes gave away: for root's units trusted.delegate, for users' user.delegate.
    for name in ("trusted.delegate", "user.delegate"):
        try:
            if os.getxattr(folder, name) == b"1":
                return True
        except OSError as e:
            if e.errno not in (errno.ENODATA, errno.EOPNOTSUPP, errno.EPERM):
                raise
    # Made by an outer allgone: ours to divide as well.
    return any(part.startswith("allgone-") for part in folder.split("/"))


def _writable(base: Base, tried: str) -> Base:
    if not base.mount.writable:
        raise _unavailable(
            Reason(
                tried,
                f"{base.mount.point} is mounted read-only",
                "run the container privileged, or mount it rw",
            )
        )
    if not os.access(base.folder, os.W_OK):
        raise _unavailable(
            Reason(
                tried,
                "not writable for this user",
                'run as root, or have it delegated: "systemd-run --user --scope -p Delegate=yes"',
            )
        )
    return base


def rehearse(base: Base) -> None:
    """Make a cgroup, have a process enter it and end there, remove it.

    The only proof that it can be done: permissions, read-only mounts, threaded parents and namespaces all have a say.
    Raises `BackendUnavailable`.
    """
    tried = f"a rehearsal in {base.folder}"
    folder = f"{base.folder}/allgone-{os.getpid()}-{os.urandom(4).hex()}"
    try:
        os.mkdir(folder)
    except OSError as e:
        raise _unavailable(Reason(tried, f"mkdir: {e.strerror}", "choose another cgroup with ALLGONE_CGROUP")) from e
    try:
        failed = _enter(folder)
    finally:
        cgroupfs.remove_soon(folder)
    if failed is not None:
        raise _unavailable(Reason(tried, f"entering it: {os.strerror(failed)}", placement_remedy(failed)))


def _enter(folder: str) -> int | None:
    """The errno of a launcher that tried to enter; None if it could."""
    reader, writer = fds.pipe()
    procs = None
    try:
        procs = fds.above_stdio(os.open(folder + "/cgroup.procs", os.O_WRONLY | os.O_CLOEXEC))
        with launcher.prefix(status=writer, procs=procs) as before:
            command = [*before.argv, "/", "/"]  # a directory can't be executed: the launcher enters, and ends
            child = subprocess.Popen(command, executable=before.executable, pass_fds=before.pass_fds)
        os.close(writer)
        writer = -1
        failure, _ = launcher.outcome(reader)
        child.wait()
    except OSError as e:
        return e.errno
    finally:
        for fd in (reader, writer, procs):
            if fd is not None and fd >= 0:
                os.close(fd)
    if failure is None:
        return errno.ECHILD  # killed before it could report
    return failure.error if failure.stage == launcher.ENTER else None


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
