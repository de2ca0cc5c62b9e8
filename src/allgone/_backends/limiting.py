"""Limits on one cgroup: its controllers handed down from where we may, and the proof that they are there."""

from __future__ import annotations

import errno
import os

from allgone._backends.homes import SUPERVISORS, Home
from allgone._core.limits import Limits
from allgone._linux import controllers
from allgone._linux.cgroupfs import Mount
from allgone.errors import LimitUnavailable, Reason

_TRIES = 100  # at moving those away that are forked meanwhile


def put(limits: Limits, folder: str, home: Home, *, by_unit: bool = False) -> None:
    """Put them on the new, empty cgroup `folder` in that home. Raises `LimitUnavailable`.

    `by_unit`: the home is a scope, and systemd was told of them: of what it knows there is nothing left to do but to
    make sure that there are such limits, for it does not.
    """
    given = limits.given()
    provide(controllers.of(given), os.path.dirname(folder), home)
    if by_unit:
        given = {name: value for name, value in given.items() if name == "memory_oom_group"}
    for name, e in controllers.limit(folder, given):
        raise _not_taken(name, given[name], folder, e)


def provide(wanted: frozenset[str], folder: str, home: Home) -> None:
    """Have these controllers in the cgroups below `folder`. Raises `LimitUnavailable`."""
    for each in _from(home.top, folder):
        if wanted <= controllers.handed_down(each):
            continue
        if missing := wanted - controllers.available(each):
            raise _missing(min(missing), each, home.mount)
        _hand_down(each, wanted, may_empty=each == home.may_empty)


def obtainable(home: Home) -> frozenset[str]:
    """The controllers that limits can be had of, if nothing is in the way."""
    try:
        return controllers.available(home.top).intersection(controllers.ALL)
    except OSError as e:
        if e.errno not in (errno.ENOENT, errno.ENODEV):  # it has vanished
            raise
        return frozenset()


def _from(top: str, folder: str) -> list[str]:
    """Both and what is between them, from above."""
    found = [folder]
    while found[-1] != top:
        found.append(os.path.dirname(found[-1]))
    return found[::-1]


def _hand_down(folder: str, wanted: frozenset[str], *, may_empty: bool) -> None:
    for _ in range(_TRIES):
        try:
            controllers.hand_down(folder, wanted)
            return
        except OSError as e:
            if e.errno != errno.EBUSY or not may_empty:
                raise _not_handed_down(folder, wanted, e) from e
        try:
            controllers.move_all(folder, f"{folder}/{SUPERVISORS}")
        except OSError as e:
            raise _not_handed_down(folder, wanted, e) from e
    raise _not_handed_down(folder, wanted, OSError(errno.EBUSY, os.strerror(errno.EBUSY)))


def _not_handed_down(folder: str, wanted: frozenset[str], e: OSError) -> LimitUnavailable:
    remedies = {
        errno.EBUSY: "processes are in it: give the supervisor a cgroup of its own (Delegate=yes in its unit), or move "
        "them to one below",
        errno.EACCES: "have it delegated (Delegate=yes in the unit), or be root",
        errno.EROFS: "mount cgroup2 rw",
    }
    which = " ".join(f"+{each}" for each in sorted(wanted))
    why = f"{which} to {folder}/cgroup.subtree_control: {e.strerror}"
    return LimitUnavailable(min(wanted), (Reason("handing it down", why, remedies.get(e.errno or 0, "")),))


def _missing(controller: str, folder: str, mount: Mount) -> LimitUnavailable:
    if mount.root == "/" and controller not in controllers.available(mount.point):
        why = controllers.missing_because(controller) or "cgroup v2 has not got it here"
        remedy = {
            "cgroup v1 has it here": "boot with systemd.unified_cgroup_hierarchy=1, or cgroup_no_v1=all",
            "the kernel was built or booted without it": f"boot with cgroup_enable={controller}, or another kernel",
        }.get(why, "")
        return LimitUnavailable(controller, (Reason(f"cgroup2 at {mount.point}", why, remedy),))
    until = next((each for each in _from(mount.point, folder) if controller not in controllers.available(each)), folder)
    why = f"it is not handed down to {until}"
    return LimitUnavailable(controller, (Reason(f"the cgroup {folder}", why, _remedy(controller, folder, until)),))


def _remedy(controller: str, folder: str, until: str) -> str:
    if "/user@" in folder:
        return "as root: systemctl edit user@.service, and there [Service] Delegate=cpu cpuset io memory pids"
    if until.endswith((".service", ".scope", ".slice")):
        return "Delegate=yes in the unit"
    return f"as its owner: echo +{controller} > {os.path.dirname(until)}/cgroup.subtree_control"


def _not_taken(name: str, value: object, folder: str, e: OSError) -> LimitUnavailable:
    file = controllers.file_of(name)
    if e.errno == errno.ENOENT:
        remedy = {
            "memory_swap_max": "a kernel with CONFIG_SWAP, booted with swapaccount=1",
            "io_weight": "a kernel with CONFIG_BLK_CGROUP_IOCOST",
        }.get(name, "a newer kernel")
        reason = Reason(file, "this kernel has no such file", remedy)
    else:
        reason = Reason(f"{file} in {folder}", f"{value}: {e.strerror}", "")
    return LimitUnavailable(name, (reason,))
