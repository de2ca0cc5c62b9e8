"""What this machine can do for a containment, as facts: for ``allgone doctor``."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass, replace
from importlib import metadata

from allgone._backends import cgroup_base
from allgone._backends.cgroup import CgroupBackend
from allgone._linux import (
    cgroupfs,
    cgroupns,
    controllers,
    freezer,
    launcher,
    netns,
    pidfd,
    processes,
    subreaper,
    systemd,
    tracer,
)
from allgone.errors import BackendUnavailable, SystemdError, Unsupported


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


def look() -> tuple[Choice, list[Finding]]:
    """What ``auto`` takes here, and all findings, in an order that reads well.

    cgroup is really tried out. ALLGONE_BACKEND is not looked at.
    """
    choice, cgroup = _cgroup_backend()
    if why := pidfd.unavailable_because():
        choice = Choice(None, f"both backends need pidfds: {why}")
    found = [
        _kernel(),
        _pidfd(),
        *_cgroup(),
        *cgroup,
        _systemd(),
        _pystemd(),
        _subreaper(),
        _children(),
        _launcher(),
        _tracing(),
        _network(),
        _seal(),
        *map(_package, ("psutil", "pyroute2", "click")),
        *(_optional(name, use) for name, use in (("plotly", "HTML reports"), ("textual", "allgone top"))),
        *_settings(),
    ]
    return choice, [replace(each, remedy="") if each.ok is not False else each for each in found]


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
    return [
        Finding("cgroup2", bool(mounts), [mount.point for mount in mounts],
                ", ".join(map(_mount, mounts)) or "not mounted", cgroup_base.MOUNT_HELP),
        Finding("own cgroup", None, own, _top(mounts) if own == "/" else own or "none"),
    ]  # fmt: skip


def _mount(mount: cgroupfs.Mount) -> str:
    shows = "" if mount.root == "/" else f", shows {mount.root}"
    return f"{mount.point} ({'rw' if mount.writable else 'read-only'}{shows})"


def _top(mounts: list[cgroupfs.Mount]) -> str:
    # The kernel's root cgroup can't be frozen; what a namespace shows as its root is an ordinary cgroup.
    if any(mount.root.startswith("/..") or freezer.has_freeze(mount.point) for mount in mounts):
        return "/, the top of a cgroup namespace, as in a container"
    return "/"


def _cgroup_backend() -> tuple[Choice, list[Finding]]:
    try:
        backend = CgroupBackend()
        containment = backend.create(None, "doctor")
    except BackendUnavailable as e:
        why = "; ".join(f"{reason.tried}: {reason.why}" for reason in e.reasons)
        remedy = "; ".join(reason.remedy for reason in e.reasons if reason.remedy)
        found = Finding("backend cgroup", False, [reason._asdict() for reason in e.reasons], why, remedy)
        return Choice("process-group", "; ".join(map(str, e.reasons))), [found]
    try:
        base, moved = backend.base, backend.moves_in
        limits = sorted(containment.guarantees.limits)
        kill, freeze = cgroupfs.has_kill(containment.where()), freezer.has_freeze(containment.where())
    finally:
        containment.remove()
        backend.close()
    return Choice("cgroup", f"cgroups can be made and entered below {base}: {backend.how}"), [
        Finding("backend cgroup", True, base, f"works, below {base}"),
        Finding("entering", None, "systemd" if moved else "child",
                "systemd moves each child in, which this user can't do; no preexec_fn" if moved
                else "each child enters its cgroup by itself"),
        Finding("cgroup.kill", kill, kill, "one write kills all members" if kill else "members are frozen, then killed",
                "Linux 5.14 has it; nothing is lost but time"),
        Finding("cgroup.freeze", freeze, freeze, "members can be frozen" if freeze else "members can't be frozen",
                "Linux 5.2 has it"),
        Finding("limits", None, limits, _limits(limits)),
    ]  # fmt: skip


def _limits(found: list[str]) -> str:
    missing = [each for each in controllers.ALL if each not in found]
    because: dict[str, list[str]] = {}
    for each in missing:
        because.setdefault(controllers.missing_because(each) or "not handed down to us", []).append(each)
    lacking = [f"no {', '.join(those)}: {why}" for why, those in because.items()]
    return "; ".join(([f"of {', '.join(found)}"] if found else []) + lacking)


def _systemd() -> Finding:
    """Whether the manager that scopes are asked of answers, where one is needed."""
    if not systemd.is_running():
        return Finding("systemd", None, False, "does not run here; cgroups are made without it")
    if systemd.pystemd_missing_because():
        return Finding("systemd", None, True, "runs, and hands out the cgroups; without pystemd it can't be asked")
    try:
        base = cgroup_base.find()
    except BackendUnavailable as e:  # before it came to systemd: see backend cgroup
        return Finding("systemd", None, True, f"runs; not asked, because of {e.reasons[0].tried}")
    if base.manager is None:
        return Finding("systemd", None, True, f"runs; need not be asked, for {cgroup_base.HOW[base.how]}")
    whose = "the system's manager" if base.manager == systemd.SYSTEM else "this user's manager"
    try:
        own = base.manager.unit_of(os.getpid())
    except SystemdError as e:
        if e.dbus_name != systemd.OUTSIDE:
            return Finding("systemd", None, True, f"runs, but {whose} does not answer: see backend cgroup")
        says = "runs outside of this container, and knows other pids than ours"
        return Finding("systemd", False, True, says, systemd.OUTSIDE_REMEDY)
    bound = f"ends with our unit, {own.name}" if own else "is bound to no unit, for we are in none of its"
    return Finding("systemd", True, True, f"{whose} answers at {base.manager}; a scope {bound}")


def _subreaper() -> Finding:
    there = subreaper.is_available()
    says = "process-group finds daemons, too" if there else "process-group can't find daemons"
    return Finding("child subreaper", there, there, says, "Linux 3.4 has it")


def _children() -> Finding:
    there = processes.lists_children()
    return Finding("/proc children", there, there, "adopted orphans are found" if there else "not shown",
                   "mount /proc; a kernel with CONFIG_PROC_CHILDREN")  # fmt: skip


def _tracing() -> Finding:
    try:
        tracer.check()
    except Unsupported as e:
        return Finding("trace", None, False, f"not here: {e}")
    return Finding("trace", True, True, "the kernel tells of every process that is started")


def _network() -> Finding:
    try:
        netns.made(veth=False).close()
    except Unsupported as e:
        return Finding("network", None, False, f"not here: {e}")
    return Finding("network", True, True, "a child can have a network of its own")


def _seal() -> Finding:
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as f:
        mounts = cgroupfs.mounts(f.read())
    why = cgroupns.unavailable_because(mounts[0].point) if mounts else "there is no cgroup2"
    return Finding("seal", None if why else True, not why, f"not here: {why}" if why else "a child can be sealed in")


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


def _optional(name: str, use: str) -> Finding:
    found = version(name)
    return Finding(name, None if found is None else True, found, found or f"not installed; {use} needs it")


def _pystemd() -> Finding:
    found, why = _package("pystemd"), systemd.pystemd_missing_because()
    if why is None:
        return found
    if not systemd.is_running():
        return Finding("pystemd", None, found.value, f"{found.says}; not needed without systemd")
    return Finding("pystemd", False, found.value, f"can't be imported, so systemd can't be asked: {why}",
                   systemd.PACKAGES)  # fmt: skip


def _settings() -> list[Finding]:
    names = ("ALLGONE_BACKEND", "ALLGONE_CGROUP", "ALLGONE_LAUNCHER", "ALLGONE_JOURNAL")
    found = [Finding(name, None, os.environ[name], os.environ[name]) for name in names if name in os.environ]
    if folder := os.environ.get("ALLGONE_METRICS"):
        can_count = os.path.isdir(folder) and os.access(folder, os.W_OK | os.X_OK)
        says = folder if can_count else f"{folder} is no directory that this user may write to, so nothing is counted"
        found.append(Finding("ALLGONE_METRICS", can_count, folder, says, "make it, for the users who are to count"))
    return found
