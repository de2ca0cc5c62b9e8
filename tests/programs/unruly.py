"""What the unruly programs share. Each ends by itself after two minutes, come what may."""

import os
import signal
import time

LIFETIME = 120
TREES_END = time.monotonic() + LIFETIME  # children get it by fork


def bounded():
    """End by SIGALRM when the time is up. An alarm is not inherited by fork, so each process sets its own."""
    signal.alarm(max(1, int(TREES_END - time.monotonic())))


def fork():
    pid = os.fork()
    if pid == 0:
        bounded()
    return pid


def say(*words):
    """One line to stdout, in one write: lines of several processes don't mix."""
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


def here(role):
    """Tell the test which process this is."""
    say(role, os.getpid())


def ready():
    say("ready")


def deaf(*signums):
    for signum in signums:
        signal.signal(signum, signal.SIG_IGN)


def sleep_on():
    while True:
        signal.pause()


bounded()
