"""The same server, stopped by allgone and by its peers: who is still there afterwards?

It is the server of scripts/demo: a foreman with three workers, and a helper that it daemonises. Each way to start and
stop it runs in a supervisor of its own. Three things happen, each to a server of its own:

stopped            the supervisor stops it
foreman crashed    the foreman is killed, then the supervisor stops what is left
supervisor killed  the supervisor gets SIGKILL
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import select
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import IO

import demo

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "compare.d"))
import page  # noqa: E402  # beside this script
import ways  # noqa: E402

PEERS = ("mirakuru", "pytest-xprocess", "processkit-py", "psutil")
PATIENCE = 60  # seconds


@dataclass
class Row:
    """What came of one way."""

    way: str
    missing: str = ""
    left_when_stopped: list[str] = field(default_factory=list)
    port_is_free: bool = False
    milliseconds: float = 0.0
    left_when_foreman_crashed: list[str] = field(default_factory=list)
    left_when_supervisor_killed: list[str] = field(default_factory=list)


def opened(fifo: str) -> IO[bytes]:
    """To be read, once somebody writes to it."""
    fd = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    poller = select.poll()
    poller.register(fd, select.POLLIN)
    if not poller.poll(1000 * PATIENCE):
        raise TimeoutError(f"no word of the server within {PATIENCE} s")
    os.set_blocking(fd, True)
    return open(fd, "rb")


class Trial:
    """A server that a supervisor of its own has started."""

    def __init__(self, way: str, folder: str) -> None:
        fifo = f"{folder}/lines"
        os.mkfifo(fifo)
        port = demo.free_port()
        server = [sys.executable, __file__, "--serve", str(port), fifo]
        self.supervisor = subprocess.Popen(
            [sys.executable, __file__, "--supervise", way, folder, *server],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.server: demo.Server | None = None
        self.missing = ""
        said = self._said()
        if said == "started":
            with opened(fifo) as lines:
                self.server = demo.Server(port, lines)
        elif said.startswith("not here: "):
            self.missing = said.removeprefix("not here: ")
        else:
            raise RuntimeError(f"{way}: the server was not started; see above")

    def _said(self) -> str:
        assert self.supervisor.stdout is not None
        return self.supervisor.stdout.readline().strip()

    def stop(self) -> float:
        """How many milliseconds it took."""
        assert self.supervisor.stdin is not None
        self.supervisor.stdin.write("stop\n")
        self.supervisor.stdin.flush()
        return float(self._said())

    def end(self) -> None:
        if self.server is not None:
            self.server.end()
        self.supervisor.communicate()


@contextmanager
def trial(way: str) -> Iterator[Trial]:
    with tempfile.TemporaryDirectory(prefix="allgone-compare-") as folder:
        made = Trial(way, folder)
        try:
            yield made
        finally:
            made.end()


def measured(way: str, rounds: int, settle: float) -> Row:
    """`settle`: seconds within which what is going to end after its supervisor has ended."""
    row = Row(way)
    took, alive = [], set[str]()
    for _ in range(rounds):
        with trial(way) as each:
            if each.server is None:
                row.missing = each.missing
                return row
            took.append(each.stop())
            alive |= each.server.alive()
            row.port_is_free = each.server.port_is_free()
    row.left_when_stopped = sorted(alive)
    row.milliseconds = median(took)
    with trial(way) as each:
        assert each.server is not None
        each.server.kill("foreman")
        each.server.wait_for_end("foreman")
        each.stop()
        row.left_when_foreman_crashed = sorted(each.server.alive())
    with trial(way) as each:
        assert each.server is not None
        each.supervisor.kill()
        row.left_when_supervisor_killed = sorted(each.server.alive(settle))
    return row


def version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "(not installed)"


def document(rounds: int, only: tuple[str, ...], settle: float) -> dict[str, object]:
    return {
        "user": "root" if os.geteuid() == 0 else "an ordinary user",
        "kernel": platform.release().partition("-")[0],
        "python": platform.python_version(),
        "cpus": len(os.sched_getaffinity(0)),
        "load": os.getloadavg()[0],
        "versions": {name: version(name) for name in PEERS},
        "rounds": rounds,
        "rows": [asdict(measured(way, rounds, settle)) for way in ways.WAYS if way.startswith(only)],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="stops to take the median of (default: 5)")
    parser.add_argument("--only", metavar="TEXT", action="append", help="only the ways whose names begin so")
    parser.add_argument(
        "--settle", type=float, default=3.0, help="seconds to wait after the end of a supervisor (default: 3)"
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print the results for programs")
    form.add_argument("--markdown", action="store_true", help="print them as for the page")
    form.add_argument("--write", action="store_true", help="write docs/comparison.md anew; as root")
    options = parser.parse_args()
    if options.write:
        page.write(options.rounds)
        return
    found = document(options.rounds, tuple(options.only or [""]), options.settle)
    if options.json:
        print(json.dumps(found, indent=1))
    else:
        print(page.for_the_page(found) if options.markdown else page.for_people(found))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        print("begins", flush=True)
        os.dup2(os.open(sys.argv[3], os.O_WRONLY), 1)
        demo.serve(int(sys.argv[2]))
    elif sys.argv[1:2] == ["--supervise"]:
        ways.supervise(sys.argv[2], sys.argv[4:], sys.argv[3])
    else:
        main()
