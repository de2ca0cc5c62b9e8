"""A Buildbot master and its worker under systemd: builds, their logs, and what runs of them."""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

from docs import pages
from support import procfs
from support.programs import PATIENCE
from support.systemd_env import CHECKOUT, Environment
from support.tiers import missing

RELEASES = [f"{name}==4.3.0" for name in ("buildbot", "buildbot-www", "buildbot-worker")]
BIN = CHECKOUT / "build/runners/buildbot/bin"
FILES = CHECKOUT / "tests/runners/buildbot"
PAGE = CHECKOUT / "docs/ci/buildbot.md"
USER, HOME = "buildbot", "/var/lib/buildbot"
MASTER, WORKER = "buildbot-master.service", "buildbot-worker.service"
SUCCESS, FAILURE, CANCELLED = 0, 2, 6  # buildbot.process.results
_SET_UP = """
useradd --system --create-home --home-dir {home} {user}
{bin}/buildbot-worker create-worker {home}/worker 127.0.0.1:{worker_port} worker secret
chown -R {user}: {home}
{bin}/buildbot create-master --db=sqlite:///state.sqlite /var/lib/master
cp {files}/master.cfg /var/lib/master
echo '{{"worker": {worker_port}, "www": {www_port}}}' >/var/lib/master/ports.json
chown -R nobody: /var/lib/master
cat >/etc/systemd/system/{worker} <<'END'
{unit}
END
cat >/etc/systemd/system/{master} <<'END'
[Service]
User=nobody
Environment=PYTHONPATH={sources}
ExecStartPre=/bin/rm -f /var/lib/master/twistd.pid
ExecStart={bin}/buildbot start --nodaemon /var/lib/master
WorkingDirectory=/var/lib/master
Restart=always
RestartSec=0

[Install]
WantedBy=multi-user.target
END
systemctl daemon-reload
systemctl enable {worker} {master}
"""
Found = TypeVar("Found")


def install() -> None:
    """Buildbot from PyPI in an environment of its own, with this checkout; kept below build/."""
    if (BIN / "buildbot").exists():
        return
    for words in (
        [sys.executable, "-m", "venv", "--clear", str(BIN.parent)],
        [str(BIN / "pip"), "install", "--quiet", "--disable-pip-version-check", *RELEASES, "-e", str(CHECKOUT)],
    ):
        done = subprocess.run(words, capture_output=True, text=True, timeout=600, check=False)
        if done.returncode:
            missing(f"Buildbot can't be installed: {done.stderr[-500:]}")


def until(what: Callable[[], Found], within: float) -> Found:
    """Ask again until the answer is true; that answer."""
    deadline = time.monotonic() + within
    while not (found := what()):
        assert time.monotonic() < deadline, f"not within {within} s"
        time.sleep(0.05)  # asking is all that there is
    return found


class Site(ABC):
    """A master with four builders, and their worker."""

    patience = PATIENCE * 2  # seconds

    def __init__(self, worker_port: int, www_port: int) -> None:
        self._worker_port, self._www_port = worker_port, www_port
        self._numbers = count()

    @abstractmethod
    def sh(self, script: str) -> str:
        """What a script prints that is run as root where the services are. It must not fail."""

    @abstractmethod
    def fetch(self, url: str, data: bytes | None = None) -> bytes:
        """What is answered there. Raises OSError or `http.client.IncompleteRead`."""

    def set_up(self, bin: Path = BIN, sources: Path = CHECKOUT) -> None:
        """Install both services and start them. The worker's is the unit of docs/ci/buildbot.md."""
        unit = next(each.text for each in pages.blocks(PAGE) if (each.mark("file") or "").endswith(WORKER))
        given = {
            "user": USER, "home": HOME, "bin": bin, "sources": sources / "src", "files": sources / "tests/runners/buildbot",
            "worker_port": self._worker_port, "www_port": self._www_port, "worker": WORKER, "master": MASTER,
            "unit": unit.replace("/opt/buildbot/bin", str(bin)),
        }  # fmt: skip
        self.sh(_SET_UP.format_map(given))
        self.start()

    def start(self) -> None:
        self.sh(f"systemctl start {MASTER} {WORKER}")
        until(self.worker_is_there, self.patience)

    def get(self, what: str) -> dict[str, Any]:
        """Wait for the master's answer: it may be away, and at times it closes the connection too early."""

        def answer() -> dict[str, Any]:
            try:
                found: dict[str, Any] = json.loads(self.fetch(self._url(what)))
            except (OSError, http.client.IncompleteRead):
                return {}
            return found

        return until(answer, self.patience)

    def post(self, where: str, method: str, **params: object) -> Any:
        asked = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        return json.loads(self.fetch(self._url(where), json.dumps(asked).encode()))["result"]

    def _url(self, what: str) -> str:
        return f"http://127.0.0.1:{self._www_port}/api/v2/{what}"

    def worker_is_there(self) -> bool:
        return bool(self.get("workers")["workers"][0]["connected_to"])

    def force(self, command: Sequence[str] = (), **job: object) -> Build:
        """`job`: arguments of the step, see master.cfg. Four can be built at a time."""
        number = next(self._numbers)
        told = json.dumps({"command": list(command), "number": str(number), **job})
        _, requests = self.post(f"forceschedulers/jobs{number % 4}", "force", owner="tests", job=told)
        return Build(self, number, next(iter(requests.values())))


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
        """Each line begins with what it is: o, e, h for stdout, stderr and Buildbot's own."""
        return self.logs().get(name, "")

    def is_ready(self) -> None:
        """Wait until job.py has said so. (The worker keeps lines of a log back for 5 seconds, or until the end.)"""
        try:
            until(
                lambda: self.site.sh(f"cd {HOME}; echo ready-*").split().count(f"ready-{self.number}"),
                self.site.patience,
            )
        except AssertionError:
            raise AssertionError(f"not ready: {self.logs() if self.tries() else 'no build'}") from None

    def stop(self) -> None:
        self.site.post(f"builds/{self.tries()[-1]}", "stop", reason="a test")

    def result(self) -> int:
        """Wait for its end."""

        def request() -> dict[str, Any]:
            found: dict[str, Any] = self.site.get(f"buildrequests/{self.request}")["buildrequests"][0]
            return found if found["complete"] else {}

        return int(until(request, self.site.patience)["results"])


class SiteInside(Site):
    """In one of scripts/systemd-env."""

    def __init__(self, inside: Environment, worker_port: int, www_port: int) -> None:
        super().__init__(worker_port, www_port)
        self.inside = inside

    def sh(self, script: str) -> str:
        return self.inside.sh("sh", "-euc", script)

    def fetch(self, url: str, data: bytes | None = None) -> bytes:
        request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            found: bytes = answer.read()
        return found

    @cached_property
    def _pids(self) -> str:
        return os.readlink(self.inside.root.parent / "ns/pid")

    @cached_property
    def _uid(self) -> int:
        return self.inside.uid(USER)

    def running(self) -> list[str]:
        """All processes of the worker's user but the worker itself and guards, in whatever cgroup."""
        found = [int(name) for name in os.listdir("/proc") if name.isdigit() and self._is_of_user(name)]
        return [
            f"{procfs.describe(pid)} in {procfs.cgroup(pid)}"
            for pid in found
            if procfs.is_alive(pid) and not procfs.cgroup(pid).endswith("/guard") and not self._is_worker(pid)
        ]

    def _is_of_user(self, pid: str) -> bool:
        try:
            return os.stat(f"/proc/{pid}").st_uid == self._uid and os.readlink(f"/proc/{pid}/ns/pid") == self._pids
        except (FileNotFoundError, ProcessLookupError):
            return False

    def _is_worker(self, pid: int) -> bool:
        return procfs.cgroup(pid).endswith(f"/{WORKER}") and "/buildbot-worker start" in procfs.describe(pid)

    def leftovers(self) -> list[str]:
        """What there is of builds: processes, and cgroups with those of guards."""
        return self.running() + [str(each) for each in self.inside.tree() if each.name.startswith("allgone-")]

    def is_clean(self) -> None:
        """Wait until nothing is left of any build."""
        try:
            until(lambda: not self.leftovers(), PATIENCE)
        except AssertionError:
            raise AssertionError(f"left behind: {self.leftovers()}") from None
