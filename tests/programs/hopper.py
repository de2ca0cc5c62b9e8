"""Forks, ends, and goes on in the child, for ever: whoever looks at a list of pids looks at the past.

With the argument ``setsid`` it makes a new session at each hop. A second argument is a file: no more hops when it is
gone, for whom nothing else would end.
"""

import os
import signal
import sys
import time

from unruly import TREES_END, bounded, deaf, here, ready

deaf(signal.SIGTERM, signal.SIGHUP)
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
escapes = sys.argv[1:2] == ["setsid"]
leash = sys.argv[2] if sys.argv[2:] else None
here("leader")
if os.fork():
    bounded()
    signal.pause()
hops = 0
while time.monotonic() < TREES_END and (leash is None or os.path.exists(leash)):
    if os.fork():
        os._exit(0)
    if escapes:
        os.setsid()
    hops += 1
    if hops == 20:
        ready()
