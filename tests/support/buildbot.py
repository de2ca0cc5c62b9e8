"""A Buildbot master and its worker in an environment with systemd: builds, their logs, and what runs of them."""

from __future__ import annotations

import http.client
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

from docs import pages
from support import procfs
from support.programs import PATIENCE
from support.systemd_env import CHECKOUT, Environment
from support.tiers import missing

RELEASE = "4.3.0"
BIN = CHECKOUT / f"build/runners/buildbot-{RELEASE}/bin"
FILES = CHECKOUT / "tests/runners/buildbot"
PAGE = CHECKOUT / "docs/ci/buildbot.md"
USER = "buildbot"
MASTER, WORKER = "buildbot-master.service", "buildbot-worker.service"
_MASTER_UNIT = """
[Service]
User=nobody
ExecStart={bin}/buildbot start --nodaemon /var/lib/master
WorkingDirectory=/var/lib/master
Restart=always
RestartSec=0
"""
SUCCESS, FAILURE, RETRY, CANCELLED = 0, 2, 5, 6  # buildbot.process.results
Found = TypeVar("Found")


def install() -> None:
    """Buildbot from PyPI in an environment of its own, with this checkout; kept below build/."""
    if (BIN / "buildbot").exists():
        return
    packages = [f"{name}=={RELEASE}" for name in ("buildbot", "buildbot-www", "buildbot-worker")]
    for words in (
        [sys.executable, "-m", "venv", "--clear", str(BIN.parent)],
        [str(BIN / "pip"), "install", "--quiet", "--disable-pip-version-check", *packages, "-e", str(CHECKOUT)],
    ):
        done = subprocess.run(words, capture_output=True, text=True, timeout=600, check=False)
        if done.returncode:
            (BIN / "buildbot").unlink(missing_ok=True)
            missing(f"Buildbot can't be installed: {done.stderr[-500:]}")


def until(what: Callable[[], Found], within: float = PATIENCE * 2) -> Found:
    """Ask again until the answer is true; that answer."""
    deadline = time.monotonic() + within
    while not (found := what()):
        assert time.monotonic() < deadline, f"not within {within} s"
        time.sleep(0.05)  # asking is all that there is
    return found


@dataclass(frozen=True)
class Build:
    """One that somebody has forced."""

    site: Site
    number: int
    request: int

    def tries(self) -> list[int]:
        """The ids of its builds: one that was lost with its worker is done again."""
        return [
            each["buildid"] for each in self.site.get(f"buildrequests/{self.request}/builds?order=number")["builds"]
        ]

    def steps(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.site.get(f"builds/{self.tries()[-1]}/steps")["steps"]
        return found

    def logs(self) -> dict[str, str]:
        """The lines of all logs of all steps so far, by the log's name."""
        found: dict[str, str] = {}
        for step in self.steps():
            for log in self.site.get(f"steps/{step['stepid']}/logs")["logs"]:
                chunks = self.site.get(f"logs/{log['logid']}/contents")["logchunks"]
                found[log["name"]] = found.get(log["name"], "") + "".join(each["content"] for each in chunks)
        return found

    def log(self, name: str = "stdio") -> str:
        return self.logs().get(name, "")

    def is_ready(self) -> None:
        """Wait until job.py has said so. (The worker keeps lines of a log back for 5 seconds, or until the end.)"""
        try:
            until((self.site.inside.root / f"var/lib/buildbot/ready-{self.number}").exists)
        except AssertionError:
            raise AssertionError(f"not ready: {self.logs() if self.tries() else 'no build'}") from None

    def stop(self) -> None:
        self.site.post(f"builds/{self.tries()[-1]}", "stop", reason="a test")

    def result(self) -> int:
        """Wait for its end."""

        def request() -> dict[str, Any]:
            found: dict[str, Any] = self.site.get(f"buildrequests/{self.request}")["buildrequests"][0]
            return found if found["complete"] else {}

        return int(until(request)["results"])


@dataclass
class Site:
    """Of one environment."""

    inside: Environment
    _numbers: Iterator[int] = field(default_factory=count)
    ports: dict[str, int] = field(default_factory=lambda: {"worker": _free_port(), "www": _free_port()})

    def set_up(self) -> None:
        """Install both services and start them. The worker's is the unit of docs/ci/buildbot.md."""
        self.inside.run("useradd", "--system", "--create-home", "--home-dir", "/var/lib/buildbot", USER)
        unit = next(each.text for each in pages.blocks(PAGE) if (each.mark("file") or "").endswith(WORKER))
        self._write(f"/etc/systemd/system/{WORKER}", unit.replace("/opt/buildbot/bin", str(BIN)))
        self._write(f"/etc/systemd/system/{MASTER}", _MASTER_UNIT.format(bin=BIN))
        address = f"127.0.0.1:{self.ports['worker']}"
        self.inside.run(
            f"{BIN}/buildbot-worker", "create-worker", "/var/lib/buildbot/worker", address, "worker", "secret"
        )
        self.inside.run("chown", "-R", f"{USER}:", "/var/lib/buildbot")
        self.inside.run(f"{BIN}/buildbot", "create-master", "--db=sqlite:///state.sqlite", "/var/lib/master")
        self.inside.run("cp", str(FILES / "master.cfg"), "/var/lib/master/master.cfg")
        self._write("/var/lib/master/ports.json", json.dumps(self.ports))
        self.inside.run("chown", "-R", "nobody:", "/var/lib/master")
        self.inside.systemctl("daemon-reload")
        self.start()

    def start(self) -> None:
        self.inside.systemctl("start", MASTER, WORKER)
        until(self.worker_is_there)

    def _write(self, path: str, text: str) -> None:
        self.inside.run("tee", path, input=text)

    # The master

    def get(self, what: str) -> dict[str, Any]:
        """Wait for its answer: it may be away, and at times it closes the connection too early."""

        def answer() -> dict[str, Any]:
            try:
                with urllib.request.urlopen(self._address(what), timeout=PATIENCE) as answer:
                    return json.load(answer)
            except (urllib.error.URLError, ConnectionError, http.client.IncompleteRead):
                return {}

        return until(answer)

    def post(self, where: str, method: str, **params: object) -> Any:
        asked = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        request = urllib.request.Request(
            self._address(where), json.dumps(asked).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            return json.load(answer)["result"]

    def _address(self, what: str) -> str:
        return f"http://127.0.0.1:{self.ports['www']}/api/v2/{what}"

    def worker_is_there(self) -> bool:
        return bool(self.get("workers")["workers"][0]["connected_to"])

    def force(self, command: Sequence[str] = (), **job: object) -> Build:
        """`job`: arguments of the step, see master.cfg. Four can be built at a time."""
        number = next(self._numbers)
        told = json.dumps({"command": list(command), "number": str(number), **job})
        _, requests = self.post(f"forceschedulers/jobs{number % 4}", "force", owner="tests", job=told)
        return Build(self, number, next(iter(requests.values())))

    # The worker

    @cached_property
    def _pids(self) -> str:
        return os.readlink(self.inside.root.parent / "ns/pid")

    @cached_property
    def _uid(self) -> int:
        return self.inside.uid(USER)

    def service(self) -> Path:
        return self.inside.cgroups / "system.slice" / WORKER

    def running(self) -> dict[int, str]:
        """All processes of the worker's user but the worker itself and guards, wherever they are: pid -> cgroup."""
        found = {}
        for name in os.listdir("/proc"):
            if name.isdigit() and self._is_of_user(name) and procfs.is_alive(int(name)):
                where = procfs.cgroup(int(name))
                if not where.endswith((f"/{WORKER}", "/guard")) or (
                    where.endswith(f"/{WORKER}") and "buildbot-worker" not in procfs.describe(int(name))
                ):
                    found[int(name)] = where
        return found

    def _is_of_user(self, pid: str) -> bool:
        try:
            return os.stat(f"/proc/{pid}").st_uid == self._uid and os.readlink(f"/proc/{pid}/ns/pid") == self._pids
        except (FileNotFoundError, ProcessLookupError):
            return False

    def leftovers(self) -> list[str]:
        """What there is of jobs: processes and cgroups."""
        cgroups = [str(each) for each in self.inside.tree() if each.name.startswith("allgone-")]
        return [f"{procfs.describe(pid)} in {where}" for pid, where in self.running().items()] + cgroups

    def is_clean(self) -> None:
        """Wait until nothing is left of any job, the guard's own cgroup included."""
        try:
            until(lambda: not self.leftovers(), PATIENCE)
        except AssertionError:
            raise AssertionError(f"left behind: {self.leftovers()}") from None


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])
