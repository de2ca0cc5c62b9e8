"""A server: listens where it is told to, in a grandchild of the leader, and does nothing else.

listens.py [--daemon] [--say] PROTO ADDRESS [PORT]      PROTO: tcp, udp, unix; "@name" is an abstract socket
"""

import os
import socket
import sys

from unruly import fork, ready, sleep_on

words = [word for word in sys.argv[1:] if not word.startswith("--")]
proto, address, *rest = words
family = socket.AF_UNIX if proto == "unix" else socket.AF_INET6 if ":" in address else socket.AF_INET
if fork() == 0:
    if "--daemon" in sys.argv:
        os.setsid()
        if fork() != 0:
            os._exit(0)
    server = socket.socket(family, socket.SOCK_DGRAM if proto == "udp" else socket.SOCK_STREAM)
    if "--only-v6" in sys.argv:
        server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    server.bind((address, int(rest[0])) if rest else address.replace("@", "\0", 1))
    if proto != "udp":
        server.listen()
    ready()
    sleep_on()
sleep_on()
