"""What /proc says of a process, read without the code under test."""

from __future__ import annotations

import os
import select
import signal
import time


def _status(pid: int) -> dict[str, str]:
    try:
        with open(f"/proc/{pid}/status", encoding="utf-8", errors="replace") as f:
            return dict(line.rstrip("\n").split(":\t", 1) for line in f if ":\t" in line)
    except (FileNotFoundError, ProcessLookupError):
        return {}


def state(pid: int) -> str:
    """One letter (proc_pid_stat(5)), ``""`` if there is no such process."""
    return _status(pid).get("State", "")[:1]


def is_alive(pid: int) -> bool:
    """Neither gone nor a zombie; a process whose main thread has ended while others run is alive."""
    found = _status(pid)
    return bool(found) and (found["State"][0] not in "ZX" or int(found["Threads"]) > 1)


def cgroup(pid: int) -> str:
    """The path of its cgroup v2; "" if it is gone."""
    try:
        with open(f"/proc/{pid}/cgroup", encoding="utf-8") as f:
            return next((line[3:].rstrip("\n") for line in f if line.startswith("0::")), "")
    except (FileNotFoundError, ProcessLookupError):
        return ""


def is_unreaped_child(pid: int) -> bool:
    """Whether it is a child of this process that has ended and was not waited for."""
    return state(pid) == "Z" and int(_status(pid).get("PPid", "0")) == os.getpid()


def describe(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as f:
            command = f.read().replace(b"\0", b" ").decode("utf-8", "replace").strip()
    except (FileNotFoundError, ProcessLookupError):
        command = ""
    found = _status(pid)
    return f"pid {pid} ({found.get('Name', 'gone')}, state {found.get('State', '-')}): {command[:200]}"


def ends_within(pid: int, seconds: float) -> bool:
    """Wait for it to end, whoever's child it is; whether it did."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        poller = select.poll()
        poller.register(fd, select.POLLIN)
        return bool(poller.poll(seconds * 1000))
    finally:
        os.close(fd)


def end(pid: int) -> None:
    """SIGKILL to a process that a test has started, and wait until it is dead."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        signal.pidfd_send_signal(fd, signal.SIGKILL)
        poller = select.poll()
        poller.register(fd, select.POLLIN)
        if not poller.poll(10_000):
            raise TimeoutError(f"SIGKILL did not end {describe(pid)}")
    except ProcessLookupError:
        pass  # was ended already
    finally:
        os.close(fd)


def comes_within(path: os.PathLike[str], seconds: float) -> None:
    """Wait for a file to be made in another mount namespace: there is no event for that."""
    deadline = time.monotonic() + seconds
    while not os.path.exists(path):
        assert time.monotonic() < deadline, f"{path} has not come"
        time.sleep(0.01)
