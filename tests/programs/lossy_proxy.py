"""lossy_proxy.py LISTEN MANAGER WHAT: a manager's socket that breaks the first connection on which a unit is asked for.

WHAT is lost: "request": it does not arrive; "answer": it is carried out, and nobody hears of it; "manager": as that, and
then it can't be reached any more. All else is passed on, file descriptors too. Ends by itself after two minutes.
"""

import os
import signal
import socket
import sys
import threading

WANTED = b"StartTransientUnit"
asked = threading.Event()


class Conversation:
    """One connection, and a thread for each direction."""

    def __init__(self, client):
        self.client = client
        self.manager = socket.socket(socket.AF_UNIX)
        self.manager.connect(MANAGER)
        self.is_lossy = False
        for each in (self.requests, self.answers):
            threading.Thread(target=each, daemon=True).start()

    def requests(self):
        while self.pass_on(self.client, self.manager, self.may_go):
            pass
        self.end()

    def may_go(self, data):
        if WANTED in data and not asked.is_set():
            asked.set()
            self.is_lossy = True
            return WHAT != "request"
        return True

    def answers(self):
        while self.pass_on(self.manager, self.client, lambda _: not self.is_lossy):
            pass
        if self.is_lossy and WHAT == "manager":
            os.unlink(LISTEN)
        self.end()

    def pass_on(self, source, target, may_go):
        """One message; returns whether there are more."""
        data, fds, _, _ = socket.recv_fds(source, 65536, 16)
        more = bool(data) and may_go(data)
        try:
            if more:
                socket.send_fds(target, [data], fds)
        except OSError:
            more = False  # ended meanwhile
        for fd in fds:
            os.close(fd)
        return more

    def end(self):
        for each in (self.client, self.manager):
            try:
                each.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # the other thread was first


_, LISTEN, MANAGER, WHAT = sys.argv
signal.alarm(120)
listener = socket.socket(socket.AF_UNIX)
listener.bind(LISTEN)
listener.listen(16)
print("listening", flush=True)
while True:
    Conversation(listener.accept()[0])
