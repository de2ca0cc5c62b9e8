"""What the kernel says of cgroups, processes and fds. Nothing here uses allgone, whose word is not taken for it."""

from __future__ import annotations

import collections
import errno
import os
import re
import select
import signal
import time
from dataclasses import dataclass


def mount() -> str:
    """Where cgroup2 is mounted. Raises LookupError."""
    with open("/proc/self/mountinfo", encoding="utf-8") as f:
        points = [line.split()[4] for line in f if " - cgroup2 " in line]
    if not points:
        raise LookupError("cgroup2 is not mounted")
    return points[0]


def own_cgroup() -> str:
    """The path of this process's cgroup, from the mount on. Raises LookupError."""
    with open("/proc/self/cgroup", encoding="utf-8") as f:
        paths = [line[3:].rstrip("\n") for line in f if line.startswith("0::")]
    if not paths or ".." in paths[0]:
        raise LookupError("this process has no cgroup v2 that it can see")
    return paths[0]


def tree(folder: str) -> list[str]:
    """It and all cgroups below it, parents first; empty if it does not exist."""
    return [each for each, _, _ in os.walk(folder)] if os.path.isdir(folder) else []


def pids(folder: str) -> list[int]:
    """All processes in it and below it."""
    return [pid for each in tree(folder) for pid in pids_of(each)]


def is_populated(folder: str) -> bool:
    """Whether a process lives in it or below it; a zombie does not count."""
    try:
        with open(folder + "/cgroup.events", encoding="ascii") as f:
            return "populated 1" in f.read()
    except OSError as e:
        if e.errno not in (errno.ENOENT, errno.ENODEV):
            raise
        return False


def empties(folder: str, seconds: float) -> bool:
    """Wait until nothing lives in it; whether that came to pass."""
    deadline = time.monotonic() + seconds
    try:
        with open(folder + "/cgroup.events", encoding="ascii") as f:
            poller = select.poll()
            poller.register(f, select.POLLPRI)
            while "populated 1" in f.read():
                if not poller.poll(max(0.0, deadline - time.monotonic()) * 1000):
                    return not is_populated(folder)
                f.seek(0)
    except OSError as e:
        if e.errno not in (errno.ENOENT, errno.ENODEV):
            raise
    return True


def kill_all(folder: str) -> bool:
    """Kill what lives in it, frozen or not; whether that could be done in 20 seconds."""
    deadline = time.monotonic() + 20
    while is_populated(folder) and time.monotonic() < deadline:
        for each in tree(folder):
            _write(each + "/cgroup.freeze", "0")
        _write(folder + "/cgroup.kill", "1")
        for pid in pids(folder):  # what cgroup.kill misses, or what there is before Linux 5.14
            send(pid, folder, signal.SIGKILL)
        empties(folder, 0.5)
    return not is_populated(folder)


def remove(folder: str) -> None:
    """With all below it. Raises OSError if it stays busy for 10 seconds."""
    deadline = time.monotonic() + 10
    while below := tree(folder):
        try:
            for each in reversed(below):
                os.rmdir(each)
        except FileNotFoundError:
            continue
        except OSError as e:
            if e.errno != errno.EBUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.01)  # its last process is not quite gone, and there is no event for that


def _write(path: str, text: str) -> None:
    try:
        with open(path, "w", encoding="ascii") as f:
            f.write(text)
    except OSError as e:
        if e.errno not in (errno.ENOENT, errno.ENODEV):
            raise


def send(pid: int, folder: str, signum: int, comm: str = "") -> bool:
    """Signal a process that is in this cgroup or below it, and has that name; held by a pidfd while we look."""
    try:
        fd = os.pidfd_open(pid)
    except OSError:  # gone, or a thread's number
        return False
    try:
        if pid not in pids(folder) or (comm and stat(pid)[:1] != [comm]):
            return False
        signal.pidfd_send_signal(fd, signum)
        return True
    except ProcessLookupError:
        return False
    finally:
        os.close(fd)


def stat(pid: int) -> list[str]:
    """Name, state, parent, … (proc_pid_stat(5)); empty if it is gone."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as f:
            head, _, rest = f.read().rpartition(")")
    except (FileNotFoundError, ProcessLookupError):
        return []
    return [head.partition("(")[2], *rest.split()]


def unmarked_homes(folder: str) -> set[str]:
    """Supervisors' directories that those had no time to mark as theirs: a janitor leaves them alone for a minute."""
    found = set()
    for each in tree(folder)[1:]:
        if os.path.basename(each).startswith("allgone-") and not tree(each)[1:]:
            try:
                os.getxattr(each, "user.allgone.owner")
            except OSError as e:
                if e.errno == errno.ENODATA:
                    found.add(f"cgroup {each}")
    return found


def guards(folder: str) -> list[int]:
    """The guards in it and below it."""
    return [pid for pid in pids(folder) if stat(pid)[:1] == ["allgone-guard"]]


@dataclass(frozen=True)
class Living:
    """A process that was found."""

    pid: int
    name: str
    state: str
    cgroup: str
    command: str

    def __str__(self) -> str:
        return f"pid {self.pid} {self.name} (state {self.state}) in {self.cgroup}: {self.command}"


def living(folder: str) -> list[Living]:
    """Who lives in it and below it."""
    found = []
    for each in tree(folder):
        for pid in pids_of(each):
            fields = stat(pid)
            if fields:
                found.append(Living(pid, fields[0], fields[1], each, command(pid)))
    return found


def pids_of(folder: str) -> list[int]:
    """Those in it, not below it."""
    try:
        with open(folder + "/cgroup.procs", encoding="ascii") as f:
            return [int(word) for word in f.read().split()]
    except OSError as e:
        if e.errno not in (errno.ENOENT, errno.ENODEV, errno.EOPNOTSUPP):
            raise
        return []


def command(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as f:
            return f.read(300).replace(b"\0", b" ").decode("utf-8", "replace").strip()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def children(pid: int) -> list[int]:
    found: list[int] = []
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/children", encoding="ascii") as f:
                found += map(int, f.read().split())
    except (FileNotFoundError, ProcessLookupError):
        pass
    return found


def zombies(pid: int) -> list[int]:
    """Its children that have ended, and that it has not waited for."""
    return [each for each in children(pid) if stat(each)[1:2] == ["Z"]]


def fds(pid: int) -> collections.Counter[str]:
    """What its fds are open on, numbers left out: how many of each."""
    found: collections.Counter[str] = collections.Counter()
    for name in os.listdir(f"/proc/{pid}/fd"):
        try:
            target = os.readlink(f"/proc/{pid}/fd/{name}")
        except FileNotFoundError:
            continue
        found[re.sub(r"[0-9a-f]*\d[0-9a-f]*", "N", target)] += 1
    return found


def resident(pid: int) -> float:
    """MB of its own memory: what is shared with files does not count."""
    with open(f"/proc/{pid}/status", encoding="utf-8") as f:
        return next(int(line.split()[1]) for line in f if line.startswith("RssAnon:")) / 1024


def available() -> int:
    """MB of memory that the machine could still give."""
    with open("/proc/meminfo", encoding="ascii") as f:
        return next(int(line.split()[1]) for line in f if line.startswith("MemAvailable")) >> 10


def on_disk() -> set[str]:
    """What may be left where programs note what they run; allgone says that it writes nothing there."""
    return {f"{folder}/{name}" for folder in ("/run", "/dev/shm") for name in os.listdir(folder) if "allgone" in name}
