"""Children in process groups of their own, in the same session: a shell's job control."""

import os

from unruly import fork, here, ready, sleep_on

reader, writer = os.pipe()
for number in range(3):
    if fork() == 0:
        os.setpgid(0, 0)
        here(f"job{number}")
        os.write(writer, b".")
        sleep_on()
for _ in range(3):
    os.read(reader, 1)
here("leader")
ready()
sleep_on()
