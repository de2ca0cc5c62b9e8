"""Which base the cgroup backend takes on machines of all sorts: each refusal names what was tried, why not, the fix."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from allgone import BackendUnavailable
from allgone._backends import cgroup_base
from allgone._backends.cgroup_base import Base

Machine = Callable[..., None]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Machine:
    """Makes this machine look like another one, with cgroup2 mounted at `tmp_path`/cgroup."""
    point = tmp_path / "cgroup"
    (point / "own").mkdir(parents=True)

    def pretend(
        *, own: str = "0::/own\n", options: str = "rw", root: str = "/", fstype: str = "cgroup2", systemd: bool = False
    ) -> None:
        files = {
            "/proc/self/mountinfo": f"35 24 0:30 {root} {point} {options} - {fstype} cgroup2 rw\n",
            "/proc/self/cgroup": own,
        }
        monkeypatch.setattr(cgroup_base, "open", lambda path, **_: io.StringIO(files[path]), raising=False)
        monkeypatch.setattr(cgroup_base.systemd, "is_running", lambda: systemd)
        monkeypatch.delenv("ALLGONE_CGROUP", raising=False)

    pretend()
    return pretend


def refusal(told: str | None = None) -> str:
    with pytest.raises(BackendUnavailable) as caught:
        cgroup_base.find(told)
    assert caught.value.backend == "cgroup"
    assert all(reason.tried and reason.why and reason.remedy for reason in caught.value.reasons)
    return str(caught.value)


def test_without_systemd_our_own_cgroup_is_taken(machine: Machine, tmp_path: Path) -> None:
    machine()
    base = cgroup_base.find()
    assert (base.folder, base.how) == (f"{tmp_path}/cgroup/own", "own")


@pytest.mark.parametrize(
    ("user", "own", "socket"),
    [
        (0, "/system.slice/ci.service", "/run/systemd/private"),
        (0, "/user.slice/user-0.slice/user@0.service/app.slice/x.service", "/run/user/0/systemd/private"),
        (1001, "/user.slice/user-1001.slice/session-3.scope", "/run/user/1001/systemd/private"),
    ],
)
def test_under_systemd_who_is_asked_for_a_scope(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, user: int, own: str, socket: str
) -> None:
    (tmp_path / "cgroup" / own[1:]).mkdir(parents=True)
    machine(systemd=True, own=f"0::{own}\n")
    monkeypatch.setattr(cgroup_base.systemd, "pystemd_missing_because", lambda: None)
    monkeypatch.setattr("os.geteuid", lambda: user)
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    base = cgroup_base.find()
    assert base.how == "scope"
    assert base.manager is not None
    assert base.manager.address == socket


def test_under_systemd_without_pystemd_it_says_how_to_install_it(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(systemd=True)
    monkeypatch.setattr(cgroup_base.systemd, "pystemd_missing_because", lambda: "No module named 'pystemd'")
    said = refusal()
    assert "pip install 'allgone[systemd]'" in said
    assert "libsystemd-dev" in said
    assert "Delegate=yes in the unit" in said


@pytest.mark.parametrize("attribute", ["trusted.delegate", "user.delegate"])
def test_under_systemd_a_delegated_cgroup_is_taken(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, attribute: str
) -> None:
    machine(systemd=True)

    def getxattr(_: str, name: str) -> bytes:
        if name != attribute:
            raise OSError(61, os.strerror(61))
        return b"1"

    monkeypatch.setattr(os, "getxattr", getxattr)
    assert cgroup_base.find().how == "delegated"


@pytest.mark.usefixtures("machine")
def test_inside_an_outer_allgone_the_cgroup_is_ours_to_divide(machine: Machine, tmp_path: Path) -> None:
    (tmp_path / "cgroup/allgone-7-abcd/1-worker").mkdir(parents=True)
    machine(own="0::/allgone-7-abcd/1-worker\n", systemd=True)
    assert cgroup_base.find().how == "nested"


def test_a_container_whose_mount_shows_a_part_only(machine: Machine, tmp_path: Path) -> None:
    machine(root="/docker/3f", own="0::/docker/3f/own\n")
    assert cgroup_base.find().folder == f"{tmp_path}/cgroup/own"


def test_outside_our_cgroup_namespace(machine: Machine) -> None:
    machine(own="0::/../x\n")
    assert "outside our cgroup namespace" in refusal()


def test_a_cgroup_that_no_mount_shows(machine: Machine) -> None:
    machine(own="0::/elsewhere\n")
    assert "no cgroup2 mount shows it" in refusal()


def test_a_deleted_cgroup_is_not_there_to_work_below(machine: Machine) -> None:
    machine(own="0::/removed (deleted)\n")
    assert "(/removed)" in refusal()


def test_no_cgroup_v2_line(machine: Machine) -> None:
    machine(own="4:memory:/x\n")
    assert "no 0:: line" in refusal()


def test_no_cgroup2_mount(machine: Machine) -> None:
    machine(fstype="cgroup")
    text = refusal()
    assert "cgroup v2: not mounted" in text
    assert "mount -t cgroup2" in text


def test_a_read_only_mount(machine: Machine) -> None:
    machine(options="ro,relatime")
    assert "mounted read-only" in refusal()


def test_a_base_that_is_told_wins_over_our_own(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(systemd=True)
    (tmp_path / "cgroup/told").mkdir()
    monkeypatch.setenv("ALLGONE_CGROUP", f"{tmp_path}/cgroup/told/")
    expected = (f"{tmp_path}/cgroup/told", "told")
    base = cgroup_base.find()
    assert (base.folder, base.how) == expected
    monkeypatch.setenv("ALLGONE_CGROUP", "/nonexistent")
    base = cgroup_base.find(f"{tmp_path}/cgroup/told")
    assert (base.folder, base.how) == expected


@pytest.mark.usefixtures("machine")
def test_a_told_base_that_does_not_exist(tmp_path: Path) -> None:
    assert "no such directory" in refusal(f"{tmp_path}/cgroup/absent")


@pytest.mark.usefixtures("machine")
def test_a_told_base_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "cgroup/file").touch()
    assert f"{tmp_path}/cgroup/file" in refusal(f"{tmp_path}/cgroup/file")


@pytest.mark.usefixtures("machine")
@pytest.mark.parametrize("elsewhere", ["", "cgroup2", "cgroup/../x"])
def test_a_told_base_that_is_not_in_cgroup2(tmp_path: Path, elsewhere: str) -> None:
    (tmp_path / "cgroup2").mkdir()
    (tmp_path / "x").mkdir()
    text = refusal(str(tmp_path / elsewhere))
    assert "not in a cgroup2 file system" in text
    assert f"{tmp_path}/cgroup" in text


@pytest.mark.usefixtures("machine")
def test_a_base_that_this_user_may_not_write_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert "not writable" in refusal()


def test_an_empty_variable_is_no_base(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine()
    monkeypatch.setenv("ALLGONE_CGROUP", "")
    found = cgroup_base.find()
    assert isinstance(found, Base)
    assert found.how == "own"


@pytest.mark.parametrize("code", [1, 11, 13, 16, 2, 19, 95])
def test_each_errno_of_a_placement_has_a_remedy(code: int) -> None:
    assert cgroup_base.placement_remedy(code) or code == 1
