"""Machines of other sorts, made with unshare(1) and mount(8): the cgroup backend works, or says why not.

None of them has a systemd: where one runs here, its directory is hidden (sd_booted(3)).
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import cgroups as tree
from support.programs import PATIENCE

from allgone import CgroupBackend
from allgone._linux import cgroupfs

WHICH = """
import allgone, logging, os
try:
    allgone.CgroupBackend()
except allgone.BackendUnavailable as e:
    print(e)
logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s", stream=os.fdopen(1, "w", closefd=False))
done = allgone.run(["sh", "-c", "sleep 1000 & grep 0:: /proc/self/cgroup"], capture_output=True)
print(done.report.backend, done.stdout.decode().strip())
if done.report.backend == "process-group":
    try:
        allgone.Popen(["true"], backend="cgroup")
    except allgone.BackendUnavailable:
        print("by name: unavailable")
"""


@pytest.fixture
def point(cgroups: CgroupBackend) -> str:
    """Where cgroup2 is mounted."""
    return cgroups._base.mount.point


@pytest.fixture
def own(cgroup_base: str) -> Iterator[str]:
    """A cgroup to start supervisors in."""
    folder = f"{cgroup_base}/own"
    os.mkdir(folder)
    yield folder
    tree.remove_all(folder)


def run(setup: str, flags: str = "", *, told: str = "", cgroup: str = "") -> list[str]:
    """Lines that WHICH prints in new namespaces (unshare's flags; one of mounts always), after a piece of shell."""
    enter = f'echo $$ > "{cgroup}/cgroup.procs" && ' if cgroup else ""
    hide = "[ ! -e /run/systemd/system ] || mount -t tmpfs none /run/systemd"
    shell = f'set -e; {hide}; {setup}\nexec "$@"'
    unshare = ["unshare", "--mount", *flags.split(), "sh", "-c", shell, "sh", sys.executable, "-c", WHICH]
    environment = {name: value for name, value in os.environ.items() if name != "ALLGONE_CGROUP"}
    done = subprocess.run(
        ["sh", "-c", f'{enter}exec "$@"', "sh", *unshare],
        capture_output=True, text=True, timeout=2 * PATIENCE, env={**environment, "ALLGONE_CGROUP": told},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def assert_falls_back(lines: list[str], because: str) -> None:
    assert because in lines[1], lines
    logged = next(line for line in lines if line.startswith("INFO"))
    assert logged == "INFO backend: process-group, because backend 'cgroup' is not available here:"
    assert lines[lines.index(logged) + 1] == lines[1], "auto names the same reason"
    assert lines[-2].startswith("process-group")
    assert lines[-1] == "by name: unavailable"


# Nothing that works


def test_no_cgroup2_at_all() -> None:
    assert_falls_back(run("umount -a -l -t cgroup2"), "cgroup v2: not mounted (mount -t cgroup2")


def test_a_read_only_mount(point: str) -> None:
    lines = run(f"mount -o remount,bind,ro {point}")
    assert_falls_back(lines, f"{point} is mounted read-only")


def test_a_base_told_in_a_read_only_mount(point: str, cgroup_base: str) -> None:
    lines = run(f"mount -o remount,bind,ro {point}", told=cgroup_base)
    assert_falls_back(lines, f"the cgroup given ({cgroup_base}): {point} is mounted read-only")


def test_a_mount_hidden_by_another_one(point: str, own: str) -> None:
    lines = run(f"mount -t tmpfs none {point}; mkdir -p {own}", cgroup=own)
    assert_falls_back(lines, "entering it: No such file or directory")


def test_outside_our_cgroup_namespace(point: str, own: str, cgroup_base: str) -> None:
    # The namespace begins where the supervisor was; then it is moved out of there.
    elsewhere = f"{cgroup_base}/elsewhere"
    os.mkdir(elsewhere)
    try:
        lines = run(f"echo $$ > {elsewhere}/cgroup.procs", "-C", cgroup=own)
    finally:
        tree.remove_all(elsewhere)
    assert_falls_back(lines, "it is outside our cgroup namespace")


def test_a_cgroup_namespace_without_a_mount_of_its_own(own: str) -> None:
    assert_falls_back(run("true", "-C", cgroup=own), "no cgroup2 mount shows it")


def test_a_base_told_that_is_no_directory() -> None:
    assert_falls_back(run("true", told="/nonexistent"), "the cgroup given (/nonexistent): no such directory")


def test_a_base_told_that_is_a_file_of_a_cgroup(cgroup_base: str) -> None:
    told = f"{cgroup_base}/cgroup.procs"
    assert_falls_back(run("true", told=told), f"the cgroup given ({told}): no such directory")


def test_a_base_told_that_is_not_in_cgroup2(tmp_path: Path, point: str) -> None:
    lines = run("true", told=str(tmp_path))
    assert_falls_back(lines, f"({tmp_path}): not in a cgroup2 file system")
    assert point in lines[1]


# What works


@pytest.mark.parametrize("name", ["blank and\ttab", "back\\slash", "line\nfeed", "\x0c\u2028", "umläut", r"\040"])
def test_an_odd_mount_point(tmp_path: Path, own: str, name: str) -> None:
    odd = tmp_path / name
    odd.mkdir()
    quoted = "'" + str(odd) + "'"
    lines = run(f"umount -a -l -t cgroup2; mount -t cgroup2 none {quoted}", cgroup=own)
    assert lines[0] == "INFO backend: cgroup"
    assert lines[1].startswith("cgroup 0::/"), lines
    assert "/own/allgone-" in lines[1]


def test_a_container_that_mounts_its_own_part(tmp_path: Path, own: str) -> None:
    lines = run(f"umount -a -l -t cgroup2; mount -t cgroup2 none {tmp_path}", "-C", cgroup=own)
    assert lines[1].startswith("cgroup 0::/allgone-")


def test_a_container_that_has_both_the_hosts_mount_and_its_own(tmp_path: Path, own: str) -> None:
    lines = run(f"mount -t cgroup2 none {tmp_path}", "-C", cgroup=own)
    assert lines[1].startswith("cgroup 0::/allgone-")


def test_a_bind_mount_that_shows_a_part(tmp_path: Path, point: str, own: str) -> None:
    lines = run(f"mount --bind {own} {tmp_path}; umount -l {point}", cgroup=own)
    assert lines[0] == "INFO backend: cgroup"
    assert "/own/allgone-" in lines[1]


def test_a_read_only_mount_beside_a_writable_one(tmp_path: Path, point: str, own: str) -> None:
    lines = run(f"mount --bind {point} {tmp_path}; mount -o remount,bind,ro {point}", cgroup=own)
    assert lines[0] == "INFO backend: cgroup"


def test_nothing_is_left_of_all_that(own: str) -> None:
    run("true", cgroup=own)
    assert [each.name for each in os.scandir(own) if each.is_dir()] == []
    assert not cgroupfs.populated(own)
