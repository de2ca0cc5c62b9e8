"""A real systemd to run code in: `scripts/systemd-env`, and the places inside where a supervisor may find itself."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from support import programs

CHECKOUT = Path(__file__).resolve().parents[2]
SCRIPT = str(CHECKOUT / "scripts/systemd-env")
STATES = Path("/run/systemd-env")
USERS = ("alice", "bob")  # ordinary ones; bob lingers: his manager runs without a session


@dataclass(frozen=True)
class Place:
    """Where a command runs inside: options of `systemd-env run`, and what is put before the command itself."""

    label: str
    options: tuple[str, ...] = ()
    before: tuple[str, ...] = ()
    user: str = "root"

    def __str__(self) -> str:
        return self.label


_USER_SERVICE = ("systemd-run", "--user", "--quiet", "--pipe", "--wait", "--collect", "--same-dir")
ROOT_SERVICE = Place("root-service")
ROOT_DELEGATED = Place("root-service-delegated", ("--delegate",))
USER_SESSION = Place("user-session", ("--user", "alice"), user="alice")
USER_SERVICE = Place("user-service", ("--user", "alice"), _USER_SERVICE, "alice")
USER_DELEGATED = Place(
    "user-service-delegated", ("--user", "alice"), (*_USER_SERVICE, "--property=Delegate=yes"), "alice"
)
# As cron or a system service with User= would run it: a manager is there, and nobody has said where.
USER_LINGERING = Place("user-lingering", ("--property", "User=bob"), user="bob")
# Where a scope is asked for, as opposed to those with a delegated cgroup of their own.
SCOPED = (ROOT_SERVICE, USER_SESSION, USER_SERVICE, USER_LINGERING)
# What of these lets a child enter its cgroup without systemd's help.
ENTERED = (ROOT_SERVICE, USER_SERVICE)
PLACES = (ROOT_SERVICE, ROOT_DELEGATED, USER_SESSION, USER_SERVICE, USER_DELEGATED, USER_LINGERING)


def container(*, systemd: bool = False, writable: bool = True) -> tuple[str, ...]:
    """What is put before a command to have it in a container: pids, mounts and cgroups of its own.

    `systemd`: the one outside is there to be seen, in /run. `writable`: so is its cgroup file system.
    """
    steps = ["umount -l /sys/fs/cgroup", "mount -t cgroup2 none /sys/fs/cgroup", "mount -t proc none /proc"]
    if not systemd:
        steps.append("mount -t tmpfs none /run")
    if not writable:
        steps.append("mount -o remount,bind,ro /sys/fs/cgroup")
    script = " && ".join([*steps, 'exec "$@"'])
    return ("unshare", "--cgroup", "--pid", "--mount", "--fork", "--kill-child", "sh", "-c", script, "sh")


def systemd_env(*words: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run scripts/systemd-env with its output captured."""
    return subprocess.run([SCRIPT, *words], check=False, **{"capture_output": True, "text": True, **options})


@dataclass(frozen=True)
class Environment:
    """One that is up."""

    name: str
    python: str = sys.executable
    variables: Mapping[str, str] = field(default_factory=dict)  # given to every command

    @classmethod
    def up(cls, name: str, *options: str, **fields: Any) -> Environment:
        """Boot it. Raises `RuntimeError` with what the script said where that can't be done."""
        booted = systemd_env("up", name, *options)
        if booted.returncode:
            raise RuntimeError(booted.stderr.strip())
        return cls(name, **fields)

    def down(self) -> None:
        ended = systemd_env("down", self.name)
        assert ended.returncode == 0, ended.stderr

    def command(
        self,
        argv: Iterable[str],
        place: Place = ROOT_SERVICE,
        *,
        options: Sequence[str] = (),
        variables: Mapping[str, str] | None = None,
        seconds: float = 4 * programs.PATIENCE,
    ) -> list[str]:
        """The command that runs `argv` there; after `seconds` systemd ends it, and the exit status is 124."""
        given = [f"{name}={value}" for name, value in {**self.variables, **(variables or {})}.items()]
        inner = list(argv)
        if place.before:  # systemd expands variables in the arguments of services
            inner = [
                *place.before,
                *(f"--setenv={each}" for each in given),
                "--",
                *(a.replace("$", "$$") for a in inner),
            ]
        outer = [word for each in given for word in ("-E", each)]
        # Both: systemd 252 takes a service with a PAM session for one that is still starting.
        limit = ["-p", f"RuntimeMaxSec={seconds}", "-p", f"TimeoutStartSec={seconds}"]
        return [SCRIPT, "run", self.name, *limit, *place.options, *outer, *options, "--", *inner]

    def run(
        self, *argv: str, place: Place = ROOT_SERVICE, check: bool = True, input: str = "", **how: Any
    ) -> subprocess.CompletedProcess[str]:
        """Run it there to its end, with its output captured. With `check`, a status other than 0 is a failure."""
        done = subprocess.run(
            self.command(argv, place, **how), input=input, capture_output=True, text=True, check=False
        )
        if check and done.returncode:
            raise AssertionError(f"{list(argv)} in {place}: status {done.returncode}\n{done.stdout}\n{done.stderr}")
        return done

    def start(self, *argv: str, place: Place = ROOT_SERVICE, **how: Any) -> subprocess.Popen[str]:
        """Start it there, with pipes. SIGTERM to what this returns is passed on to the command."""
        pipe = subprocess.PIPE
        return subprocess.Popen(self.command(argv, place, **how), stdin=pipe, stdout=pipe, stderr=pipe, text=True)

    def run_python(self, code: str, *argv: str, **how: Any) -> subprocess.CompletedProcess[str]:
        """Run Python code there; allgone and all that it needs can be imported."""
        return self.run(self.python, "-c", textwrap.dedent(code), *argv, **how)

    def start_python(self, code: str, *argv: str, **how: Any) -> subprocess.Popen[str]:
        """Start Python code there, as `start` does."""
        return self.start(self.python, "-c", textwrap.dedent(code), *argv, **how)

    def run_pytest(self, *argv: str, **how: Any) -> subprocess.CompletedProcess[str]:
        """Run tests of the checkout there, each of which has as long as ours have."""
        options = ("--cwd", str(CHECKOUT), *how.pop("options", ()))
        variables = {"PYTEST_TIMEOUT": f"{programs.TEST_LIMIT:g}", **(how.pop("variables", None) or {})}
        return self.run(self.python, "-m", "pytest", "-q", *argv, options=options, variables=variables, **how)

    def start_beside(self, code: str, *argv: str) -> subprocess.Popen[str]:
        """Start Python code beside PID 1: with no unit of its own, and no help from systemd."""
        pipe = subprocess.PIPE
        words = [
            "env",
            "-i",
            "PATH=/usr/sbin:/usr/bin:/sbin:/bin",
            *(f"{k}={v}" for k, v in self.variables.items()),
            self.python,
            "-c",
            textwrap.dedent(code),
            *argv,
        ]
        return subprocess.Popen(
            [SCRIPT, "sh", self.name, "--", *words], stdin=pipe, stdout=pipe, stderr=pipe, text=True
        )

    def uid(self, user: str) -> int:
        return int(self.sh("id", "-u", user))

    def sh(self, *argv: str, check: bool = True) -> str:
        """What a command beside PID 1 prints: root, no unit of its own, no help from systemd."""
        done = systemd_env("sh", self.name, "--", *argv, stdin=subprocess.DEVNULL)
        if check:
            assert done.returncode == 0, f"{list(argv)}: {done.stderr}"
        return done.stdout

    def systemctl(self, *argv: str, user: str = "root") -> list[str]:
        """The lines that systemctl prints; with `user`, of that user's manager (none if it does not run)."""
        words = ["systemctl", "--plain", "--no-legend", "--no-pager", "--full"]
        if user != "root":
            runtime = f"/run/user/{self.sh('id', '-u', user).strip()}"
            if not (self.root / runtime[1:] / "systemd/private").exists():
                return []
            words = ["runuser", "-u", user, "--", "env", f"XDG_RUNTIME_DIR={runtime}", *words, "--user"]
        return self.sh(*words, *argv, check=False).splitlines()

    @property
    def root(self) -> Path:
        """Its root directory, seen from the machine."""
        return Path("/proc", (STATES / self.name / "leader").read_text().strip(), "root")

    @property
    def cgroups(self) -> Path:
        """The root of its cgroup tree, seen from the machine."""
        return Path((STATES / self.name / "cgroup").read_text().strip()) / "payload"

    def tree(self) -> list[Path]:
        """Its cgroups, seen from the machine."""
        return [Path(folder) for folder, _, _ in os.walk(self.cgroups)]

    def inhabited(self) -> frozenset[str]:
        """The cgroups that have processes in them, below its root."""
        return frozenset(str(each.relative_to(self.cgroups)) for each in self.tree() if _has_processes(each))

    def empties(self, cgroup: str, seconds: float) -> bool:
        """Wait until nothing is left in a cgroup; whether that came to pass."""
        deadline = time.monotonic() + seconds
        try:
            with open(self.cgroups / cgroup / "cgroup.events", encoding="ascii") as f:
                poller = select.poll()
                poller.register(f, select.POLLPRI)
                while "populated 1" in f.read():
                    if not poller.poll(max(0, deadline - time.monotonic()) * 1000):
                        return False
                    f.seek(0)
        except OSError:
            pass  # removed meanwhile: ENOENT, ENODEV
        return True


def _has_processes(folder: Path) -> bool:
    try:
        return bool((folder / "cgroup.procs").read_bytes())
    except OSError:
        return False  # removed meanwhile, or a threaded one
