"""Writes to stdout and stderr as fast as it can, and so does its child.

With the argument ``setsid`` only the child does, in a session of its own, and the leader ends.
"""

import os
import sys
import time

from unruly import TREES_END, fork, here, ready

LINE = b"x" * 4095 + b"\n"


def flood():
    while time.monotonic() < TREES_END:
        os.write(1, LINE)
        os.write(2, LINE)


here("leader")
if sys.argv[1:] == ["setsid"]:
    reader, writer = os.pipe()
    if fork() == 0:
        os.setsid()
        os.write(writer, b".")
        flood()
    os.read(reader, 1)
else:
    fork()
    ready()
    flood()
