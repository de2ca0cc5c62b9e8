"""The signals that ``allgone run`` deals with, taken one by one together with who sent them."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from allgone._linux import fds
from allgone._linux.terminal import SI_KERNEL

PASSED_ON = (
    signal.SIGHUP,
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGTERM,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGWINCH,
)
STOPPING = (signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU)
ENDING = (signal.SIGINT, signal.SIGTERM)
_LONGEST = 1e6  # seconds that sigtimedwait(2) is given at most; the caller's loop begins anew then


@dataclass(frozen=True, slots=True)
class Arrival:
    """A signal that came."""

    signum: int
    sender: int
    from_kernel: bool  # sent by a terminal, to the whole process group in its foreground


class Signals:
    """From `__init__` on signals don't end this process; from `hold()` on they wait until `next()` takes them.

    Those that are ignored (nohup(1), background jobs of scripts) are left alone, so that the child ignores them too.
    """

    def __init__(self) -> None:
        # A child's end must be told; an ignored SIGCHLD would also reap it behind our back. As timeout(1) does.
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        self._passed_on = [each for each in PASSED_ON if signal.getsignal(each) is not signal.SIG_IGN]
        stopping = [each for each in STOPPING if signal.getsignal(each) is not signal.SIG_IGN]
        self._held = {*self._passed_on, *stopping, signal.SIGCONT, signal.SIGCHLD}
        self.early: list[int] = []
        """What came before `hold()`; who sent it is not known."""
        # Not blocked yet: the child inherits what is blocked, and nothing between fork and exec would undo it. What
        # has a handler is back to its default in the child.
        for each in self._passed_on:
            signal.signal(each, lambda signum, _: self.early.append(signum))

    def hold(self) -> None:
        """Block them from now on. To be called when the child has been started."""
        signal.pthread_sigmask(signal.SIG_BLOCK, self._held)

    def next(self, deadline: float) -> Arrival | None:
        """The next one, SIGCHLD included; None when `deadline` (monotonic seconds) has come, or sometimes before."""
        left = max(0.0, min(deadline - time.monotonic(), _LONGEST))
        info = signal.sigtimedwait(self._held, left)
        return None if info is None else Arrival(info.si_signo, info.si_pid, info.si_code == SI_KERNEL)

    def continued(self) -> bool:
        """Whether a SIGCONT is waiting to be taken."""
        return signal.SIGCONT in signal.sigpending()

    def stopping(self) -> list[signal.Signals]:
        """Those of `STOPPING` that are waiting to be taken. (The kernel drops them when SIGCONT comes.)"""
        pending = signal.sigpending()
        return [each for each in STOPPING if each in pending]

    def stop_self(self, signum: int) -> None:
        """Stop this process as `signum`, one of `STOPPING`, does; returns when it was continued.

        Returns at once where the kernel ignores it: in a process group that no shell would ever continue.
        """
        if signum in self._held:
            os.kill(os.getpid(), signum)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [signum])  # here we stop
            signal.pthread_sigmask(signal.SIG_BLOCK, [signum])

    @contextmanager
    def noticed(self) -> Iterator[int]:
        """For the block: an fd that becomes readable when a signal comes that asks to end; Ctrl-Z stops us as ever."""
        asking = [each for each in ENDING if each in self._held]
        released = [*asking, *(each for each in [signal.SIGTSTP] if each in self._held)]
        reader, writer = fds.pipe()
        os.set_blocking(reader, False)
        os.set_blocking(writer, False)
        before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, released)
        try:
            yield reader
        finally:
            signal.pthread_sigmask(signal.SIG_BLOCK, released)
            signal.set_wakeup_fd(before)
            os.close(reader)
            os.close(writer)


class Requests:
    """For the block: signals that ask to end are noted, and `fileno()` becomes readable when one came, or SIGCHLD.

    Those that are ignored (nohup(1)) are left alone.
    """

    _ASKING = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM)

    def __init__(self) -> None:
        self._came: list[int] = []
        self._reader, self._writer = fds.pipe()
        os.set_blocking(self._reader, False)
        os.set_blocking(self._writer, False)
        self._handlers = {each: signal.getsignal(each) for each in (*self._ASKING, signal.SIGCHLD)}

    def fileno(self) -> int:
        return self._reader

    def take(self) -> list[int]:
        """Those that came since the last call, in order."""
        try:
            os.read(self._reader, 1 << 16)
        except BlockingIOError:
            pass  # nothing new; what came before may still be in the list
        came, self._came = self._came, []
        return came

    def _note(self, signum: int, _: object) -> None:
        if signum != signal.SIGCHLD:  # that is only to wake whoever polls
            self._came.append(signum)

    def __enter__(self) -> Requests:
        self._woken_before = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        for each, handler in self._handlers.items():
            if handler is not signal.SIG_IGN or each == signal.SIGCHLD:
                signal.signal(each, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for each, handler in self._handlers.items():
            signal.signal(each, handler)
        signal.set_wakeup_fd(self._woken_before)
        os.close(self._reader)
        os.close(self._writer)
