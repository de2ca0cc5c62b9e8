"""The cgroup of a test run, `allgone-test-<pid>`: made, emptied and removed without the code under test."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import time


def where() -> str:
    """The directory of this process's own cgroup v2, or of ALLGONE_CGROUP. Raises LookupError with the reason."""
    if told := os.environ.get("ALLGONE_CGROUP"):
        return told
    with open("/proc/self/cgroup", encoding="utf-8") as f:
        paths = [line[3:].rstrip("\n") for line in f if line.startswith("0::")]
    if not paths or ".." in paths[0]:
        raise LookupError("this process has no cgroup v2 of its own that it can see")
    return directory(paths[0])


def directory(path: str) -> str:
    """That of a cgroup v2 whose path /proc/PID/cgroup has. Raises LookupError where no mount shows it."""
    with open("/proc/self/mountinfo", encoding="utf-8") as f:
        points = [line.split() for line in f if " - cgroup2 " in line]
    for fields in points:
        root, point = fields[3].rstrip("/"), fields[4]
        if (path + "/").startswith(root + "/"):
            return os.path.normpath(f"{point}/{path[len(root) :]}")
    raise LookupError(f"no cgroup2 mount shows {path}")


def make_base(pid: int) -> str:
    """Make it, and prove that a process can enter it. Raises LookupError with the reason where that can't be had."""
    base = f"{where()}/allgone-test-{pid}"
    try:
        os.mkdir(base)
    except OSError as e:
        raise LookupError(f"cannot create {base}: {e.strerror}") from None
    entered = subprocess.run(
        ["sh", "-c", 'echo $$ > "$0/cgroup.procs"', base], stderr=subprocess.PIPE, text=True, check=False
    )
    if entered.returncode:
        os.rmdir(base)
        raise LookupError(f"cannot enter {base}: {entered.stderr.strip()}")
    return base


def tree(folder: str) -> list[str]:
    """It and all below it, parents first; empty if it does not exist."""
    if not os.path.isdir(folder):
        return []
    return [each for each, _, _ in os.walk(folder)]


def pids(folder: str) -> list[int]:
    """All processes in it and below it."""
    found: list[int] = []
    for each in tree(folder):
        try:
            with open(each + "/cgroup.procs", encoding="ascii") as f:
                found += map(int, f.read().split())
        except FileNotFoundError:
            continue
        except OSError as e:
            if e.errno not in (errno.ENODEV, errno.EOPNOTSUPP):
                raise
    return found


def remove_all(folder: str) -> None:
    """Kill what is in it, thaw it, remove it with all below. Raises OSError if it stays busy for 10 seconds."""
    deadline = time.monotonic() + 10
    while folders := tree(folder):
        try:
            for each in reversed(folders):
                os.chmod(each, 0o755)
                os.rmdir(each)
        except FileNotFoundError:
            continue
        except OSError as e:
            if e.errno != errno.EBUSY or time.monotonic() > deadline:
                raise
            _kill(folder, folders)


def _kill(folder: str, folders: list[str]) -> None:
    for each in folders:
        write(each + "/cgroup.freeze", "0")
    write(folder + "/cgroup.kill", "1")
    for pid in pids(folder):
        try:
            fd = os.pidfd_open(pid)
        except OSError:
            continue  # ended, or only a thread's number
        try:
            if pid in pids(folder):  # still it, now that it is held
                signal.pidfd_send_signal(fd, signal.SIGKILL)
        except ProcessLookupError:
            pass
        finally:
            os.close(fd)


def write(path: str, text: str) -> None:
    """Write to a cgroup file, if it exists."""
    try:
        with open(path, "w", encoding="ascii") as f:
            f.write(text)
    except FileNotFoundError:
        pass  # the root has none, and old kernels don't
