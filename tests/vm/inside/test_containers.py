"""User namespaces, and a rootless container: made by what we start, and around what we start."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest
from support.machine import environment, supervised

PODMAN = """
def podman(*options):
    return [*sys.argv[2:], "run", "--rm", "--network=none", *options, "--rootfs", sys.argv[1]]
"""


@pytest.fixture
def container(tmp_path: Path) -> tuple[str | Path, ...]:
    """A root directory in which busybox is all there is, and a podman with nothing else in its books."""
    busybox = shutil.which("busybox")
    assert busybox
    rootfs = tmp_path / "rootfs"
    for each in ("bin", "dev", "etc", "proc", "sys", "tmp", "run", "var/tmp"):
        (rootfs / each).mkdir(parents=True)
    shutil.copy(busybox, rootfs / "bin/sh")
    os.chmod(tmp_path, 0o755)
    runroot = tempfile.mkdtemp(dir="/tmp")  # of 50 characters at most; it goes with the guest
    books = [f"--root={tmp_path / 'root'}", f"--runroot={runroot}", f"--tmpdir={tmp_path / 'tmpdir'}"]
    (tmp_path / "runtime").mkdir()  # where rootless podman notes the process that it leaves behind for its next run
    return (rootfs, "env", f"XDG_RUNTIME_DIR={tmp_path / 'runtime'}", "podman", "--log-level=error", *books)


def test_a_tree_in_user_and_pid_namespaces_of_its_own_is_gone() -> None:
    code = """
inside = "mount -t proc proc /proc; setsid sh -c 'trap \\"\\" TERM; sleep 1000; sleep 1000' & sleep 1000"
words = ["unshare", "--user", "--map-root-user", "--pid", "--mount", "--fork", "sh", "-c", inside]
process = allgone.Popen(words)
until(lambda: len(process.members()) >= 5)
pidfds = held(process)
process.stop(allgone.StopPolicy(timeout_stop=0.2))
all_end(pidfds, 0)
"""
    supervised(code)


def test_a_container_that_podman_puts_below_us_is_gone_with_its_monitor(container: tuple[str | Path, ...]) -> None:
    code = (
        PODMAN
        + """
process = allgone.Popen([*podman("--cgroups=disabled"), "/bin/sh", "-c", "echo up; exec sleep 1000; : in-the-container"],
                        stdout=subprocess.PIPE, text=True)
assert process.stdout.readline() == "up\\n"
pidfds = held(process)
assert len(pidfds) >= 3  # podman, conmon, the container's
process.stop(allgone.StopPolicy(timeout_stop=0.5))
all_end(pidfds, 0)
"""
    )
    supervised(code, *container)


@pytest.mark.root
def test_a_container_that_systemd_is_asked_to_put_elsewhere_has_left(container: tuple[str | Path, ...]) -> None:
    """What is promised is what stayed. Podman passes SIGTERM on to its container, or is gone before it could."""
    code = (
        PODMAN
        + """
process = allgone.Popen([*podman(), "/bin/sh", "-c", "echo up; trap 'exit 0' TERM; while :; do sleep 0.1; done"],
                        stdout=subprocess.PIPE, text=True)
assert process.stdout.readline() == "up\\n"
pidfds = held(process)
report = process.stop(allgone.StopPolicy(timeout_stop=30))
assert not report.killed, report
all_end(pidfds, 0)
"""
    )
    try:
        supervised(code, *container)
    finally:  # what has left; podman complains of what was ended without it, and forgets it
        podman = [*container[1:], "rm", "--force", "--all", "--time=0"]
        subprocess.run(podman, env=environment(), check=False, capture_output=True)
