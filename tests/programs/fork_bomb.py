"""Every process forks as fast as it can, 2,000 times all together, and none heeds SIGTERM."""

import mmap
import os
import signal

from unruly import deaf, fork, here, ready, sleep_on

MOST = 2_000

deaf(signal.SIGTERM, signal.SIGHUP)
forks = mmap.mmap(-1, MOST + 8)  # shared by all: a byte for each fork; counted without a lock, near enough
here("leader")
if fork() == 0:
    spot = os.getpid()
    count = 0
    while count < MOST:
        count = forks.find(b"\0", count)
        if not 0 <= count < MOST:
            break
        forks[count] = 1
        if count == 100:
            ready()
        try:
            fork()
        except BlockingIOError:
            break
sleep_on()
