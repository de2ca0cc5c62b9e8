"""One web server, five ways to stop it: who survives each, and is the port free again?

The server is a foreman with three workers, as web servers are, and a helper that it daemonises (double fork and
setsid), as they do as well. All five hold the listening socket.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from typing import IO

import allgone

ROLES = ("foreman", "worker 1", "worker 2", "worker 3", "daemonised helper")
LIFETIME = 120  # seconds after which every process of the server ends by itself, should the demo be killed


def serve(port: int) -> None:
    """The server: prints one line, "ROLE PID", for each of its processes."""
    listener = socket.create_server(("127.0.0.1", port))
    for number in (1, 2, 3):
        if os.fork() == 0:
            work(listener, f"worker {number}")
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            work(listener, "daemonised helper")
        os._exit(0)
    work(listener, "foreman")


def work(listener: socket.socket, role: str) -> None:
    signal.alarm(LIFETIME)
    os.write(1, f"{role}:{os.getpid()}\n".encode())
    while True:
        connection, _ = listener.accept()
        connection.sendall(b"HTTP/1.0 200 OK\r\n\r\nup\r\n")
        connection.close()


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


class Server:
    """The processes of one start of the server, each held by a pidfd, to see and in the end to stop them."""

    def __init__(self, port: int, lines: IO[bytes]) -> None:
        self.port = port
        self.held: dict[str, int] = {}
        for _ in ROLES:
            role, pid = lines.readline().decode().split(":")
            self.held[role] = os.pidfd_open(int(pid))

    def alive(self, within: float = 0.3) -> set[str]:
        """Who has not ended, a moment after the stop: a signal that was sent and not waited for may have its effect."""
        deadline = time.monotonic() + within
        return {role for role, fd in self.held.items() if not _ended(fd, deadline - time.monotonic())}

    def port_is_free(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
        except ConnectionRefusedError:
            return True
        return False

    def wait_for_end(self, role: str) -> None:
        assert _ended(self.held[role], 60)

    def kill(self, *roles: str) -> None:
        for role in roles:
            try:
                signal.pidfd_send_signal(self.held[role], signal.SIGKILL)
            except ProcessLookupError:
                pass  # gone already

    def end(self) -> None:
        self.kill(*ROLES)
        for fd in self.held.values():
            os.close(fd)


def _ended(pidfd: int, within: float) -> bool:
    poller = select.poll()
    poller.register(pidfd, select.POLLIN)
    return bool(poller.poll(max(0.0, within) * 1000))


def terminate(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    process.wait()


def killpg(process: subprocess.Popen[bytes]) -> None:
    os.killpg(process.pid, signal.SIGTERM)  # still unreaped, so the number is ours
    process.wait()


def stop(process: subprocess.Popen[bytes]) -> None:
    assert isinstance(process, allgone.Popen)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", allgone.EscapedProcessWarning)
        process.stop()


PIPE = subprocess.PIPE
WAYS: list[tuple[str, Callable[[list[str]], subprocess.Popen[bytes]], Callable[[subprocess.Popen[bytes]], None]]] = [
    ("subprocess: terminate()", lambda c: subprocess.Popen(c, stdout=PIPE), terminate),
    ("subprocess: setsid, killpg()", lambda c: subprocess.Popen(c, stdout=PIPE, start_new_session=True), killpg),
    ('allgone: backend="process-group"', lambda c: allgone.Popen(c, stdout=PIPE, backend="process-group"), stop),
    (
        "allgone: the same, sweep=True",
        lambda c: allgone.Popen(c, stdout=PIPE, backend="process-group", sweep=True),
        stop,
    ),
    ('allgone: backend="cgroup"', lambda c: allgone.Popen(c, stdout=PIPE, backend="cgroup"), stop),
]


def main() -> int:
    print(__doc__.split("\n\n")[1], "\n")
    row = "{:34} {:8} {:10} {:18} {:10} {}".format
    print(row("stopped by", "foreman", "3 workers", "daemonised helper", "port", "ms"))
    print(row("-" * 32, "-" * 7, "-" * 9, "-" * 17, "-" * 9, "----"))
    for name, start, end in WAYS:
        port = free_port()
        try:
            process = start([sys.executable, __file__, "--serve", str(port)])
        except allgone.BackendUnavailable as e:
            print(f"{name:34} not available here: {e.reasons[-1]}")
            continue
        assert process.stdout is not None
        server = Server(port, process.stdout)
        try:
            began = time.monotonic()
            end(process)
            took = (time.monotonic() - began) * 1000
            alive = server.alive()
            workers = sum(role.startswith("worker") for role in alive)
            print(
                row(
                    name,
                    "ALIVE" if "foreman" in alive else "gone",
                    f"{workers} ALIVE" if workers else "gone",
                    "ALIVE" if "daemonised helper" in alive else "gone",
                    "free" if server.port_is_free() else "TAKEN",
                    f"{took:.0f}",
                )
            )
        finally:
            server.end()
            process.wait()
            process.__exit__(None, None, None)
    print("\nWhat survived was ended by the demo itself, through the pidfds that it held.")
    return 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        serve(int(sys.argv[2]))
    sys.exit(main())
