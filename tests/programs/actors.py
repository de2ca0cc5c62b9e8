"""A tree of processes as its argument describes it (support/actors.py, as JSON); each tells which signals it hears."""

import json
import os
import signal
import sys

from unruly import fork, here, ready, say, sleep_on

HEARD = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)


def act(actor, is_set_up):
    def hear(signum, _frame):
        say(actor["role"], signal.Signals(signum).name)
        if signum not in actor["ignores"]:
            os._exit(0)

    for signum in HEARD:
        signal.signal(signum, hear)
    if actor["escaped"]:
        os.setsid()
    for child in actor["children"]:
        start(child)
    here(actor["role"])
    is_set_up()
    if actor["stopped"]:
        os.kill(os.getpid(), signal.SIGSTOP)
    if actor["ends_first"]:
        os._exit(7)
    sleep_on()


def start(actor):
    """Returns when the whole subtree is set up."""
    reader, writer = os.pipe()
    pid = fork()
    if pid == 0:
        os.close(reader)
        act(actor, lambda: os.write(writer, b"."))
    os.close(writer)
    os.read(reader, 1)
    os.close(reader)
    if actor["stopped"]:
        os.waitid(os.P_PID, pid, os.WSTOPPED)


act(json.loads(sys.argv[1]), ready)
