"""Its child is stopped (SIGSTOP), and ends with status 3 when a SIGTERM reaches it after all."""

import os
import signal

from unruly import fork, here, ready, say, sleep_on


def end(_signum, _frame):
    say("child SIGTERM")
    os._exit(3)


child = fork()
if child == 0:
    signal.signal(signal.SIGTERM, end)
    here("child")
    os.kill(os.getpid(), signal.SIGSTOP)
    sleep_on()
os.waitid(os.P_PID, child, os.WSTOPPED)
here("leader")
ready()
sleep_on()
