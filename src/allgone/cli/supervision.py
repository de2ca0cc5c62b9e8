"""While the command of ``allgone run`` runs: signals passed on, job control followed, time watched."""

from __future__ import annotations

import math
import os
import select
import signal
import time
from collections.abc import Collection

from allgone._core.stop import Steps
from allgone._linux.terminal import Terminal
from allgone._process import driver
from allgone._process.popen import Popen
from allgone.cli import say
from allgone.cli.durations import shown
from allgone.cli.signals import ENDING, STOPPING, Arrival, Signals

TIMEOUT = "timeout"
# timeout(1) and others send a signal to us and then to our whole group; nobody asks a second time that quickly.
SAME_REQUEST = 0.1


class Supervision:
    """Watches over one command. `until_end()` first, then the stop, carried out by `carry_out()`.

    The command is in our process group, unless it has left it: what a terminal or a member of it sends to the group
    has reached the command too, and is not passed on.
    """

    def __init__(
        self, process: Popen, signals: Signals, terminal: Terminal | None, *, timeout: float, timeout_stop: float
    ) -> None:
        self._process = process
        self._signals = signals
        self._terminal = terminal
        self._timeout_at = time.monotonic() + timeout
        self._patience = timeout_stop
        self._patience_ends = math.inf
        self._asked_at = -math.inf
        self._asked_by: int | None = None

    def until_end(self) -> str | None:
        """Wait for the command to end: None. If it is to be stopped: why, `TIMEOUT` or words about a signal."""
        for signum in self._signals.early:
            self._take_early(signum)
        self._follow_stop()  # of which SIGCHLD told when it was not yet held
        while self._process.poll() is None:
            now = time.monotonic()
            if now >= self._timeout_at:
                return TIMEOUT
            if now >= self._patience_ends:
                return f"it did not end within {shown(self._patience)} of {self._asked_name()}"
            arrival = self._signals.next(min(self._timeout_at, self._patience_ends))
            if arrival is not None and self._take(arrival):
                return f"{self._name(arrival.signum)} came again"
        return None

    def _take_early(self, signum: int) -> None:
        """One that came while the command was being started: before that, or after? To be safe, pass it on."""
        self._send(signum)
        if self._asks_to_end(signum, typed=self._terminal is not None):
            self._note_request(signum)

    def _take(self, arrival: Arrival) -> bool:
        """Do what it says; True if it is the second that asks us to end."""
        signum = arrival.signum
        if signum == signal.SIGCHLD:
            reap_adopted({self._process.pid})
            self._follow_stop()
        elif signum == signal.SIGCONT:
            self._continue()
        elif signum in ENDING and self._asked_by is not None:
            return signum != self._asked_by or time.monotonic() > self._asked_at + SAME_REQUEST
        else:
            has_it = self._has_it_already(arrival)
            if not has_it:
                self._send(signal.SIGSTOP if signum in STOPPING and self._is_in_other_session() else signum)
            if self._asks_to_end(signum, typed=has_it and arrival.from_kernel):
                self._note_request(signum)
        return False

    def _has_it_already(self, arrival: Arrival) -> bool:
        """Whether it was sent to our whole process group, and the command is in that."""
        if self._group_of(self._process.pid) != os.getpgrp():
            return False
        if arrival.from_kernel:
            # A hang-up is told to the session's leader alone.
            return not (arrival.signum == signal.SIGHUP and os.getsid(0) == os.getpid())
        # The command, or what it started, sent it: "kill 0" in a script.
        return self._group_of(arrival.sender) == os.getpgrp() and arrival.sender in self._process.members()

    def _is_in_other_session(self) -> bool:
        """Then nobody there could continue it, and the kernel ignores SIGTSTP and its like."""
        try:
            return os.getsid(self._process.pid) != os.getsid(0)
        except ProcessLookupError:
            return False

    @staticmethod
    def _group_of(pid: int) -> int | None:
        try:
            return os.getpgid(pid) if pid > 0 else None
        except ProcessLookupError:
            return None

    def _asks_to_end(self, signum: int, *, typed: bool) -> bool:
        # Ctrl-C is a matter between terminal and command: shells and editors go on after it. SIGHUP may be a request
        # to reload, unless the terminal is really gone.
        if signum == signal.SIGHUP:
            return self._terminal is not None and self._terminal.is_gone()
        return signum == signal.SIGTERM or (signum == signal.SIGINT and not typed)

    def _note_request(self, signum: int) -> None:
        if self._asked_by is None:
            self._asked_by = signum
            self._asked_at = time.monotonic()
            self._patience_ends = self._asked_at + self._patience

    def _asked_name(self) -> str:
        return self._name(self._asked_by or 0)

    @staticmethod
    def _name(signum: int) -> str:
        return signal.Signals(signum).name

    def _send(self, signum: int) -> None:
        try:
            self._process.send_signal(signum)
        except PermissionError:
            say(f"cannot pass {self._name(signum)} on to pid {self._process.pid}: it is another user's process now")

    # Job control: the shell that started us sees only us, so we stop when the command does

    def _follow_stop(self) -> None:
        stopped_by = self._stopped_by()
        # A SIGCONT for the whole group can reach us before it reaches the command.
        if stopped_by is not None and self._terminal is not None and not self._signals.continued():
            self._signals.stop_self(stopped_by if stopped_by in STOPPING else signal.SIGTSTP)

    def _stopped_by(self) -> int | None:
        try:
            found = os.waitid(os.P_PID, self._process.pid, os.WSTOPPED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return None
        return None if found is None else found.si_status

    def _continue(self) -> None:
        """After SIGCONT: the command goes on too, and gets the terminal if we have it and it has a group of its own."""
        if self._signals.stopping():
            return  # Ctrl-Z came since
        group = self._group_of(self._process.pid)
        if (
            self._terminal is not None
            and group not in (None, os.getpgrp())
            and self._stopped_by() is not None
            and self._terminal.in_foreground()
        ):
            self._terminal.hand_to(group)
        self._send(signal.SIGCONT)
        for signum in self._signals.stopping():
            self._send(signum)  # a Ctrl-Z that the command had before our SIGCONT

    # The stop

    def carry_out(self, steps: Steps) -> None:
        """Wait as `steps` ask for. Raises `driver.Hurry` when a signal asks us to end meanwhile."""
        began = time.monotonic()
        with self._signals.noticed() as asked:
            for wait in steps:
                poller = select.poll()
                for fd in (*wait.fds, asked):
                    poller.register(fd, select.POLLIN)
                ready = dict(poller.poll(driver.milliseconds_until(wait.deadline)))
                if asked in ready:
                    os.read(asked, 64)
                    if time.monotonic() > max(began, self._asked_at) + SAME_REQUEST:
                        raise driver.Hurry


def reap_adopted(own: Collection[int]) -> None:
    """Orphans come to us while we are a child subreaper (process-group); those that ended need not wait.

    `own` are children that a `Popen` reaps.
    """
    try:
        while (ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)) is not None:
            if ended.si_pid in own:
                return
            os.waitid(os.P_PID, ended.si_pid, os.WEXITED | os.WNOHANG)
    except ChildProcessError:
        pass  # no children at all
