"""Daemonises itself, as nginx and redis do: what was started ends at once, the daemon stays."""

import os

from unruly import fork, here, ready, sleep_on

here("leader")
if fork():
    os._exit(0)
os.setsid()
if fork():
    os._exit(0)
here("escaped")
ready()
sleep_on()
