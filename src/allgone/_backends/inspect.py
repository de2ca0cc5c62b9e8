"""What this machine can do for a containment, as facts: for ``allgone doctor``."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass, replace
from importlib import metadata

from allgone._backends import cgroup_base
from allgone._backends.cgroup import CgroupBackend
from allgone._linux import cgroupfs, launcher, pidfd, processes, subreaper, systemd
from allgone.errors import BackendUnavailable


@dataclass(frozen=True, slots=True)
class Finding:
    """One fact. `ok` is None where it is neither good nor bad; `remedy` says what to do about one that is not ok."""

    name: str
    ok: bool | None
    value: object  # JSON
    says: str
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Choice:
    """What ``backend="auto"`` takes, None if nothing works, and why."""

    backend: str | None
    why: str


def auto() -> Choice:
    """What ``auto`` takes here; cgroup is really tried out. ALLGONE_BACKEND is not looked at."""
    if why := pidfd.unavailable_because():
        return Choice(None, f"both backends need pidfds: {why}")
    try:
        backend = CgroupBackend()
    except BackendUnavailable as e:
        return Choice("process-group", "; ".join(map(str, e.reasons)))
    try:
        return Choice("cgroup", f"cgroups can be made and entered below {backend.base}: {backend.how}")
    finally:
        backend.close()


def findings() -> list[Finding]:
    """All of them, in an order that reads well."""
    found = [
        _kernel(),
        _pidfd(),
        *_cgroup(),
        _systemd(),
        _subreaper(),
        _children(),
        _launcher(),
        *map(_package, ("psutil", "pyroute2", "click")),
        _pystemd(),
        *_settings(),
    ]
    return [replace(each, remedy="") if each.ok is not False else each for each in found]


def _kernel() -> Finding:
    release = platform.release()
    return Finding("kernel", _at_least(5, 3), release, f"Linux {release}", "Linux 5.3 or newer is needed")


def _at_least(major: int, minor: int) -> bool:
    numbers = platform.release().split("-")[0].split(".")
    return tuple(int(n) for n in numbers[:2] if n.isdecimal()) >= (major, minor)


def _pidfd() -> Finding:
    why = pidfd.unavailable_because()
    says = "processes can be held, so that a reused pid is never signalled" if why is None else why
    return Finding("pidfd", why is None, why is None, says, "Linux 5.3 and pidfd_open(2) not filtered by seccomp")


def _cgroup() -> list[Finding]:
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as f:
        mounts = cgroupfs.mounts(f.read())
    with open("/proc/self/cgroup", encoding="utf-8", errors="surrogateescape") as f:
        own = cgroupfs.own_cgroup(f.read())
    shown = [f"{mount.point} ({'rw' if mount.writable else 'read-only'})" for mount in mounts]
    return [
        Finding("cgroup2", bool(mounts), [mount.point for mount in mounts], ", ".join(shown) or "not mounted",
                cgroup_base.MOUNT_HELP),
        Finding("own cgroup", None, own, own or "none"),
        *_cgroup_backend(),
    ]  # fmt: skip


def _cgroup_backend() -> list[Finding]:
    if why := pidfd.unavailable_because():
        return [Finding("backend cgroup", False, None, f"needs pidfds: {why}", "see pidfd")]
    try:
        backend = CgroupBackend()
        containment = backend.create(None, "doctor")
    except BackendUnavailable as e:
        why = "; ".join(f"{reason.tried}: {reason.why}" for reason in e.reasons)
        remedy = "; ".join(reason.remedy for reason in e.reasons if reason.remedy)
        return [Finding("backend cgroup", False, [reason._asdict() for reason in e.reasons], why, remedy)]
    try:
        kill, freeze = cgroupfs.has_kill(containment.where()), cgroupfs.has_freeze(containment.where())
    finally:
        containment.remove()
        backend.close()
    return [
        Finding("backend cgroup", True, backend.base, f"works, below {backend.base}"),
        Finding("cgroup.kill", kill, kill, "one write kills all members" if kill else "members are frozen, then killed",
                "Linux 5.14 has it; nothing is lost but time"),
        Finding("cgroup.freeze", freeze, freeze, "members can be frozen" if freeze else "members can't be frozen",
                "Linux 5.2 has it"),
    ]  # fmt: skip


def _systemd() -> Finding:
    runs = systemd.is_running()
    says = "runs, and hands out the cgroups" if runs else "does not run; cgroups are made without it"
    return Finding("systemd", None, runs, says)


def _subreaper() -> Finding:
    there = subreaper.is_available()
    says = "process-group finds daemons, too" if there else "process-group can't find daemons"
    return Finding("child subreaper", there, there, says, "Linux 3.4 has it")


def _children() -> Finding:
    there = processes.lists_children()
    return Finding("/proc children", there, there, "adopted orphans are found" if there else "not shown",
                   "mount /proc; a kernel with CONFIG_PROC_CHILDREN")  # fmt: skip


def _launcher() -> Finding:
    kind = launcher.kind()
    if kind == "compiled":
        return Finding("launcher", True, kind, f"compiled, a fraction of a millisecond: {launcher.program()}")
    says = f"interpreted: every start also starts {launcher.program()}"
    remedy = "install a wheel for this machine, or have a C compiler when installing"
    if "ALLGONE_LAUNCHER" in os.environ:
        remedy = "unset ALLGONE_LAUNCHER, which asks for it"
    return Finding("launcher", False, kind, says, remedy)


def version(name: str) -> str | None:
    """Of an installed package; None if it is not, as for a source tree in PYTHONPATH."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _package(name: str) -> Finding:
    found = version(name)
    if found is None:
        return Finding(name, False, None, "not installed", f"pip install {name}")
    return Finding(name, True, found, found)


def _pystemd() -> Finding:
    found = _package("pystemd")
    if found.ok or not systemd.is_running():
        return Finding("pystemd", found.ok or None, found.value, found.says)
    return Finding("pystemd", False, None, "not installed, so systemd can't be asked", "pip install 'allgone[systemd]'")


def _settings() -> list[Finding]:
    names = ("ALLGONE_BACKEND", "ALLGONE_CGROUP", "ALLGONE_LAUNCHER")
    return [Finding(name, None, os.environ[name], os.environ[name]) for name in names if name in os.environ]
