"""Leaves its session, and notes who did: a process group's supervisor can't hold it, and the soak is to know.

escapee.py FILE: the daemon's pid is added to that file. Its parent says ready, and stays. Both end after two minutes.
"""

import os
import signal
import sys

signal.alarm(120)
reader, writer = os.pipe()
if os.fork() == 0:
    os.setsid()
    if os.fork():
        os._exit(0)
    signal.alarm(120)  # not inherited
    note = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(note, f"{os.getpid()}\n".encode())
    os.close(note)
    os.write(writer, b".")
    os.close(writer)
    while True:
        signal.pause()
os.wait()
os.close(writer)
os.read(reader, 1)
os.write(1, b"ready\n")
while True:
    signal.pause()
