"""Daemonises as the books say: fork, setsid, fork. The leader stays; the orphaned daemon has a session of its own."""

import os

from unruly import fork, here, ready, sleep_on

reader, writer = os.pipe()
middle = fork()
if middle == 0:
    os.setsid()
    if fork():
        os._exit(0)
    here("escaped")
    os.write(writer, b".")
    sleep_on()
os.waitpid(middle, 0)
os.read(reader, 1)
here("leader")
ready()
sleep_on()
