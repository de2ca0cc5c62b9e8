"""Somebody else removes our cgroup directories at every moment when that can be done."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from support import cgroups as tree
from support.cgroupv2 import Start, folder_of, write
from support.launchers import Launcher

import allgone
from allgone import BackendUnavailable, CgroupBackend, PlacementFailed, StopPolicy
from allgone._backends.cgroup_containment import CgroupContainment

AT_ONCE = StopPolicy(timeout_stop=0)
pytestmark = pytest.mark.usefixtures("launcher")


@pytest.fixture
def trace(tmp_path: Path) -> Iterator[list[str]]:
    """A command that would leave a trace; there must be none at the end."""
    yield ["touch", str(tmp_path / "ran")]
    assert os.listdir(tmp_path) == []


def test_our_empty_directory_removed_between_two_starts_is_made_again(cgroup_base: str) -> None:
    backend = CgroupBackend(cgroup_base, guard=False)  # else the guard is in it, and it can't be removed
    with allgone.Popen(["true"], backend=backend) as process:
        home = os.path.dirname(process._containment.where())
    os.rmdir(home)
    assert allgone.run(["true"], backend=backend).returncode == 0
    backend.close()


def test_a_base_removed_before_the_start_is_a_backend_unavailable(cgroup_base: str, trace: list[str]) -> None:
    base = f"{cgroup_base}/own-base"
    os.mkdir(base)
    backend = CgroupBackend(base, try_it=False)
    os.rmdir(base)
    with pytest.raises(BackendUnavailable, match="it has vanished"):
        allgone.Popen(trace, backend=backend)
    backend.close()


def test_a_base_removed_and_made_again_is_used_again(cgroup_base: str) -> None:
    base = f"{cgroup_base}/own-base"
    os.mkdir(base)
    backend = CgroupBackend(base, try_it=False)
    os.rmdir(base)
    os.mkdir(base)
    try:
        assert allgone.run(["true"], backend=backend).returncode == 0
        backend.close()
    finally:
        os.rmdir(base)


def test_removed_before_the_spawn_is_a_placement_that_failed_not_a_missing_command(
    cgroups: CgroupBackend, monkeypatch: pytest.MonkeyPatch, trace: list[str]
) -> None:
    create = CgroupBackend.create

    def create_and_remove(self: CgroupBackend, *words: Any, **options: Any) -> CgroupContainment:
        made = create(self, *words, **options)
        os.rmdir(made.where())
        return made

    monkeypatch.setattr(CgroupBackend, "create", create_and_remove)
    with pytest.raises(PlacementFailed, match="somebody removed the cgroup") as caught:
        allgone.Popen(trace, backend=cgroups)
    assert caught.value.errno == errno.ENOENT
    assert not isinstance(caught.value, FileNotFoundError)


@pytest.mark.parametrize("same_process", [True, False], ids=["entered", "born in"])
def test_removed_while_the_child_is_on_its_way_is_a_placement_that_failed(
    cgroups: CgroupBackend, monkeypatch: pytest.MonkeyPatch, trace: list[str], same_process: bool
) -> None:
    command = CgroupContainment.command

    @contextmanager
    def command_and_remove(self: CgroupContainment, *words: Any, **options: Any) -> Iterator[Any]:
        with command(self, *words, **{**options, "same_process": same_process}) as made:
            os.rmdir(self.where())
            yield made

    monkeypatch.setattr(CgroupContainment, "command", command_and_remove)
    with pytest.raises(PlacementFailed, match="somebody removed the cgroup") as caught:
        allgone.Popen(trace, backend=cgroups)
    assert caught.value.errno in (errno.ENODEV, errno.ENOENT)


SLEEP = "from unruly import *\nhere('leader')\nready()\nsleep_on()"


@pytest.mark.parametrize("policy", [AT_ONCE, StopPolicy()], ids=["at once", "asked"])
def test_removed_before_the_stop_is_a_stop(start: Start, policy: StopPolicy) -> None:
    # It can be removed only when nobody is in it: the members are moved out, as only root can.
    started = start(SLEEP)
    folder = folder_of(started)
    write(os.path.dirname(os.path.dirname(folder)), "cgroup.procs", str(started.process.pid))
    os.rmdir(folder)
    report = started.stop(policy)
    assert started.all_gone(), "the leader is a child of ours all the same, and is meant"
    assert report.returncode in (-9, -15)


def test_removed_after_the_end_of_the_leader_is_a_stop(start: Start) -> None:
    started = start("from unruly import *\nhere('leader')\nready()")
    assert started.process.wait() == 0
    tree.remove_all(started.process._containment.where())
    assert started.stop().returncode == 0


def test_members_and_signals_and_kill_of_a_vanished_cgroup_are_no_errors(cgroups: CgroupBackend) -> None:
    containment = cgroups.create("gone", "x")
    os.rmdir(containment.where())
    assert containment.members() == frozenset()
    assert containment.signal(15) == frozenset()
    containment.resume()
    containment.kill()
    containment.kill_each()
    with containment.watch() as watch:
        assert watch.emptied()
        watch.fileno()
        assert watch.emptied()
    assert containment.remove()
    assert containment.remove()


def test_removed_while_it_is_watched_counts_as_emptied(cgroups: CgroupBackend) -> None:
    containment = cgroups.create("gone", "x")
    with containment.watch() as watch:
        watch.fileno()
        assert watch.emptied()
        os.rmdir(containment.where())
        assert watch.emptied()
    assert containment.remove()


def test_a_file_of_a_cgroup_removed_while_it_is_open_says_enodev(cgroups: CgroupBackend, launcher: Launcher) -> None:
    containment = cgroups.create("gone", "x")
    with open(containment.where() + "/cgroup.procs", "rb", buffering=0) as procs:
        os.rmdir(containment.where())
        with pytest.raises(OSError, match="No such device"):
            procs.read()
    assert containment.remove()
