"""The process allgone-guard: its start, and the pipe on which it is spoken to (src/launcher/guard.c)."""

from __future__ import annotations

import errno
import os
import select
import sys
from collections.abc import Sequence
from subprocess import DEVNULL, Popen  # by name: others may put ours in its place

from allgone._linux import fds, launcher

COMPILED = os.path.join(os.path.dirname(launcher.COMPILED), "allgone-guard")
INTERPRETED = os.path.join(os.path.dirname(launcher.COMPILED), "interpreted_guard.py")
_ENDS_WITHIN = 1.0  # seconds from being told so


class Guard:
    """A process in a session of its own, nobody's child, that ends when `end()` says so.

    register
        The fd of a `Register`: what it ends, by itself and by `program`, when this process is gone. None: it only
        holds a place, and ends with this process.
    own
        The cgroup directory of this process, "" where there is none.

    Raises OSError where it can't be started.
    """

    def __init__(self, register: int | None = None, own: str = "", program: Sequence[str] = ()) -> None:
        self._pipe: int | None = None
        self.has_moved = False  # by that it has become another process, whose number nobody knows
        us = fds.above_stdio(os.pidfd_open(os.getpid()))
        try:
            reader, self._pipe = fds.pipe()
            try:
                self.pid = _started([reader, us, register], [own or "-", *program])
            finally:
                os.close(reader)
        except BaseException:  # Ctrl-C as well: it ends when we let go
            self.let_go()
            raise
        finally:
            os.close(us)

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
        pipe, self._pipe = self._pipe, None
        if pipe is not None:
            os.close(pipe)


def _started(told: list[int | None], program: Sequence[str]) -> int:
    status, writer = fds.pipe()
    words = ["-" if fd is None else str(fd) for fd in (writer, *told)]
    before = [COMPILED] if launcher.kind() == "compiled" else [sys.executable, "-I", "-S", INTERPRETED]
    # Nothing of our environment: CI runners end what carries their marks there.
    kept = {name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ}
    try:
        child = Popen(
            ["allgone-guard" if len(before) == 1 else before[0], *before[1:], *words, *program],
            executable=before[0], pass_fds=[fd for fd in (writer, *told) if fd is not None], env=kept,
            stdin=DEVNULL, stdout=DEVNULL, stderr=DEVNULL, cwd="/",
        )  # fmt: skip
        os.close(writer)
        writer = -1
        failure, pid = launcher.outcome(status)
        child.wait()
    finally:
        os.close(status)
        if writer >= 0:
            os.close(writer)
    if pid is None:
        code = failure.error if failure else errno.ECHILD
        raise OSError(code, f"cannot start allgone-guard: {os.strerror(code)}")
    return pid
