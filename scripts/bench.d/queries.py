"""What it takes to find a containment's listening sockets among 500 of others, beside a dump of them by hand."""

from __future__ import annotations

import socket
import struct
import subprocess
import sys
from functools import partial
from time import perf_counter_ns

from results import Row, Target, rows

import allgone

OTHERS = 500
_SERVE = "import socket, time; s = socket.create_server(('127.0.0.1', 0)); print(flush=True); time.sleep(1000)"
_WHAT = f"query among {OTHERS}"


def measure(backends: list[str], rounds: int) -> tuple[list[Row], list[Target]]:
    others = [socket.create_server(("127.0.0.1", 0), backlog=1) for _ in range(OTHERS)]
    samples: dict[str, list[int]] = {f"{_WHAT}/raw dump": []}
    try:
        for backend in backends:
            with allgone.Popen([sys.executable, "-c", _SERVE], backend=backend, stdout=subprocess.PIPE) as server:
                server.stdout.readline()
                port = server.listening()[0].port
                for _ in range(rounds):
                    _time(samples[f"{_WHAT}/raw dump"], _dump)
                    _time(samples.setdefault(f"{_WHAT}/{backend}, one port", []), partial(server.listening, port))
                    _time(samples.setdefault(f"{_WHAT}/{backend}, all ports", []), server.listening)
                server.stop()
    finally:
        for each in others:
            each.close()
    found = rows(samples, "-", "raw dump")
    raw = next(row for row in found if row.how == "raw dump")
    targets = [
        Target(f"{_WHAT} listening sockets, {row.how}: ms above a raw dump", 5, row.median_ms - raw.median_ms)
        for row in found
        if row is not raw
    ]
    return found, targets


def _time(took: list[int], call: object) -> None:
    began = perf_counter_ns()
    call()  # type: ignore[operator]
    took.append(perf_counter_ns() - began)


def _dump() -> int:
    """All listening TCP sockets of IPv4, counted (sock_diag(7))."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 4) as asked:
        asked.bind((0, 0))
        asked.send(struct.pack("=IHHIIBBBxI48x", 72, 20, 0x301, 1, 0, socket.AF_INET, socket.IPPROTO_TCP, 0, 1 << 10))
        count = 0
        while True:
            data, at = asked.recv(1 << 20), 0
            while at < len(data):
                length, kind = struct.unpack_from("=IH", data, at)
                if kind == 3:
                    return count
                count += 1
                at += (length + 3) & ~3
