"""A tree of processes as its second argument describes it (JSON), that tell what they hear in files of their own.

Signals are taken one by one from those pending, never by a handler, so that none is lost and SIGKILL alone ends a process
against its will. The files are named by role, in the directory of the first argument: `pid N`, a line for each signal, and
`ended` as the last line of one that ended by itself. Each stays locked (flock) as long as its process lives.
"""

import fcntl
import json
import os
import signal
import sys

from unruly import fork

HEARD = {signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT}
CHILD_HAS_HEARD = signal.SIGUSR1
NOTICED = HEARD | {CHILD_HAS_HEARD, signal.SIGCHLD}


class Process:
    """One of the tree. It ends when it has heard each that `ends_on` names (none named: never), and, if it `waits`, its
    children have ended."""

    def __init__(self, actor):
        self._actor = actor
        self._to_hear = [signal.Signals[name] for name in actor["ends_on"]]
        self._deaf = not self._to_hear
        if actor.get("session"):
            os.setsid()
        self._children = {start(each) for each in actor.get("children", ())}
        # Opened only now, for a child that inherited it would keep it locked; and open for as long as we live.
        self._log = open(os.path.join(sys.argv[1], actor["role"]), "x", buffering=1)  # noqa: SIM115
        fcntl.flock(self._log, fcntl.LOCK_EX)
        print("pid", os.getpid(), file=self._log)

    def run(self, is_ready):
        is_ready()
        if self._actor.get("stopped"):
            os.kill(os.getpid(), signal.SIGSTOP)
        signum = None
        while self._deaf or self._to_hear or (self._actor.get("waits") and self._children):
            signum = signal.sigwait(NOTICED)
            self._take(signum)
        # Of those pending the lowest number is taken first, so SIGHUP before a SIGTERM that was sent earlier.
        if signum == signal.SIGHUP and signal.sigtimedwait({signal.SIGTERM}, 0):
            self._take(signal.SIGTERM)
        print("ended", file=self._log)
        os._exit(0)

    def _take(self, signum):
        if signum in HEARD:
            print(signal.Signals(signum).name, file=self._log)
            if self._actor.pop("tells", False):  # once, while the parent waits for it
                os.kill(os.getppid(), CHILD_HAS_HEARD)
            if self._actor.get("passes_on"):
                for pid in self._children:
                    os.kill(pid, signum)
        if signum in self._to_hear:
            self._to_hear.remove(signum)
        if signum == signal.SIGCHLD:
            self._children -= set(filter(ended, self._children))


def ended(pid):
    return os.waitpid(pid, os.WNOHANG)[0] == pid


def start(actor):
    """Its pid, when it and all that it starts are set up."""
    reader, writer = os.pipe()
    pid = fork()
    if pid == 0:
        os.close(reader)
        if actor.get("daemon"):
            os.setsid()
            if fork():
                os._exit(0)
        Process(actor).run(lambda: os.write(writer, b"."))
    os.close(writer)
    os.read(reader, 1)
    os.close(reader)
    if actor.get("stopped"):
        os.waitid(os.P_PID, pid, os.WSTOPPED)
    return pid


def tell(line, fifo):
    with open(fifo, "w") as file:
        file.write(line + "\n")


signal.pthread_sigmask(signal.SIG_BLOCK, NOTICED)
Process(json.loads(sys.argv[2])).run(lambda: tell(f"ready {sys.argv[1]}", sys.argv[3]))
