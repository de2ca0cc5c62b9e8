"""The process allgone-guard: its start, and the pipe on which it is spoken to (src/launcher/guard.c)."""

from __future__ import annotations

import errno
import math
import os
import select
import signal
import sys
from collections.abc import Sequence
from functools import partial
from itertools import count

from allgone._linux import fds, launcher, processes

COMPILED = os.path.join(os.path.dirname(launcher.COMPILED), "allgone-guard")
INTERPRETED = os.path.join(os.path.dirname(launcher.COMPILED), "interpreted_guard.py")
_KEPT = ("LD_LIBRARY_PATH", "ALLGONE_JOURNAL", "ALLGONE_METRICS")  # of the environment, for `program`
_ENDS_WITHIN = 1.0  # seconds from being told so


class Guard:
    """A process in a session of its own, nobody's child, that ends when `end()` says so.

    register
        The fd of a `Register`: what it ends, by itself and by `program` (which is given that fd's number, and the
        pid of this process), when this process is gone. None: it only holds a place, and ends with this process.
    own
        The cgroup directory of this process, "" where there is none.
    supervisor
        The pid of the process at whose end it acts, if that is not this one.

    It is started, and nobody waits until it is up: that is for `settle()`. Raises OSError where it can't be started.
    """

    def __init__(
        self, register: int | None = None, own: str = "", program: Sequence[str] = (), supervisor: int | None = None
    ) -> None:
        self._pipe: int | None = None
        self._status: int | None = None  # until it is known to be up
        self._pid: int | None = None
        self.has_moved = False  # by that it has become another process, whose number nobody knows
        whose = supervisor or os.getpid()
        watched = fds.above_stdio(os.pidfd_open(whose))
        try:
            reader, self._pipe = fds.pipe()
            try:
                self._parent, self._status = _spawned(reader, watched, register, own, program, whose)
            finally:
                os.close(reader)
        except BaseException:  # Ctrl-C as well: it ends when we let go
            self.let_go()
            raise
        finally:
            os.close(watched)

    @property
    def pid(self) -> int:
        self.settle()
        assert self._pid is not None
        return self._pid

    def settle(self) -> None:
        """Be sure that it is up, and have no child any more. Raises OSError if it could not be."""
        if self._status is None:
            return
        try:
            failure, self._pid = launcher.outcome(self._status)
        finally:
            self._forget_parent()
        if self._pid is not None:
            _note_if_child(self._pid)
        else:
            error = failure.error if failure else errno.ECHILD
            raise OSError(error, f"cannot start allgone-guard: {os.strerror(error)}")

    def is_alive(self) -> bool:
        return self._pipe is not None and not self.has_ended(0)

    def has_ended(self, within: float) -> bool:
        """Wait for its end for so many seconds; whether it has."""
        if self._pipe is None:
            return True
        poller = select.poll()
        poller.register(self._pipe, 0)  # POLLERR: nobody reads any more
        return bool(poller.poll(within * 1000))

    def enter(self, home: int) -> None:
        """Have it move to the cgroup ``guard/`` of this home in the register; nobody waits for that."""
        self.has_moved = True
        self._say(b"e", home)

    def leave(self, home: int) -> None:
        """Have it move out of there, so that it can be removed."""
        self.has_moved = True
        self._say(b"l", home)

    def may_be_moved(self, within: float) -> None:
        """By systemd, as a scope's first process: it does not end before it is, or so many seconds are over."""
        self._say(b"s", math.ceil(within * 2))

    def end(self) -> None:
        """Tell it to end, and wait until it does, which it has nothing else to do but."""
        self._say(b"q", 0)
        self.has_ended(_ENDS_WITHIN)
        self.let_go()

    def _say(self, word: bytes, number: int) -> None:
        if self._pipe is None or self.has_ended(0):  # with SIGPIPE at its default the write would end us
            return
        try:
            os.write(self._pipe, word + number.to_bytes(4, "little"))
        except BrokenPipeError:
            pass  # it is gone: whoever needs it next starts another

    def let_go(self) -> None:
        self._forget_parent()
        has_ended = self._pipe is not None and self.has_ended(0)
        pipe, self._pipe = self._pipe, None
        if pipe is not None:
            os.close(pipe)
        for leader in list(_children):
            _reap(leader, block=has_ended and leader == self._pid)

    def _forget_parent(self) -> None:
        status, self._status = self._status, None
        if status is None:
            return
        os.close(status)
        try:
            os.waitpid(self._parent, 0)
        except ChildProcessError:  # reaped by who waits for any child; or this is a fork of who started it
            pass


def _spawned(
    reader: int, watched: int, register: int | None, own: str, program: Sequence[str], supervisor: int
) -> tuple[int, int]:
    """The pid of what gives birth to the guard and ends, and the fd on which it reports."""
    status, writer = fds.pipe()
    passed = [fd for fd in (writer, reader, watched, register) if fd is not None]
    free = (fd for fd in count(3) if fd not in passed)
    there = dict(zip(passed, free, strict=False))  # the guard closes all others
    words = [*map(str, there.values()), *(["-"] if register is None else []), own or "-"]
    if program and register is not None:
        words += [*program, str(there[register]), str(supervisor)]
    before = [COMPILED] if launcher.kind() == "compiled" else [sys.executable, "-I", "-S", INTERPRETED]
    # Nothing of our environment: CI runners end what carries their marks there.
    kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
    stdio = [(os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDWR, 0), *((os.POSIX_SPAWN_DUP2, 0, fd) for fd in (1, 2))]
    spawn = partial(
        os.posix_spawn,
        before[0], ["allgone-guard" if len(before) == 1 else before[0], *before[1:], *words], kept,
        file_actions=[*stdio, *((os.POSIX_SPAWN_DUP2, *pair) for pair in there.items())],
        setsigdef=[signal.SIGPIPE, signal.SIGXFSZ],
    )  # fmt: skip
    try:
        netns = sys.modules.get("allgone._linux.netns")  # imported, if this thread is in a namespace of a child's
        parent = netns.call_outside(spawn) if netns else spawn()
    except BaseException:
        os.close(status)
        raise
    finally:
        os.close(writer)
    return parent, status


# Guards that are children of ours after all: this process is a subreaper, or PID 1. Until they are reaped their numbers
# stay theirs; each is that of the session that it leads.
_children: set[int] = set()


def _note_if_child(pid: int) -> None:
    """To be called while it lives, and what gave birth to it is reaped."""
    try:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:  # init's, as it should be
        return
    _children.add(pid)


def _reap(leader: int, *, block: bool) -> None:
    """Have the kernel forget one that has ended, with what it was after it had moved. `block`: it is about to."""
    how = os.WEXITED | (0 if block else os.WNOHANG)
    try:
        if not block and not os.waitid(os.P_PID, leader, how | os.WNOWAIT):
            return  # it lives
        for pid in processes.children_of_self():
            if pid != leader and processes.session(pid) == leader and not os.waitid(os.P_PID, pid, how):
                return  # it lives, as another process, so that the number is needed
        os.waitid(os.P_PID, leader, how)
    except ChildProcessError:
        pass  # reaped by who waits for any child; or this is a fork of who started it
    _children.discard(leader)
