"""Want of CPU time and of memory: processes that use them up, for the length of a round."""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
import sys
from collections.abc import Iterator

import truth
from ground import Room

KINDS = ("none", "cpu", "memory", "cpu+memory")
_ENDS = "import signal; signal.alarm(300)\n"
_BUSY = _ENDS + "while True: pass"
# It goes first, should memory run out: nothing of ours, and nothing of the machine's.
_HOG = _ENDS + (
    "import sys, time\nopen('/proc/self/oom_score_adj', 'w').write('1000')\n"
    "hoard = bytearray(int(sys.argv[1]) << 20)\n"
    "while True:\n    for n in range(0, len(hoard), 4096): hoard[n] = n >> 12 & 255"
)


@contextlib.contextmanager
def on(room: Room, kind: str, chance: random.Random, most: int) -> Iterator[None]:
    """`most`: MB of memory."""
    words: list[list[str]] = []
    if "cpu" in kind:
        words += [["-c", _BUSY]] * chance.randint(1, 2 * len(os.sched_getaffinity(0)))
    if "memory" in kind:
        words.append(["-c", _HOG, str(max(1, min(most, truth.available() - 128)))])
    started = [room.start([sys.executable, "-S", *each]) for each in words]
    try:
        yield
    finally:
        truth.kill_all(room.folder)
        for each in started:
            _reap(each)


def _reap(process: subprocess.Popen[str]) -> None:
    process.kill()  # where it was not moved yet
    process.communicate()
