"""A server with four workers; when it is asked to end, its workers go on."""

import os
import socket

from unruly import fork, here, ready, sleep_on

listener = socket.create_server(("127.0.0.1", 0))
reader, writer = os.pipe()
for number in range(4):
    if fork() == 0:
        here(f"worker{number}")
        os.write(writer, b".")
        while True:
            listener.accept()
for _ in range(4):
    os.read(reader, 1)
here("leader")
ready()
sleep_on()
