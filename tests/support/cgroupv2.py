"""What tests of the kernel itself do to a cgroup, without the code under test."""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable, Iterator

from support.programs import PATIENCE, Started

Start = Callable[..., Started]  # the fixture `start` of tests/kernel

OWN_CGROUP = """
def own_cgroup():
    import os
    with open('/proc/self/cgroup') as f:
        return os.environ['CGROUP2'] + next(line[3:].rstrip() for line in f if line.startswith('0::'))
"""


def folder_of(started: Started) -> str:
    """The cgroup directory of something started."""
    folder = started.process._containment.where()
    assert os.path.isdir(folder)
    return folder


def read(folder: str, name: str) -> str:
    with open(f"{folder}/{name}", encoding="ascii") as f:
        return f.read()


def write(folder: str, name: str, text: str) -> None:
    with open(f"{folder}/{name}", "w", encoding="ascii") as f:
        f.write(text)


def says(folder: str, key: str) -> bool:
    """Whether cgroup.events has ``key 1``: populated, frozen."""
    return f"{key} 1\n" in read(folder, "cgroup.events")


def changes(folder: str) -> Iterator[None]:
    """One step for each change of cgroup.events; the first at once. Raises TimeoutError when nothing happens."""
    fd = os.open(f"{folder}/cgroup.events", os.O_RDONLY | os.O_CLOEXEC)
    deadline = time.monotonic() + PATIENCE
    try:
        poller = select.poll()
        poller.register(fd, select.POLLPRI)
        while True:
            os.pread(fd, 256, 0)
            yield
            if not poller.poll(max(0.0, deadline - time.monotonic()) * 1000):
                raise TimeoutError(f"nothing happens in {folder}")
    finally:
        os.close(fd)


def wait_until(folder: str, is_so: Callable[[], bool]) -> None:
    """Wait for a change of cgroup.events that makes it so."""
    for _ in changes(folder):
        if is_so():
            return


def freeze(folder: str) -> None:
    """Freeze it, and wait until it is."""
    write(folder, "cgroup.freeze", "1")
    wait_until(folder, lambda: says(folder, "frozen"))
