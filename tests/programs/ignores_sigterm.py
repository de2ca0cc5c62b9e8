"""Ignores SIGTERM, SIGHUP and SIGINT; so does its child."""

import signal

from unruly import deaf, fork, here, ready, sleep_on

deaf(signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
here("leader")
if fork() == 0:
    here("child")
    ready()
sleep_on()
