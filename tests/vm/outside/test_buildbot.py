"""Buildbot on a machine of its own: builds that take all its memory, fork without end, or are at it when it reboots."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.buildbot import FAILURE, MASTER, RELEASES, SUCCESS, WORKER, Site
from support.tiers import missing
from vm.outside.conftest import Guest
from vm.outside.test_power import nothing_is_left, reboot

PYTHON = "/opt/allgone/bin/python"
JOB = [PYTHON, "/allgone/tests/runners/buildbot/job.py"]
PROGRAMS = ("ignores_sigterm", "double_fork_daemon", "hopper", "respawns")
EATS = "hoard = bytearray(300_000_000); print('full')"
_ASKS = """
import sys, urllib.request
data = sys.stdin.buffer.read() or None
request = urllib.request.Request(sys.argv[1], data, {"Content-Type": "application/json"})
sys.stdout.buffer.write(urllib.request.urlopen(request, timeout=60).read())
"""
_SCRIPT = """#!/bin/sh
PYTHONPATH=/opt/buildbot/lib exec /opt/allgone/bin/python -c 'from {module}.scripts.runner import run; run()' "$@"
"""

pytestmark = pytest.mark.timeout(1800)


class SiteInGuest(Site):
    patience = 600.0  # it may be emulated

    def __init__(self, guest: Guest) -> None:
        super().__init__(9989, 8010)
        self._guest = guest

    def sh(self, script: str) -> str:
        return self._guest.run(f"sh -euc {shlex.quote(script)}", timeout=self.patience)

    def fetch(self, url: str, data: bytes | None = None) -> bytes:
        asks = [*self._guest.root, f"python3 -c {shlex.quote(_ASKS)} {shlex.quote(url)}"]
        done = subprocess.run(asks, input=data or b"", capture_output=True, timeout=120, check=False)
        if done.returncode:
            raise ConnectionError(done.stderr.decode())
        return done.stdout


@pytest.fixture(scope="module")
def site(guest: Guest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Buildbot is fetched here, and sent there with the tests. Afterwards it is off: its master may hold up a shutdown."""
    root = tmp_path_factory.mktemp("buildbot")
    version = guest.run(f"{PYTHON} -c 'import sys; print(*sys.version_info[:2], sep=\".\")'").strip()
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-compile", "--only-binary=:all:"]
    done = subprocess.run(
        [*pip, "--python-version", version, "--target", root / "lib", *RELEASES],
        capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    if done.returncode:
        missing(f"Buildbot can't be fetched: {done.stderr[-500:]}")
    scripts = root / "bin"
    scripts.mkdir()
    for name in ("buildbot", "buildbot-worker"):
        _executable(scripts / name, _SCRIPT.format(module=name.replace("-", "_")))
    os.symlink("/opt/allgone/bin/allgone", scripts / "allgone")
    packed = subprocess.run(["tar", "-C", root, "-cf", "-", "lib", "bin"], stdout=subprocess.PIPE, check=True).stdout
    unpack = "mkdir -p /opt/buildbot && tar -C /opt/buildbot -xf - --no-same-owner"
    subprocess.run([*guest.root, unpack], input=packed, timeout=600, check=True)
    made = SiteInGuest(guest)
    made.set_up(Path("/opt/buildbot/bin"), Path("/allgone"))
    yield made
    made.sh(f"systemctl disable --now {WORKER} {MASTER}")


def _executable(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


def test_a_build_that_needs_more_memory_than_it_may_is_told_so(site: Site) -> None:
    build = site.force([PYTHON, "-c", EATS], run_options=["--memory-max", "100M", "--memory-swap-max", "0"])
    assert build.result() == FAILURE
    assert "eallgone: the kernel killed a process of it for want of memory" in build.log(), build.logs()


def test_a_fork_bomb_stays_within_its_limit_and_is_gone(site: Site, guest: Guest) -> None:
    limits = ["--tasks-max", "50", "--timeout", "10s", "--timeout-stop", "1s"]
    build = site.force([*JOB, "stay", "fork_bomb"], run_options=limits)
    assert build.result() == FAILURE
    assert "eallgone: time-out after 10s: stopped python" in build.log(), build.logs()
    nothing_is_left(guest)


def test_a_reboot_in_the_middle_of_builds_leaves_nothing(site: Site, guest: Guest) -> None:
    builds = [site.force([*JOB, "stay", program], run_options=["--timeout-stop", "1s"]) for program in PROGRAMS]
    for build in builds:
        build.is_ready()
    print(f"reboot with four builds: {reboot(guest):.1f} s")
    for build in builds:  # done again; or systemd was quicker to end the command than the worker to lose it
        assert build.result() in (SUCCESS, FAILURE)
    nothing_is_left(guest)
    assert guest.run("pgrep -f 'tests/program[s]' || true") == ""
