"""cgroup namespaces (cgroup_namespaces(7)): whether a command can be sealed into its cgroup."""

from __future__ import annotations

_CAP_SYS_ADMIN = 1 << 21


def unavailable_because(point: str) -> str:
    """Why a process can't be kept in its cgroup, of the hierarchy that is mounted at `point`; "" where it can."""
    if not _may_unshare():
        return "this process may not make namespaces: it is not root, or lacks CAP_SYS_ADMIN"
    if not _is_boundary(point):
        return (
            f"the kernel lets processes leave cgroup namespaces, for {point} is mounted without nsdelegate; systemd "
            "mounts it so where there are no cgroups of version 1"
        )
    return ""


def _may_unshare() -> bool:
    with open("/proc/self/status", encoding="utf-8", errors="replace") as f:
        effective = next(line for line in f if line.startswith("CapEff:"))
    return bool(int(effective.split()[1], 16) & _CAP_SYS_ADMIN)


def _is_boundary(point: str) -> bool:
    """Whether namespaces are boundaries of delegation (cgroups(7), "nsdelegate"), which every mount of cgroup2 says."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as f:
        after = [line.partition(" - ")[2].split() for line in f]
    return any(fields[0] == "cgroup2" and "nsdelegate" in fields[2].split(",") for fields in after)
