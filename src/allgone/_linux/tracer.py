"""The one thread that reads the proc connector while anything traced lives, and what it knows of whom."""

from __future__ import annotations

import atexit
import itertools
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from allgone._core.genealogy import Genealogy
from allgone._core.lineage import Descendant, Lineage, Living
from allgone._linux import processes, procevents
from allgone._linux.procevents import COMM, COMM_AT, EVENT, EVENT_AT, EXEC, EXIT, FORK, SID

SETTLE = 5.0  # seconds at most until what the kernel has queued is read; it takes milliseconds
_SETTLE_AFTER_LOSS = 0.2  # for the end of a process, which perhaps is among what was lost
_MARK_AGAIN = 0.1  # after which a mark is taken to be lost, and set again
_ACCURACY = 0.02  # seconds between two accounts of one beginning; /proc counts in hundredths
_AT_ONCE = 1000  # events before others get the lock

# The lock on all that follows. The reader holds it while it handles events; whoever starts something traced, from
# before the fork until the leader's pid is known, so that nothing about the leader is handled before.
_lock = threading.Lock()
# Held by who waits for the lock. The reader passes through it, or else it would have the lock again at once, always.
_turnstile = threading.Lock()
_tracer: Tracer | None = None


@contextmanager
def _locked() -> Iterator[None]:
    with _turnstile:
        _lock.acquire()
    try:
        yield
    finally:
        _lock.release()


@contextmanager
def spawning() -> Iterator[Trace]:
    """Start something traced in the ``with`` block, and say there who leads it (`Trace.led_by`).

    Raises `Unsupported`, saying why, where the kernel does not tell of processes.
    """
    global _tracer
    trace = None
    try:
        with _locked():
            if _tracer is None:
                _tracer = Tracer()
            trace = Trace(_tracer)
            yield trace
    except BaseException:
        if trace is not None:
            trace.close()
        raise


def check() -> None:
    """Raises `Unsupported`, saying why, where nothing can be traced."""
    if _tracer is None:
        procevents.Subscription().close()


class Tracer:
    """The thread and its socket. It ends with the last trace."""

    def __init__(self) -> None:
        self.subscription = procevents.Subscription()
        self.living = Living()
        self.traces: dict[Lineage, Trace] = {}
        self.has_ended = False
        self._marks: dict[bytes, threading.Event] = {}
        self._numbers = itertools.count()
        self._name: int | None = None  # an fd for changing the name of the thread, while it runs
        self._naming = threading.Lock()
        self._failures: list[OSError] = []
        self._looked = time.monotonic_ns()
        self._ahead = [(0, _ahead(self._looked))]  # since when, and how far
        is_up = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(is_up,), name="allgone-trace", daemon=True)
        try:
            self._thread.start()
        except BaseException:  # no more threads
            self.subscription.close()
            raise
        is_up.wait()
        for failure in self._failures:
            self._thread.join()
            raise failure

    def catch_up(self, deadline: float) -> None:
        """Wait until what has happened before this call is handled, until `deadline` (monotonic seconds) at most."""
        while self._thread.is_alive() and time.monotonic() < deadline:
            name, mark = b"allgone:%07d" % (next(self._numbers) % 10**7), threading.Event()
            self._marks[name] = mark
            self._call_reader(name)
            handled = mark.wait(_MARK_AGAIN)
            self._marks.pop(name, None)
            if handled:
                return

    def _call_reader(self, name: bytes) -> None:
        """An event of our own, behind all others, which wakes the reader: the kernel tells of changed names too."""
        with self._naming:
            if self._name is not None:
                os.write(self._name, name)

    def since_boot(self, at: int) -> float:
        """When that was, of an event's clock, in seconds as /proc counts them: suspension, too. With the lock."""
        self._notice_suspension()
        return (at + next(ahead for since, ahead in reversed(self._ahead) if since <= at)) / 1e9

    def _notice_suspension(self) -> None:
        before, self._looked = self._looked, time.monotonic_ns()
        ahead = _ahead(self._looked)
        if ahead - self._ahead[-1][1] > _ACCURACY * 1e9:
            self._ahead.append((before, ahead))

    def leave(self, trace: Trace) -> None:
        """Watch it no longer. With the lock."""
        global _tracer
        self.living.forget(trace.lineage)
        self.traces.pop(trace.lineage)
        if not self.traces:
            self.has_ended = True
            if _tracer is self:
                _tracer = None

    def join(self) -> None:
        """Wait until the thread has ended."""
        self._call_reader(b"allgone-trace")
        self._thread.join()

    def let_go(self) -> None:
        """In a fork, which has no such thread: of our copies of its fds, saying nothing to the kernel."""
        self.subscription.socket.close()
        if self._name is not None:
            os.close(self._name)
            self._name = None

    def _run(self, is_up: threading.Event) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())  # they are for threads that act on them
        try:
            self._name = os.open("/proc/thread-self/comm", os.O_WRONLY | os.O_CLOEXEC)
        except OSError as e:
            self._failures.append(e)
        is_up.set()
        try:
            if self._name is not None:
                self._read()
        finally:
            self.subscription.close()
            with self._naming:
                name, self._name = self._name, None
                if name is not None:
                    os.close(name)

    def _read(self) -> None:
        buffer = bytearray(procevents.LONGEST)
        while not self.has_ended:
            self.subscription.socket.recv_into(buffer)
            while self._handle_some(buffer):
                pass

    def _handle_some(self, buffer: bytearray) -> bool:
        """What is in the buffer, and what can be read at once; whether it holds something again."""
        receive, unpack, known, me = (
            self.subscription.socket.recv_into,
            EVENT.unpack_from,
            self.living.by_pid,
            os.getpid(),
        )
        with _turnstile:
            pass
        with _lock:
            self._notice_suspension()
            for _ in range(_AT_ONCE):
                what, _, at, a, b, c, d = unpack(buffer, EVENT_AT)
                if b in known or d in known or b == me:
                    self._handle(what, at, a, b, c, d, buffer)
                try:
                    receive(buffer, 0, socket.MSG_DONTWAIT)
                except BlockingIOError:
                    return False
            return not self.has_ended

    def _handle(self, what: int, at: int, a: int, b: int, c: int, d: int, buffer: bytearray) -> None:
        if what == FORK:
            if c == d:
                self.living.forked(at, b, d)
            else:
                self.living.thread_started(d, c)
        elif what == EXEC:
            self.living.execed(at, b, processes.command_or_name)
        elif what == EXIT:
            lineage = self.living.exited(at, b, a, c)
            if lineage is not None:
                self.traces[lineage].somebody_ended()
        elif what == SID:
            self.living.left_session(at, b)
        elif what == COMM and a == self._thread.native_id:
            mark = self._marks.get(bytes(buffer[COMM_AT : COMM_AT + 15]))
            if mark is not None:
                mark.set()


class Trace:
    """What is known of one traced command, from its start until all of it has ended, or until `close()`."""

    def __init__(self, tracer: Tracer) -> None:
        now = time.monotonic_ns()
        self.tracer = tracer
        self.lineage = Lineage(now, time.time_ns() - now)
        self._dropped_before = tracer.subscription.drops()
        self._lost = 0
        self._waiting: threading.Event | None = None
        self.is_open = True
        tracer.traces[self.lineage] = self

    def led_by(self, pid: int, programs: int, command: str) -> None:
        """Its leader, still unreaped, which becomes so many `programs`, the last of them being the user's `command`."""
        self.tracer.living.lead(self.lineage, pid, os.getpid(), programs, command)

    def genealogy(self) -> Genealogy:
        """All that has happened until now, or until the trace was closed."""
        self._settle(time.monotonic() + SETTLE)
        with _locked():
            return self.lineage.genealogy(self._events_lost())

    def close(self) -> None:
        """Watch it no longer. Idempotent."""
        with _locked():
            self.leave()
        if self.tracer.has_ended:
            self.tracer.join()

    def alive(self) -> frozenset[int]:
        """Pids of the leader and the descendants that live now."""
        self._settle(time.monotonic() + SETTLE)
        with _locked():
            return frozenset(each.pid for each in self._alive() if self._is(each))

    def is_descendant(self, pid: int) -> bool:
        """Whether that is one now, and nobody who was given its number since."""
        with _locked():
            found = self.tracer.living.by_pid.get(pid)
            return found is not None and found.lineage is self.lineage and self._is(found)

    def _is(self, descendant: Descendant) -> bool:
        """Whether the process of that number is the one that was told of: not one that started after it."""
        found = processes.stat(descendant.pid)
        if found is None or not found.alive:
            return False
        return descendant.began is None or found.started <= self.tracer.since_boot(descendant.began) + _ACCURACY

    def _alive(self) -> list[Descendant]:
        return self.tracer.living.of(self.lineage)

    def _events_lost(self) -> int:
        return self.tracer.subscription.drops() - self._dropped_before if self.is_open else self._lost

    def _settle(self, deadline: float) -> None:
        """Wait for what is on its way: the kernel tells of an end a moment after a parent can know of it."""
        self.tracer.catch_up(deadline)
        while self.is_open:
            with _locked():
                if all(processes.is_alive(each.pid) for each in self._alive()):
                    return
                self._waiting = threading.Event()
                patience = _SETTLE_AFTER_LOSS if self._events_lost() else SETTLE
            if not self._waiting.wait(min(patience, deadline - time.monotonic())):
                return

    def leave(self) -> None:
        """As `close()`. With the lock."""
        if self.is_open:
            self._lost = self._events_lost()
            self.is_open = False
            self.tracer.leave(self)

    def somebody_ended(self) -> None:
        if self.lineage.is_over:
            self.leave()
        if self._waiting is not None:
            self._waiting.set()


def _ahead(monotonic: int) -> int:
    """How far the clock that counts suspension is ahead of the other, which read `monotonic` just now. Nanoseconds."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) - monotonic


@atexit.register
def _unsubscribe() -> None:
    if _tracer is not None:
        _tracer.subscription.unsubscribe()


def _after_fork_in_child() -> None:
    """The socket is the parent's, which reads on: our copy is closed, and nothing said to the kernel."""
    global _lock, _turnstile, _tracer
    _lock, _turnstile = threading.Lock(), threading.Lock()
    if _tracer is not None:
        _tracer.let_go()
        for trace in _tracer.traces.values():
            trace.is_open = False
        _tracer = None


os.register_at_fork(after_in_child=_after_fork_in_child)
