"""What a test must not leave behind: fds, threads, zombies, processes, cgroups."""

from __future__ import annotations

import ctypes
import gc
import os
import re
import threading
from dataclasses import dataclass

from allgone._backends.keeper import KEEPER
from support import cgroups, init, procfs


# The cgroup backend keeps one directory for this process, and an fd that locks it, until the process ends.
def is_own_home(path: str) -> bool:
    return re.fullmatch(rf".*/allgone-{os.getpid()}-[0-9a-f]+(/guard)?", path) is not None


def is_own_guard(pid: int) -> bool:
    """The process that both backends keep for this one, until it ends: it is what leads a session of that number."""
    try:
        return KEEPER._guard is not None and os.getsid(pid) == KEEPER._guard.pid
    except ProcessLookupError:
        return False


def _is_to_the_guard(fd: int) -> bool:
    register, guard = KEEPER._register, KEEPER._guard
    return fd in (register and register.fileno(), guard and guard._pipe)


_GUARDS_SETTLE = 10.0  # those of supervisors that a test has killed, which have work to do
_LIVES_OF_A_GUARD = 3  # it goes on as another process, with another number, when it enters guard/ and when it leaves
_SETTLE = 1.0  # seconds that a process may take from its last cgroup.events to being a zombie on a busy machine


@dataclass(frozen=True)
class Holdings:
    """What this process holds now."""

    fds: frozenset[tuple[int, str]]
    threads: frozenset[threading.Thread]
    zombies: frozenset[int]
    processes: frozenset[int]
    cgroups: frozenset[str]
    is_subreaper: bool
    networks: frozenset[str]  # the namespace that this thread is in


def holdings(base: str | None) -> Holdings:
    zombies = frozenset(pid for pid in init.children(os.getpid()) if procfs.state(pid) == "Z")
    return Holdings(
        frozenset(_fds()),
        frozenset(each for each in threading.enumerate() if not _is_of_trio(each)),
        zombies,
        frozenset(_descendants()) - zombies,
        frozenset(each for each in cgroups.tree(base) if not is_own_home(each)) if base else frozenset(),
        _is_subreaper(),
        frozenset([os.readlink("/proc/thread-self/ns/net")]),
    )


def _is_of_trio(thread: threading.Thread) -> bool:
    """trio keeps a thread for ten seconds, for when there is more to do."""
    return thread.name.startswith("Trio thread")


def _is_subreaper() -> bool:
    value = ctypes.c_int()
    ctypes.CDLL(None).prctl(37, ctypes.byref(value), 0, 0, 0)  # PR_GET_CHILD_SUBREAPER
    return bool(value.value)


def _fds() -> list[tuple[int, str]]:
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:
            continue  # the directory that we are listing
        if not is_own_home(target) and not _is_to_the_guard(int(name)):
            found.append((int(name), target))
    return found


def _descendants() -> list[int]:
    """Live processes below the init of the test run (below this process, where it has none), but this one."""
    todo, found = [init.pid or os.getpid()], []
    while todo:
        new = [pid for pid in init.children(todo.pop()) if procfs.is_alive(pid)]
        found += new
        todo += new
    return [pid for pid in found if pid != os.getpid() and not is_own_guard(pid)]


def leaked(before: Holdings, base: str | None) -> list[str]:
    """What is held now and was not before, in words; empty is good. Processes among it are ended, cgroups removed."""
    after = holdings(base)
    if after != before:
        gc.collect()
        for _ in range(_LIVES_OF_A_GUARD):
            for pid in after.processes - before.processes:
                procfs.ends_within(pid, _GUARDS_SETTLE if "guard" in procfs.describe(pid) else _SETTLE)
            after = holdings(base)
    new_cgroups = after.cgroups - before.cgroups
    found = [
        *(f"fd {fd}: {target}" for fd, target in sorted(after.fds - before.fds)),
        *(f"thread {thread.name}" for thread in after.threads - before.threads),
        *(f"zombie {procfs.describe(pid)}" for pid in sorted(after.zombies - before.zombies)),
        *(f"process {procfs.describe(pid)}" for pid in sorted(after.processes - before.processes)),
        *(f"cgroup {folder}, processes in it: {cgroups.pids(folder)}" for folder in sorted(new_cgroups)),
        *(["being a child subreaper"] if after.is_subreaper and not before.is_subreaper else []),
        *(f"being in the network namespace {each}" for each in after.networks - before.networks),
    ]
    for pid in after.processes - before.processes:
        procfs.end(pid)
    for folder in sorted(new_cgroups):
        cgroups.remove_all(folder)
    for pid in after.zombies - before.zombies:
        os.waitpid(pid, os.WNOHANG)
    return found
