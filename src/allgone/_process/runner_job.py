"""The job of a CI runner: one of the runner's hooks begins its containment, another one ends it.

The process that runs the job, the owner, is moved to a new cgroup: what it starts from then on is born there. A guard
ends that should the owner be gone first. Whose job it is, and where the owner came from, is noted on the directories.
"""

from __future__ import annotations

import errno
import os
import select
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from allgone._backends import cgroup_base, marks
from allgone._backends.cgroup_containment import CgroupContainment
from allgone._backends.homes import SUPERVISORS, DirectoryHome
from allgone._backends.keeper import Keeper
from allgone._core.policy import DEFAULT, StopPolicy
from allgone._core.report import Report
from allgone._linux import cgroupfs, pidfd, processes
from allgone._linux.cgroupfs import Mount
from allgone._process import driver, reporting
from allgone._upkeep import janitor
from allgone._upkeep.leftovers import LeftHome
from allgone.errors import BackendUnavailable, PlacementFailed, Reason, Unsupported, WrongProcess


@dataclass(frozen=True, slots=True)
class Job:
    """One that has begun."""

    owner: marks.Owner
    origin: str  # the cgroup directory that the owner was taken from
    containment: CgroupContainment

    @property
    def id(self) -> str:
        """As ``allgone ps`` has it."""
        return "/".join(self.containment.where().split("/")[-2:])


def current() -> Job | None:
    """The innermost job that this process is in; None if it is in none."""
    for mount, folder in _own_folders():
        while folder.startswith(mount.point.rstrip("/") + "/"):
            home = os.path.dirname(folder)
            origin, owner = marks.origin_of_job(folder), marks.owner(home)
            if origin and owner is not None:
                left = LeftHome(home, mount)
                name = os.path.basename(folder)
                return Job(owner, origin, CgroupContainment(name, folder, left, lambda _: None, exists=True))
            folder = home
    return None


def _own_folders() -> list[tuple[Mount, str]]:
    """Our cgroup's directory, in each mount that shows it."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as f:
        mounts = cgroupfs.mounts(f.read())
    path = cgroupfs.own_cgroup(os.fsdecode(cgroupfs.read("/proc/self/cgroup"))) or ".."
    return [(mount, folder) for mount in mounts if (folder := cgroupfs.directory(mount, path)) is not None]


def begin(pid: int, name: str) -> Job:
    """Begin a job called `name` (one that `checked_name()` lets pass). Its owner is process `pid`, which must have
    started us, if by way of others.

    They all are moved. Raises ValueError for a pid that can't be used, `BackendUnavailable`, `Unsupported` and
    `PlacementFailed`; then all is as before.
    """
    keeper = Keeper(supervisor=pid)
    try:
        with _ancestor(pid) as (owner, line):
            home, job = _begun(pid, owner, line, name, keeper)
    except BaseException:  # Ctrl-C as well: the guard would wait for the owner's end
        keeper.close()
        raise
    home.let_go()
    janitor.sweep_beside(home.folder)
    return job


def _begun(pid: int, owner: int, line: Sequence[int], name: str, keeper: Keeper) -> tuple[DirectoryHome, Job]:
    base = _base()
    origin = _folder_of(pid, base.mount).removesuffix("/" + SUPERVISORS)
    home = _home(base, keeper, origin, pid)
    try:
        containment = CgroupContainment(name, f"{home.folder}/{name}", home, lambda _: None)
        containment.note(DEFAULT, processes.words(pid))
        job = _noted(containment, home.folder, origin)
        try:
            _move(line, containment.where())
            if _has_ended(owner):  # so that its number may have been another's
                raise ValueError(f"process {pid} has ended meanwhile")
        except BaseException:
            _move([each for each in line if containment.holds(each)], origin)
            containment.remove()
            raise
    except BaseException:
        home.close()
        raise
    return home, job


@contextmanager
def _ancestor(pid: int) -> Iterator[tuple[int, list[int]]]:
    """Its pidfd, and the processes from it to us."""
    try:
        fd = pidfd.hold(pid)
    except (ProcessLookupError, OverflowError):
        raise ValueError(f"there is no process {pid}") from None
    try:
        line = processes.line_from(pid)
        if pid == 1 or len(line) < 2:
            raise ValueError(f"process {pid} is none that has started this one, and that may be moved")
        yield fd, line
    finally:
        os.close(fd)


def _has_ended(pidfd: int) -> bool:
    poller = select.poll()
    poller.register(pidfd, select.POLLIN)
    return bool(poller.poll(0))


def _base() -> cgroup_base.Base:
    base = cgroup_base.find()
    if base.manager is None:
        return base
    # What is in a scope of its own would outlive the runner's unit, or the other way round.
    why = "systemd has not delegated it to the runner"
    remedy = "Delegate=yes in the runner's unit, or a cgroup that ALLGONE_CGROUP names"
    raise BackendUnavailable("cgroup", (Reason(f"the cgroup that we are in ({base.folder})", why, remedy),))


def _home(base: cgroup_base.Base, keeper: Keeper, own: str, owner: int) -> DirectoryHome:
    try:
        return DirectoryHome(base.folder, base.mount, keeper, own, base.top, base.may_empty, owner)
    except OSError as e:
        reason = Reason(f"the cgroup to work below ({base.folder})", e.strerror or str(e), "")
        raise BackendUnavailable("cgroup", (reason,)) from e


def _noted(containment: CgroupContainment, home: str, origin: str) -> Job:
    marks.note_job(containment.where(), origin)
    owner = marks.owner(home)
    if owner is None or marks.origin_of_job(containment.where()) != origin:
        raise Unsupported("a job takes Linux 5.7 or newer, for the marks on its cgroup (xattrs)")
    return Job(owner, origin, containment)


def _folder_of(pid: int, mount: Mount) -> str:
    path = cgroupfs.own_cgroup(os.fsdecode(cgroupfs.read(f"/proc/{pid}/cgroup")))
    folder = cgroupfs.directory(mount, path) if path else None
    if folder is None:
        raise PlacementFailed(
            errno.EXDEV, f"process {pid} is in the cgroup {path}, which is not seen here", mount.point
        )
    return folder


def _move(pids: Sequence[int], folder: str) -> None:
    """Raises `PlacementFailed`."""
    for pid in pids:
        try:
            _move_one(pid, folder)
        except OSError as e:
            remedy = cgroup_base.placement_remedy(e.errno or 0)
            raise PlacementFailed(e.errno or 0, f"process {pid}: {e.strerror}", folder, remedy) from e


def _move_one(pid: int, folder: str) -> None:
    try:
        cgroupfs.move(folder, pid)
    except OSError as e:
        # Controllers are handed down from it meanwhile, so that its own processes are one further below.
        if e.errno != errno.EBUSY or not os.path.isdir(f"{folder}/{SUPERVISORS}"):
            raise
        cgroupfs.move(f"{folder}/{SUPERVISORS}", pid)


def end(job: Job, policy: StopPolicy) -> Report:
    """Move the owner, us and what is between back to where they came from, and stop all that is left in the job.

    Raises `WrongProcess` where the job is not ours to end, `PlacementFailed` (nothing has been stopped then), and
    `StopTimeout`.
    """
    line = _line_to_us(job)
    _move(line, job.origin)
    if stayed := [pid for pid in line if job.containment.holds(pid)]:
        raise PlacementFailed(errno.EBUSY, f"process {stayed[0]} is still in the job", job.origin)
    kept: list[Report] = []
    with reporting.reported(job.containment, (), policy, _nothing, kept.append) as stopping:
        driver.carry_out(stopping, driver.run)
    _end_guard(job)
    job.containment.home.close()
    return kept[0]


def _line_to_us(job: Job) -> list[int]:
    """From the owner to us."""
    folder = job.containment.where()
    if os.stat(folder).st_uid != os.geteuid():  # what is noted there is that user's to say
        raise WrongProcess(f"the job {job.id} is of user {os.stat(folder).st_uid}, and we are {os.geteuid()}")
    line = processes.line_from(job.owner.pid) if job.owner.is_alive() else []
    if not line:
        raise WrongProcess(f"the job {job.id} is of process {job.owner.pid}, which has not started this one")
    return line


def _end_guard(job: Job) -> None:
    """Last, so that there is one while we are at it."""
    folder = f"{job.containment.home.folder}/guard"
    if os.path.isdir(folder):
        guard = CgroupContainment("guard", folder, job.containment.home, lambda _: None, exists=True)
        driver.stop(guard, (), StopPolicy(kill_signal=signal.SIGTERM))


def _nothing() -> None:
    pass
