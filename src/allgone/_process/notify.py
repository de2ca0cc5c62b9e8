"""`ready=notify()`: hears what a process tells of itself (sd_notify(3)), and ends one that falls silent."""

from __future__ import annotations

import math
import os
import select
import signal
import threading
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from allgone._core.notification import Notified, assignments, seconds
from allgone._linux import launcher
from allgone._linux.notify import Datagram, NotifySocket
from allgone._process.driver import milliseconds_until
from allgone._process.spawn_arguments import with_variables

if TYPE_CHECKING:
    from allgone._linux.netns import NetworkNamespace
    from allgone._process.popen import Popen

# Messages: as many as the kernel keeps where systemd runs, twice; who floods must not keep us from all else.
_AT_A_TIME = 1024
_VARIABLES = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")


class Notifications:
    """What one process and its descendants tell.

    Heard by whoever calls `hear()`; once `flow()` was called by a thread, so that nobody who tells something has to
    wait: the kernel keeps ten messages (net.unix.max_dgram_qlen), and the sender of the next one sleeps.

    `watchdog`: seconds from one ``WATCHDOG=1`` to the next, None for no watchdog.
    """

    def __init__(self, watchdog: float | None) -> None:
        self.notified = Notified()
        self.extended_until = -math.inf  # monotonic seconds, to which EXTEND_TIMEOUT_USEC moves the time-out
        self.ignored: list[int] = []  # the pids of strangers that sent something, the last few
        self.expired = ""  # why the watchdog has ended it, if it has
        self.watchdog = watchdog
        self._silent_at = math.inf
        self._asks_for_it = False
        self._kill_at = math.inf
        self._socket: NotifySocket | None = None
        self._process: Popen | None = None
        self._thread: threading.Thread | None = None
        self._cgroups: frozenset[int] = frozenset()
        self._is_watched = True
        self._over = False
        self._owner = os.getpid()

    def environment(self, env: Mapping[Any, Any] | None, network: NetworkNamespace | None) -> dict[Any, Any]:
        """The child's variables. Makes the socket, where the child will be: names are those of a network namespace."""
        self._socket = NotifySocket() if network is None else NotifySocket(network.socket)
        new = {"NOTIFY_SOCKET": self._socket.address}
        if self.watchdog is not None:
            new |= {"WATCHDOG_USEC": str(round(self.watchdog * 1_000_000)), "WATCHDOG_PID": launcher.OWN_PID}
        return with_variables(env, new, instead_of=_VARIABLES)

    def of(self, process: Popen) -> None:
        """It has been started."""
        self._process = process

    def wait_fds(self) -> tuple[int, ...]:
        """fds that become readable when there is something to `hear()`."""
        return () if self._socket is None else (self._socket.fileno(),)

    def hear(self) -> None:
        """Take what has come, without waiting."""
        assert self._socket is not None
        for _ in range(_AT_A_TIME):
            datagram = self._socket.receive()
            if datagram is None:
                return
            if self._is_of_the_process(datagram):
                self._take(datagram.data)
            else:
                del self.ignored[:-7]
                self.ignored.append(datagram.pid)
                self._log("ignored a message of process %s, which is not of it", datagram.pid)

    def _is_of_the_process(self, datagram: Datagram) -> bool:
        assert self._process is not None
        containment = self._process._containment
        self._cgroups = containment.cgroup_ids() or self._cgroups  # what was sent just before it was removed counts
        if self._cgroups and datagram.cgroup is not None:
            return datagram.cgroup in self._cgroups  # right also where the sender has ended by now
        pid = datagram.pid
        return pid > 0 and (pid == self._process.pid or containment.holds(pid))

    def _take(self, data: bytes) -> None:
        try:
            message = assignments(data)
        except ValueError as e:
            self._log("ignored a message: %s", e)
            return
        now = time.monotonic()
        was_ready = self.notified.ready
        self.notified = self.notified.and_then(message)
        if (more := seconds(message.get("EXTEND_TIMEOUT_USEC"))) is not None:
            self.extended_until = max(self.extended_until, now + more)
        self._watch(message, now, starts=self.notified.ready and not was_ready)

    def _watch(self, message: dict[str, str], now: float, *, starts: bool) -> None:
        if (interval := seconds(message.get("WATCHDOG_USEC"))) is not None:
            self.watchdog = interval or None
            starts = self.notified.ready
        said = message.get("WATCHDOG")
        if starts or said == "1":
            on = self.notified.ready and not self.notified.stopping and self.watchdog is not None
            self._silent_at = now + (self.watchdog or 0) if on else math.inf
        if self.notified.stopping:
            self._silent_at = math.inf  # the time that a stop may take is another's to watch
        if said == "trigger":
            self._silent_at, self._asks_for_it = now, True

    # In the background

    def flow(self) -> None:
        """From now on hear in the background, and watch. Idempotent. Raises RuntimeError where threads can't be had."""
        if self._process is None or self._thread is not None or self._over:
            return
        if self._owner == os.getpid():
            thread = threading.Thread(target=self._run, name="allgone-notify", daemon=True)
            thread.start()
            self._thread = thread

    def _run(self) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())  # they are for threads that act on them
        poller = select.poll()
        for fd in self.wait_fds():
            poller.register(fd, select.POLLIN)
        while not self._over:
            poller.poll(milliseconds_until(min(self._silent_at, self._kill_at)))
            self.hear()
            self._look_at_the_watchdog()

    def _look_at_the_watchdog(self) -> None:
        now = time.monotonic()
        assert self._process is not None
        if now >= self._silent_at and self._process._containment.frozen and not self._asks_for_it:
            self._silent_at = now + (self.watchdog or math.inf)  # who stands still can't say anything
        if now >= self._silent_at:
            self._silent_at = math.inf
            if self._is_watched and not self.expired and self._has_some():
                silent = f"no WATCHDOG=1 came for {self.watchdog or 0:g} s"
                self.expired = "it sent WATCHDOG=trigger" if self._asks_for_it else silent
                self._kill_at = now + self._process._policy.timeout_stop
                self._log("%s: SIGABRT", self.expired, important=True)
                self._signal(signal.SIGABRT)
        if now >= self._kill_at:
            self._kill_at = math.inf
            self._signal(signal.SIGKILL)

    def _has_some(self) -> bool:
        assert self._process is not None
        return bool(self._process.members() or self._process.escapees())

    def _signal(self, signum: int) -> None:
        """As systemd does, to whom KillMode= says; SIGKILL to all of these. By pidfds: a stop may be under way."""
        assert self._process is not None
        mode = self._process._policy.kill_mode
        if mode == "control-group" or (mode == "mixed" and signum == signal.SIGKILL):
            self._process.signal_all(signum)
        elif self._process._child is not None:
            self._process._sent.add(signum)
            self._process._child.send(signum)

    def _log(self, message: str, *words: object, important: bool = False) -> None:
        import logging

        level = logging.WARNING if important else logging.DEBUG
        name = self._process.name if self._process is not None else "?"
        logging.getLogger("allgone").log(level, f"%s, notify(): {message}", name, *words)

    def before_stop(self) -> None:
        """It may be silent from now on, and what it tells while it stops does not wait for a reader."""
        self._is_watched = False
        try:
            self.flow()
        except RuntimeError:
            pass  # who tells more than the kernel keeps is killed when its time is up

    def close(self) -> None:
        """Idempotent."""
        self._over = True
        if self._socket is None:
            return
        if self._owner == os.getpid():  # a fork has no thread, and its parent is still listening
            self._socket.hang_up()
            if self._thread is not None:
                self._thread.join()
            if self._process is not None:
                self.hear()  # what it told last
        self._socket.close()
        self._socket = None
