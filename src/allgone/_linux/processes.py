"""/proc and what marks descent: sessions, and a tag in RLIMIT_LOCKS that children inherit."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from allgone._core.report import Process
from allgone._linux import pidfd

# Not in the resource module. The kernel has not enforced it since 2.4.25 (getrlimit(2)), yet keeps it per process and
# hands it to every child, whatever that calls: unlike an environment variable it survives setproctitle.
RLIMIT_LOCKS = 10
_LOOKS, _MOST_NEW = 8, 1000  # at processes started meanwhile, and how many of them; more are left to the next scan
_HARD, _SOFT = 1 << 62, 1 << 61  # a tag is a number no administrator would set as a limit


class Tag(NamedTuple):
    """A mark of descent. `hard` is the outermost containment's and stays; `soft` is the innermost one's."""

    soft: int
    hard: int

    def marks(self, limits: tuple[int, int]) -> bool:
        """Whether a process with these (soft, hard) limits descends from where this tag was given."""
        return limits[0] == self.soft or (limits[1] == self.hard and self.soft == self.hard)


def is_tag(limit: int) -> bool:
    """Whether a value of RLIMIT_LOCKS is one that we have given."""
    return _SOFT <= limit < 2 * _HARD


def new_tag() -> Tag:
    """A tag for a new containment: 61 or more random bits; inside a tagged process the outer tag is kept as well."""
    hard = resource.getrlimit(RLIMIT_LOCKS)[1]
    if _HARD <= hard < 2 * _HARD:
        return Tag(_SOFT | _random_bits(61), hard)
    value = _HARD | _random_bits(62)
    return Tag(value, value)


def _random_bits(count: int) -> int:
    return int.from_bytes(os.urandom(8), "little") >> (64 - count)


def limits(pid: int) -> tuple[int, int] | None:
    """RLIMIT_LOCKS of a process, zombies included; None if it is gone or nobody may say."""
    try:
        return resource.prlimit(pid, RLIMIT_LOCKS)
    except ProcessLookupError:
        return None
    except PermissionError:
        return _limits_of_another_user(pid)


def _limits_of_another_user(pid: int) -> tuple[int, int] | None:
    # prlimit(2) wants the same user; /proc/PID/limits may be read by anybody.
    try:
        lines = _read(f"/proc/{pid}/limits").splitlines()  # bytes: a codec might have to be imported, as another user
    except (FileNotFoundError, ProcessLookupError):
        return None
    line = next((line for line in lines if line.startswith(b"Max file locks")), b"")
    values = [resource.RLIM_INFINITY if word == b"unlimited" else int(word) for word in line.split()[3:5]]
    return (values[0], values[1]) if len(values) == 2 else None


class Stat(NamedTuple):
    """The fields of /proc/PID/stat that we use (proc_pid_stat(5))."""

    comm: str
    state: str
    ppid: int
    threads: int
    started: float = 0.0  # seconds since boot, cut to the clock tick

    @property
    def alive(self) -> bool:
        """False for a zombie; one whose other threads still run is alive (its main thread called pthread_exit)."""
        return self.state not in "ZX" or self.threads > 1

    @property
    def since_1970(self) -> float:
        """When it was started, in seconds since 1970, as good as a clock tick, a hundredth of a second mostly."""
        return round(time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) + self.started, 2)


def stat(pid: int) -> Stat | None:
    """None if there is no such process."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as f:
            text = f.read()
    except (FileNotFoundError, ProcessLookupError):
        return None
    comm, rest = text[text.index(b"(") + 1 :].rsplit(b")", 1)
    fields = rest.split()
    started = int(fields[19]) / os.sysconf("SC_CLK_TCK")
    return Stat(comm.decode("utf-8", "replace"), fields[0].decode(), int(fields[1]), int(fields[17]), started)


def line_from(pid: int) -> list[int]:
    """The processes from `pid` down to this one, each the parent of the next; empty where it is no ancestor of ours."""
    line = [os.getpid()]
    while line[-1] != pid:
        found = stat(line[-1])
        if found is None or found.ppid == 0:  # the first process of our pid namespace
            return []
        line.append(found.ppid)
    return line[::-1]


def is_alive(pid: int) -> bool:
    found = stat(pid)
    return found is not None and found.alive


def all_pids() -> Iterator[int]:
    """Every process that /proc shows, and then those that were started while the caller looked at the others.

    Without the latter, one that forks and ends all the time is missed by whoever reads a list of numbers. Of those the
    newest come first, for only they may still be there.
    """
    last = _last_pid()
    yield from [int(name) for name in os.listdir("/proc") if name.isdigit()]
    for _ in range(_LOOKS):
        begun, last = last + 1, _last_pid()
        if last < begun:
            return
        yield from filter(_is_process, range(last, max(begun, last - _MOST_NEW) - 1, -1))


def _last_pid() -> int:
    """The number given last in our pid namespace (proc_loadavg(5))."""
    return int(_read("/proc/loadavg").rsplit(None, 1)[1])


def _is_process(number: int) -> bool:
    try:
        os.close(pidfd.hold(number))  # threads have numbers as well, and directories in /proc that it does not list
    except ProcessLookupError:
        return False
    return True


def session(pid: int) -> int | None:
    """Its session id; None if it is gone."""
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return None


def group(pid: int) -> int | None:
    """Its process group id; None if it is gone."""
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return None


def children_of_self() -> list[int]:
    """Direct children of this process, zombies and adopted orphans included (kernel option PROC_CHILDREN)."""
    return children(os.getpid())


def children(pid: int) -> list[int]:
    """The same of any process; none if it is gone."""
    found: list[int] = []
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except (FileNotFoundError, ProcessLookupError):
        return found
    for thread in threads:
        try:
            with open(f"/proc/{pid}/task/{thread}/children", "rb") as f:
                found += map(int, f.read().split())
        except (FileNotFoundError, ProcessLookupError):
            continue  # the thread ended; its children went to another one, which the caller's next look shows
    return found


def lists_children() -> bool:
    """Whether the kernel shows what `children_of_self()` reads."""
    return os.path.exists(f"/proc/self/task/{os.getpid()}/children")


def named(pids: Iterable[int], most: int = 64) -> tuple[Process, ...]:
    """Name and command of these processes; of those after the first `most`, and of the gone, just the pid."""
    return tuple(_named(pid) if n < most else Process(pid) for n, pid in enumerate(sorted(pids)))


def _named(pid: int) -> Process:
    found = stat(pid)
    if found is None:
        return Process(pid)
    return Process(pid, found.comm, command(pid), parent=found.ppid, started=found.since_1970)


def words(pid: int) -> list[str]:
    """The words of its command, as many as 4096 bytes hold; none if it is gone, a zombie or a kernel thread."""
    try:
        text = _read(f"/proc/{pid}/cmdline").decode("utf-8", "replace")
    except (FileNotFoundError, ProcessLookupError):
        return []
    return text.rstrip("\0").split("\0") if text else []


def command(pid: int) -> str:
    """Its command for people to read; "" if it is gone."""
    return shown(words(pid))


def command_or_name(pid: int) -> str:
    """Its command; of a zombie its name; "" where that can't be read (any more), for whatever reason."""
    try:
        return command(pid) or _read(f"/proc/{pid}/comm").decode("utf-8", "replace").rstrip("\n")
    except OSError:  # gone; hidden from us (hidepid=); or no fds left, of no concern to who only wants to know
        return ""


def _read(path: str) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(fd, 4096)
    finally:
        os.close(fd)


def described(pids: Iterable[int]) -> tuple[Process, ...]:
    """All that people want to know of these processes; of the gone, just the pid."""
    return tuple(map(_described, sorted(pids)))


def _described(pid: int) -> Process:
    import psutil

    try:
        process = psutil.Process(pid)
        with process.oneshot():
            name, command, user = process.name(), shown(process.cmdline()), process.username()
        found = stat(pid)
        return Process(pid) if found is None else Process(pid, name, command, user, found.ppid, found.since_1970)
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return _named(pid)


def shown(words: Sequence[str]) -> str:
    """The words of a command for people to read, not too long."""
    text = " ".join(words)
    return text if len(text) <= 200 else text[:199] + "…"


def was_set_at_start(variable: str) -> bool:
    """Whether this process was given the environment variable; what it set itself since then does not count."""
    with open("/proc/self/environ", "rb") as f:
        return any(entry.startswith(os.fsencode(variable) + b"=") for entry in f.read().split(b"\0"))
