"""A child that can't enter its cgroup: nothing is run, the errno and a remedy are named, nothing is left."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import cgroups as tree
from support.cgroupv2 import read, write
from support.launchers import Launcher
from support.tiers import missing

import allgone
from allgone import BackendUnavailable, CgroupBackend, PlacementFailed


@pytest.fixture
def controller(cgroup_base: str) -> Iterator[str]:
    """A controller that can be enabled below the base; what had to be enabled for that is put back."""
    above = os.path.dirname(cgroup_base)
    has = read(above, "cgroup.controllers").split()
    name = next((each for each in ("hugetlb", "pids", "memory", "io", "cpu") if each in has), None)
    if name is None:
        missing("no controller can be enabled here: cgroup v1 has them all")
    enabled = {each: read(each, "cgroup.subtree_control").split() for each in (above, cgroup_base)}
    try:
        for each in enabled:
            write(each, "cgroup.subtree_control", f"+{name}")
    except OSError as e:
        if e.errno != errno.EBUSY:
            raise
        missing(f"no controller can be enabled here: {above} has processes, as that of a login session")
    yield name
    for each in reversed(enabled):
        if name not in enabled[each]:
            write(each, "cgroup.subtree_control", f"-{name}")


@pytest.fixture
def ran(tmp_path: Path) -> Iterator[list[str]]:
    """A command that would leave a trace; there must be none at the end."""
    yield ["touch", str(tmp_path / "ran")]
    assert os.listdir(tmp_path) == []


def started_in(folder: str, cgroups: CgroupBackend, monkeypatch: pytest.MonkeyPatch, command: list[str]) -> None:
    """Start the command with a containment that is made to be that cgroup."""
    create = CgroupBackend.create

    def create_there(self: CgroupBackend, *words: Any, **options: Any) -> object:
        made = create(self, *words, **options)
        os.rmdir(made.where())
        made._folder = folder
        return made

    monkeypatch.setattr(CgroupBackend, "create", create_there)
    allgone.Popen(command, backend=cgroups)


@pytest.mark.usefixtures("launcher")
def test_ebusy_where_controllers_are_enabled_for_its_children(
    cgroup_base: str, cgroups: CgroupBackend, controller: str, monkeypatch: pytest.MonkeyPatch, ran: list[str]
) -> None:
    folder = f"{cgroup_base}/inner"
    os.mkdir(folder)
    try:
        write(folder, "cgroup.subtree_control", f"+{controller}")
        with pytest.raises(PlacementFailed, match=r"subtree_control") as caught:
            started_in(folder, cgroups, monkeypatch, ran)
    finally:
        tree.remove_all(folder)
    assert (caught.value.errno, caught.value.filename) == (errno.EBUSY, folder)


@pytest.mark.usefixtures("launcher")
def test_eopnotsupp_below_a_threaded_cgroup(
    cgroup_base: str, cgroups: CgroupBackend, monkeypatch: pytest.MonkeyPatch, ran: list[str]
) -> None:
    folder = f"{cgroup_base}/parent/threaded/below"
    os.makedirs(folder)
    try:
        write(os.path.dirname(folder), "cgroup.type", "threaded")
        with pytest.raises(PlacementFailed, match="threaded") as caught:
            started_in(folder, cgroups, monkeypatch, ran)
    finally:
        tree.remove_all(f"{cgroup_base}/parent")
    assert caught.value.errno == errno.EOPNOTSUPP


@pytest.mark.usefixtures("launcher")
def test_a_base_that_is_threaded_is_refused_by_the_rehearsal(cgroup_base: str) -> None:
    folder = f"{cgroup_base}/parent/threaded"
    os.makedirs(folder)
    try:
        write(folder, "cgroup.type", "threaded")
        with pytest.raises(BackendUnavailable, match="threaded cgroup; choose another base"):
            CgroupBackend(folder)
        assert [each.name for each in os.scandir(folder) if each.is_dir()] == []
    finally:
        tree.remove_all(f"{cgroup_base}/parent")


@pytest.mark.usefixtures("launcher")
@pytest.mark.parametrize("limit", ["cgroup.max.descendants", "cgroup.max.depth"])
def test_a_base_below_which_no_cgroup_may_be_made_is_refused_by_the_rehearsal(cgroup_base: str, limit: str) -> None:
    folder = f"{cgroup_base}/full"
    os.mkdir(folder)
    try:
        write(folder, limit, "0")
        with pytest.raises(BackendUnavailable, match="mkdir: Resource temporarily unavailable"):
            CgroupBackend(folder)
    finally:
        os.rmdir(folder)


def test_a_child_that_was_not_placed_is_reaped_and_its_pipes_closed(
    launcher: Launcher, cgroup_base: str, cgroups: CgroupBackend, monkeypatch: pytest.MonkeyPatch, ran: list[str]
) -> None:
    # The leak check judges: fds, zombies, cgroups.
    folder = f"{cgroup_base}/parent/threaded/below"
    os.makedirs(folder)
    try:
        write(os.path.dirname(folder), "cgroup.type", "threaded")
        for _ in range(5):
            with monkeypatch.context() as patch, pytest.raises(PlacementFailed):
                started_in(folder, cgroups, patch, ran)
    finally:
        tree.remove_all(f"{cgroup_base}/parent")


def test_where_pids_are_exhausted_the_remedy_names_the_limit() -> None:
    from allgone._backends.cgroup_base import placement_remedy

    assert "pids.max" in placement_remedy(errno.EAGAIN)
