"""Writes to stdout and stderr as fast as it can, and so does its child."""

import os
import time

from unruly import TREES_END, fork, here, ready

here("leader")
fork()
ready()
line = b"x" * 4095 + b"\n"
while time.monotonic() < TREES_END:
    os.write(1, line)
    os.write(2, line)
