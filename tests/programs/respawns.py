"""A supervisor of its own: starts its worker again whenever that ends, 2,000 times at most, and ignores SIGTERM."""

import os
import signal

from unruly import deaf, fork, here, ready, sleep_on

deaf(signal.SIGTERM, signal.SIGHUP)
here("leader")
for number in range(2_000):
    worker = fork()
    if worker == 0:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        here("worker")
        if number == 0:
            ready()
        sleep_on()
    os.waitpid(worker, 0)
sleep_on()
