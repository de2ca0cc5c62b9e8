"""The cgroup freezer: cgroup.freeze, and what cgroup.events says of it (cgroup-v2.rst, Linux 5.2)."""

from __future__ import annotations

import errno
import os
import select
from types import TracebackType

from allgone._linux.cgroupfs import below, read, write


def has_freeze(folder: str) -> bool:
    """Whether the kernel has cgroup.freeze (5.2)."""
    return os.path.exists(folder + "/cgroup.freeze")


def freeze(folder: str, frozen: bool) -> None:
    """Ask for the subtree to be frozen or thawed (5.2); it takes a moment. Thawing leaves alone what is not frozen."""
    write(folder + "/cgroup.freeze", b"1" if frozen else b"0")


def is_frozen(folder: str) -> bool:
    """Whether it was asked to be frozen; False where it is gone, and before Linux 5.2."""
    try:
        return read(folder + "/cgroup.freeze").strip() == b"1"
    except OSError as e:
        if e.errno in (errno.ENOENT, errno.ENODEV):
            return False
        raise


def thaw_all(folder: str) -> None:
    """Thaw the cgroup and whatever was frozen separately below it."""
    with below(folder) as folders:
        for each in folders:
            thaw(each)


def thaw(folder: str) -> None:
    """Undo a freeze, if there is one; nothing happens where the cgroup is gone."""
    if not is_frozen(folder):
        return
    try:
        freeze(folder, False)
    except OSError as e:
        if e.errno not in (errno.ENOENT, errno.ENODEV):  # removed meanwhile
            raise


class FreezeWatch:
    """Freezes the subtree, and tells by ``cgroup.events`` when that is done.

    Through an epoll, for there it can be EPOLLPRI: a plain POLLIN is always ready.

    Raises FileNotFoundError where there is no such cgroup, or no cgroup.freeze.
    """

    def __init__(self, folder: str) -> None:
        self._events = os.open(folder + "/cgroup.events", os.O_RDONLY | os.O_CLOEXEC)
        self._epoll: select.epoll | None = None
        try:
            freeze(folder, True)
        except BaseException:
            self.close()
            raise

    def frozen(self) -> bool:
        try:
            return b"frozen 1" in os.pread(self._events, 256, 0)  # which acknowledges: the next change is notified
        except OSError as e:
            if e.errno == errno.ENODEV:  # removed meanwhile, so nobody is in it
                return True
            raise

    def fileno(self) -> int:
        if self._epoll is None:
            self._epoll = select.epoll()
            self._epoll.register(self._events, select.EPOLLPRI)
        return self._epoll.fileno()

    def close(self) -> None:
        if self._epoll is not None:
            self._epoll.close()
        os.close(self._events)

    def __enter__(self) -> FreezeWatch:
        return self

    def __exit__(self, kind: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None) -> None:
        self.close()
