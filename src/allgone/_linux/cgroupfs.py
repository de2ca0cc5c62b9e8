"""cgroup v2 files: find, read, write, create, remove (Documentation/admin-guide/cgroup-v2.rst)."""

from __future__ import annotations

import errno
import os
import select
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import NamedTuple

from allgone._linux import pidfd

_LONG_PATH = 2048  # characters; PATH_MAX is 4096 and a name may have 255


class Mount(NamedTuple):
    """A cgroup2 mount: where it is, which part of the hierarchy it shows, whether it is writable."""

    point: str
    root: str
    writable: bool


def mounts(mountinfo: str) -> list[Mount]:
    """The cgroup2 mounts in the text of /proc/self/mountinfo (proc_pid_mountinfo(5))."""
    found = []
    for line in mountinfo.split("\n"):  # splitlines() takes more for line ends than the kernel does
        before, _, after = line.partition(" - ")
        if after.split(" ", 1)[0] == "cgroup2":
            fields = before.split(" ")
            options = f"{fields[5]},{after.split(' ')[2]}".split(",")
            found.append(Mount(_unescaped(fields[4]), _unescaped(fields[3]), "ro" not in options))
    return found


def _unescaped(path: str) -> str:
    # The kernel writes blank, tab, newline and backslash as three octal digits.
    for code, char in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        path = path.replace(code, char)
    return path


def own_cgroup(proc_cgroup: str) -> str | None:
    """The cgroup v2 path in the text of /proc/PID/cgroup, as seen from our cgroup namespace; None without cgroup v2."""
    for line in proc_cgroup.split("\n"):
        if line.startswith("0::"):
            return line[3:].removesuffix(" (deleted)")
    return None


def directory(mount: Mount, path: str) -> str | None:
    """Where the cgroup `path` is in the file system; None if `mount` doesn't show it."""
    root = mount.root.rstrip("/")
    if ".." in path.split("/") or not (path == root or path.startswith(root + "/")):
        return None
    return os.path.normpath(mount.point + "/" + path[len(root) :])


def write(path: str, text: bytes) -> None:
    """Write to a cgroup file in one system call, as the kernel wants it."""
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text)
    finally:
        os.close(fd)


def read(path: str) -> bytes:
    """The text of a file that is short: cgroup.events, cgroup.freeze, /proc/PID/cgroup."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(fd, 1 << 14)
    finally:
        os.close(fd)


def read_long(path: str) -> bytes:
    """The text of a file that the kernel hands out page by page: cgroup.procs, cgroup.threads."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        text = b""
        while chunk := os.read(fd, 1 << 16):
            text += chunk
        return text
    finally:
        os.close(fd)


def populated(folder: str) -> bool:
    """Whether a live process is in the cgroup or below it; False if it does not exist. This, not cgroup.procs, is the
    truth: a zombie does not count, and a thread whose process has a dead leader does."""
    try:
        return b"populated 1" in read(folder + "/cgroup.events")
    except OSError as e:
        if e.errno in (errno.ENOENT, errno.ENODEV):  # ENODEV: removed between open and read
            return False
        raise


@contextmanager
def below(folder: str) -> Iterator[list[str]]:
    """The cgroup's directory and all below it, parents first; those that vanish meanwhile are left out.

    The paths are good inside the ``with`` block: children may nest deeper than a path can be long.
    """
    with ExitStack() as stack:
        found, todo = [], [folder]
        while todo:
            each = todo.pop()
            try:
                facts = os.stat(each)
                if facts.st_mode & 0o700 != 0o700:
                    os.chmod(each, 0o700)  # a child may lock what it made; it is to go all the same
                # Directories have 2 links and one more per subdirectory: mostly there is nothing to list.
                if facts.st_nlink > 2:
                    with os.scandir(_shortened(each, stack)) as entries:
                        todo += [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
            except FileNotFoundError:
                continue
            found.append(each)
        yield found


def _shortened(folder: str, stack: ExitStack) -> str:
    """The same directory by a path to which another name can be added."""
    if len(folder) < _LONG_PATH:
        return folder
    fd = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    stack.callback(os.close, fd)
    return f"/proc/self/fd/{fd}"


def beside(folder: str, prefix: str) -> list[str]:
    """The other cgroups in the same directory whose names begin so."""
    parent, _, own = folder.rpartition("/")
    try:
        with os.scandir(parent) as entries:
            return [e.path for e in entries if e.name.startswith(prefix) and e.name != own and e.is_dir()]
    except (FileNotFoundError, PermissionError):
        return []


def procs(folder: str) -> set[int]:
    """Pids in this one cgroup. 0 (a process of a foreign pid namespace) is left out: it can't be addressed."""
    try:
        listed = read_long(folder + "/cgroup.procs").split()
    except FileNotFoundError:
        return set()
    except OSError as e:
        if e.errno == errno.ENODEV:
            return set()
        if e.errno == errno.EOPNOTSUPP:  # a threaded cgroup: it lists threads only
            return _processes_of_threads(folder)
        raise
    return {int(pid) for pid in listed} - {0}


def _processes_of_threads(folder: str) -> set[int]:
    found: set[int] = set()
    try:
        threads = read_long(folder + "/cgroup.threads").split()
    except OSError as e:
        if e.errno in (errno.ENOENT, errno.ENODEV):  # removed meanwhile
            return found
        raise
    for thread in threads:
        try:
            with open(f"/proc/{int(thread)}/status", "rb") as f:
                found |= {int(line.split()[1]) for line in f if line.startswith(b"Tgid:")}
        except (FileNotFoundError, ProcessLookupError):
            continue  # ended meanwhile
    return found - {0}


def all_procs(folder: str) -> set[int]:
    """Pids in the cgroup and all below it."""
    with below(folder) as folders:
        return set().union(*map(procs, folders))


def ids(folder: str) -> set[int]:
    """The kernel's ids of the cgroup and all below it: their inode numbers."""
    found = set()
    with below(folder) as folders:
        for each in folders:
            try:
                found.add(os.stat(each).st_ino)
            except FileNotFoundError:
                continue
    return found


def has_kill(folder: str) -> bool:
    """Whether the kernel has cgroup.kill (5.14)."""
    return os.path.exists(folder + "/cgroup.kill")


def kill(folder: str) -> None:
    """SIGKILL to the whole subtree by one write. Raises FileNotFoundError before Linux 5.14."""
    write(folder + "/cgroup.kill", b"1")


def move(folder: str, pid: int) -> None:
    """Have a process with all its threads go on in this cgroup (cgroups(7)). What it has started stays where it is."""
    write(folder + "/cgroup.procs", str(pid).encode())


def contains(folder: str, pid: int, mount: Mount) -> bool:
    """Whether the process is in the cgroup or below it, by its own /proc/PID/cgroup."""
    try:
        path = own_cgroup(os.fsdecode(read(f"/proc/{pid}/cgroup")))
    except (FileNotFoundError, ProcessLookupError):
        return False
    except OSError as e:
        if e.errno == errno.ENAMETOOLONG:  # too deep for the kernel to say where
            return pid in all_procs(folder)
        raise
    where = directory(mount, path) if path else None
    return where is not None and (where == folder or where.startswith(folder + "/"))


def remove(folder: str) -> bool:
    """rmdir it and, if it is empty, all below; False while the kernel says EBUSY. True if it is gone."""
    try:
        os.rmdir(folder)  # which fails unless it is empty: mostly there is nothing below, and nothing to ask before
    except FileNotFoundError:
        return True
    except OSError as e:
        if e.errno not in (errno.EBUSY, errno.ENOTEMPTY):
            raise
        return not populated(folder) and _remove_below(folder)
    return True


def _remove_below(folder: str) -> bool:
    with below(folder) as folders:
        for each in reversed(folders):
            try:
                os.rmdir(each)
            except FileNotFoundError:
                continue
            except OSError as e:
                if e.errno in (errno.EBUSY, errno.ENOTEMPTY):
                    return False
                raise
    return True


def remove_soon(folder: str, within: float = 1.0) -> bool:
    """`remove()`, again for `within` seconds at most: after an end EBUSY can last 5-15 ms, and has no event."""
    deadline = time.monotonic() + within
    while not remove(folder):
        if time.monotonic() >= deadline:
            return False
        time.sleep(0.002)
    return True


def wait_until_empty(folder: str, within: float) -> bool:
    """Wait for so many seconds until no process is in the cgroup or below it; whether that came to pass."""
    deadline = time.monotonic() + within
    with EmptiedWatch(folder) as watch:
        while not watch.emptied():
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            poller = select.poll()
            poller.register(watch.fileno(), select.POLLIN)
            if not watch.emptied():
                poller.poll(left * 1000)
    return True


class EmptiedWatch:
    """An epoll on ``cgroup.events`` and on one member still alive.

    The kernel notifies of ``cgroup.events`` at most once in 10 ms; the pidfd of a member tells at once. It must be
    EPOLLPRI on the events file: plain POLLIN is always ready there.
    """

    recheck: float | None = None

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._straggler: int | None = None
        self._events: int | None = None
        self._epoll: select.epoll | None = None

    def emptied(self) -> bool:
        if self._events is None:
            return not populated(self._folder)
        try:
            # Read from the watched file itself: that acknowledges, so that the next change is notified.
            return b"populated 0" in os.pread(self._events, 256, 0)
        except OSError as e:
            if e.errno == errno.ENODEV:  # removed by somebody else
                return True
            raise

    def _open(self) -> select.epoll:
        if self._epoll is None:
            self._epoll = select.epoll()
            try:
                self._events = os.open(self._folder + "/cgroup.events", os.O_RDONLY | os.O_CLOEXEC)
                self._epoll.register(self._events, select.EPOLLPRI)
            except FileNotFoundError:
                pass  # removed by somebody else: emptied() says so
        return self._epoll

    def _arm(self, epoll: select.epoll) -> None:
        self._disarm()
        # The last listed dies last, more or less.
        for pid in sorted(all_procs(self._folder), reverse=True)[:4]:
            try:
                self._straggler = os.pidfd_open(pid)
            except OSError:
                continue  # gone, or going: try another one. Without any (or any fd left) cgroup.events tells, later
            epoll.register(self._straggler, select.EPOLLIN)
            return

    def _disarm(self) -> None:
        fd, self._straggler = self._straggler, None
        if fd is not None:
            os.close(fd)  # which takes it out of the epoll

    def fileno(self) -> int:
        epoll = self._open()
        self._arm(epoll)
        return epoll.fileno()

    def close(self) -> None:
        self._disarm()
        events, self._events = self._events, None
        if events is not None:
            os.close(events)
        if self._epoll is not None:
            self._epoll.close()

    def __enter__(self) -> EmptiedWatch:
        return self

    def __exit__(self, kind: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


def signal_member(folder: str, mount: Mount, pid: int, signums: tuple[int, ...]) -> bool:
    """Signal `pid` if, once it is held by a pidfd, it is in the cgroup or below it; whether it was signalled."""
    return pidfd.signal_if(pid, signums, lambda held: contains(folder, held, mount))
