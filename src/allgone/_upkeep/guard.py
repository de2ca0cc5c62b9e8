"""What allgone-guard runs when its supervisor is gone: end all that is in the register, by its policies.

The guard itself removes the homes then: as long as it is in one's ``guard/``, or we have its lock, no janitor comes.

Run as ``python -I -S guard.py REGISTER SUPERVISOR``: an fd and a pid. Exit status 0 if nothing is left.
"""

from __future__ import annotations

import os
import sys

if __name__ == "__main__":  # no site, so that nothing but ourselves and the standard library is needed
    # Last, for the standard library comes first, as ever.
    sys.path.append(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))

from allgone._core.containment import Containment
from allgone._core.policy import StopPolicy
from allgone._linux import register
from allgone._upkeep import leftovers, telling
from allgone._upkeep.leftovers import AT_ONCE, LeftGroups, LeftHome


def end_all(entries: int, supervisor: int) -> list[str]:
    """All that the register says; returns what could not be done, in words."""
    homes = list(filter(None, map(_home, register.homes(entries))))
    jobs: list[tuple[Containment, StopPolicy]] = [
        (each, leftovers.noted_policy(each).of_guard()) for home in homes for each in leftovers.containments(home)
    ]
    policies = {entry: StopPolicy.unpacked(entry.policy).of_guard() for entry in register.groups(entries)}
    at_once = [entry for entry, policy in policies.items() if policy.timeout_stop == 0]
    jobs += [(LeftGroups([entry]), policy) for entry, policy in policies.items() if entry not in at_once]
    if at_once:
        jobs.append((LeftGroups(at_once), AT_ONCE))  # one look at all processes for all of them
    failed = leftovers.end(
        jobs, lambda containment, outcome: telling.ended(containment, "guard", outcome, owner=supervisor)
    )
    return list(map(str, failed))


def _home(entry: register.HomeEntry) -> LeftHome | None:
    try:
        fd = os.open(entry.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)  # until we end
        if entry.inode and os.fstat(fd).st_ino != entry.inode:
            return None  # somebody else's by now
        _keep_janitors_away(fd)
        return LeftHome(entry.path, leftovers.mount_of(entry.path))
    except FileNotFoundError:
        return None


def _keep_janitors_away(home: int) -> None:
    """By the lock that was the supervisor's: the guard is in the ``guard/`` of one home only."""
    import fcntl

    try:
        fcntl.flock(home, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        pass  # one was faster, or somebody looks at it: what is to be done is the same


def _main() -> int:
    import resource
    import syslog

    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # each containment that is waited for takes three
    entries, supervisor = map(int, sys.argv[1:3])
    syslog.openlog("allgone-guard", syslog.LOG_PID)
    try:
        failed = end_all(entries, supervisor)
    except register.UnknownVersion as e:  # allgone was replaced by an older one while the supervisor ran
        syslog.syslog(
            syslog.LOG_ERR, f"process {supervisor} is gone; what it had in cgroups is killed, the rest left: {e}"
        )
        return 1  # and the guard, which is still of the right version, kills
    syslog.syslog(syslog.LOG_NOTICE, f"process {supervisor} is gone; what it had started was ended")
    for each in failed:
        syslog.syslog(syslog.LOG_ERR, each)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(_main())
