"""One environment with a real systemd for all tests here, and the check that a test leaves nothing behind in it."""

from __future__ import annotations

import gc
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path

import pytest
from support import leaks, procfs
from support.systemd_env import CHECKOUT, STATES, USERS, Environment, systemd_env
from support.tiers import missing

# Debian 13's systemd 257, as well as this machine's: where its root directory is in the cache, and with --run-slow.
_SUITE = "trixie"
_CACHED = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "allgone/debian-13"
_PACKAGES = (
    "python3 python3-pytest python3-pytest-timeout python3-psutil python3-pyroute2 python3-click python3-pystemd "
    "sudo openssh-server openssh-client systemd-container "
    "python3-gunicorn nginx-light redis-server postgresql tmux"
)

# What systemd itself starts when it is first needed, and keeps.
_ON_DEMAND = re.compile(
    r"user\.slice/user-\d+\.slice/user@\d+\.service/(init\.scope|(app|session)\.slice/dbus(-broker)?\.service)"
    r"|system\.slice/(polkit|systemd-[a-z]+)\.service"
)
_SETTLE = 5.0  # seconds for systemd to tidy up after a unit or a login session on a busy machine


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "environment" in metafunc.fixturenames:
        slow = metafunc.config.getoption("--run-slow", default=False)
        systems = ["machine", "debian-13"] if slow else ["machine"]
        metafunc.parametrize("environment", systems, indirect=True, scope="session")


@pytest.fixture(scope="session")
def environment(request: pytest.FixtureRequest) -> Iterator[Environment]:
    """A booted systemd with the checkout, this interpreter, and the users alice and bob."""
    made = boot(f"test-{os.getpid()}", request.param)
    yield made
    made.down()


@pytest.fixture
def slow(request: pytest.FixtureRequest) -> None:
    """For what takes minutes."""
    if not request.config.getoption("--run-slow"):
        pytest.skip("takes long: --run-slow")


@pytest.fixture
def shaken() -> Iterator[Environment]:
    """One of a test's own, to do things to that systemd does not recover from."""
    made = boot(f"test-{os.getpid()}-shaken", "machine")
    yield made
    made.down()


def boot(name: str, system: str) -> Environment:
    """An environment of this machine's own system or of Debian 13, set up for tests; skips where it can't be had."""
    if os.getuid() != 0:
        missing("an environment with systemd needs root")
    _remove_old()
    bound = [str(CHECKOUT)]
    options: list[str] = []
    python, variables = sys.executable, {"PYTHONDONTWRITEBYTECODE": "1"}
    if system == "machine":
        bound += {each for each in (sys.prefix, sys.base_prefix) if not each.startswith("/usr")}
    else:
        script = CHECKOUT / "scripts/systemd-env.d/debian-root"
        built = subprocess.run(
            [script, _SUITE, str(_CACHED), *_PACKAGES.split()], capture_output=True, text=True, check=False
        )
        if built.returncode:
            missing(f"no root directory of Debian 13: {built.stderr.strip()}")
        options += ["--root", str(_CACHED)]
        python, variables = "/usr/bin/python3", {**variables, "PYTHONPATH": str(CHECKOUT / "src")}
    for each in bound:
        options += ["--bind-ro", each]
    try:
        made = Environment.up(name, *options, python=python, variables=variables)
    except RuntimeError as e:
        missing(f"no systemd could be booted: {e}")
    for user in USERS:
        made.run("useradd", "--create-home", "--shell", "/bin/bash", user)
    made.run("loginctl", "enable-linger", "bob")
    return made


def _remove_old() -> None:
    """Environments of test runs that were killed."""
    for each in STATES.glob("test-*"):
        if not os.path.exists(f"/proc/{each.name.split('-')[1]}"):
            systemd_env("down", each.name)


@pytest.fixture(autouse=True)
def _leaks_nothing(_cgroup_base_or_reason: tuple[str | None, str]) -> Iterator[None]:
    """As for all other tests, but for processes inside: they are systemd's, which starts some when it is asked to."""
    base, _ = _cgroup_base_or_reason
    before = _outside(leaks.holdings(base))
    yield
    after = _outside(leaks.holdings(base))
    if after != before:
        gc.collect()
        for pid in after.processes - before.processes:
            procfs.ends_within(pid, _SETTLE)
        after = _outside(leaks.holdings(base))
    found = {each.name: getattr(after, each.name) - getattr(before, each.name) for each in fields(after)}
    if any(found.values()):
        pytest.fail(f"left behind: {found}", pytrace=False)


def _outside(found: leaks.Holdings) -> leaks.Holdings:
    return replace(found, processes=frozenset(pid for pid in found.processes if _in_our_pid_namespace(pid)))


def _in_our_pid_namespace(pid: int) -> bool:
    try:
        return os.readlink(f"/proc/{pid}/ns/pid") == os.readlink("/proc/self/ns/pid")
    except FileNotFoundError:
        return False


@pytest.fixture(autouse=True)
def _leaves_nothing_inside(request: pytest.FixtureRequest) -> Iterator[None]:
    """No process, unit, failed unit or job that was not there before, and no cgroup of allgone's."""
    if "environment" not in request.fixturenames:
        yield
        return
    inside: Environment = request.getfixturevalue("environment")
    before = inside.inhabited()
    yield
    found = [
        f"processes in {each}"
        for each in sorted(inside.inhabited() - before)
        if not _ON_DEMAND.fullmatch(each) and not inside.empties(each, _SETTLE)
    ]
    for user in ("root", *USERS):
        failed = inside.systemctl("list-units", "--state=failed", user=user)
        found += [f"failed, {user}: {line}" for line in failed]
        left = inside.systemctl("list-units", "allgone-*", user=user)
        found += [f"left, {user}: {line}" for line in left]
        if left:  # or else every test after this one would be said to have left it
            inside.systemctl("stop", "allgone-*", user=user)
        found += [f"job, {user}: {line}" for line in _jobs_that_stay(inside, user)]
        if failed:
            inside.systemctl("reset-failed", user=user)
    # Those of units are gone by now, for systemd removes a unit's before it forgets the unit.
    found += [f"cgroup {each}" for each in inside.tree() if each.name.startswith("allgone-")]
    if found:
        pytest.fail("left behind inside:\n  " + "\n  ".join(found), pytrace=False)


def _jobs_that_stay(inside: Environment, user: str) -> list[str]:
    """A login session's end has jobs of its own, which systemd is still at."""
    deadline = time.monotonic() + _SETTLE
    while (jobs := inside.systemctl("list-jobs", user=user)) and time.monotonic() < deadline:
        time.sleep(0.05)  # asking is all that there is
    return jobs
