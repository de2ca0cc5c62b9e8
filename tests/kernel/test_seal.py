"""seal=True: the command's cgroup is all that it sees of cgroups. (That it can't leave it, tests/vm/inside shows: here the
kernel has no reason to hold it, for cgroup2 is mounted without nsdelegate on most machines of these tests.)"""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import allgone
from allgone import CgroupBackend
from allgone._linux import cgroupfs, cgroupns, launcher


@pytest.fixture
def _boundary(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if it were mounted with nsdelegate."""
    monkeypatch.setattr(cgroupns, "_is_boundary", lambda point: True)


@pytest.fixture(params=["compiled", "interpreted"])
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(launcher, "kind", lambda: request.param)
    return str(request.param)


LOOK = 'cd "$0"; grep ^0:: /proc/self/cgroup; echo */; grep -c cgroup2 /proc/self/mountinfo; mkdir inner; echo */; exec sleep 1000'


@pytest.mark.usefixtures("_boundary", "kind")
def test_its_own_cgroup_is_the_root_of_what_it_sees(cgroups: CgroupBackend) -> None:
    point = cgroups._base.mount.point
    before = Path("/proc/self/mountinfo").read_text()
    with allgone.Popen(["sh", "-c", LOOK, point], backend=cgroups, seal=True, stdout=subprocess.PIPE) as process:
        said = [process.stdout.readline().decode().strip() for _ in range(4)]
        assert said == ["0::/", "*/", said[2], "inner/"]
        assert os.path.isdir(f"{process._containment.where()}/inner")
        assert process.members() == {process.pid}
        assert Path("/proc/self/mountinfo").read_text() == before
        report = process.stop()
    assert report.returncode == -signal.SIGTERM


@pytest.mark.usefixtures("_boundary", "kind")
def test_the_machines_view_is_gone_and_not_just_covered(cgroups: CgroupBackend) -> None:
    point = cgroups._base.mount.point
    script = 'umount "$0" && ! mountpoint -q "$0" && ls -A "$0" | wc -l'
    done = allgone.run(["sh", "-c", script, point], backend=cgroups, seal=True, capture_output=True, check=True)
    assert done.stdout == b"0\n"


@pytest.mark.usefixtures("_boundary", "kind")
def test_its_descendants_are_members_wherever_they_hide_inside(cgroups: CgroupBackend) -> None:
    script = 'mkdir "$0/deep"; sh -c \'echo 0 >"$0/deep/cgroup.procs"; echo up; exec sleep 1000\' "$0" & wait'
    command = ["sh", "-c", script, cgroups._base.mount.point]
    with allgone.Popen(command, backend=cgroups, seal=True, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        assert len(process.members()) == 2
        process.stop()
    assert process.members() == frozenset()


@pytest.mark.usefixtures("_boundary", "kind")
def test_what_can_t_be_executed_is_told_as_ever(cgroups: CgroupBackend) -> None:
    with pytest.raises(FileNotFoundError):
        allgone.Popen(["no-such-command"], backend=cgroups, seal=True)


@pytest.mark.usefixtures("_boundary", "kind")
def test_a_seal_that_fails_means_that_nothing_was_run(
    cgroups: CgroupBackend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = cgroups.create(None, "touch")
    cgroups_mount = cgroups._base.mount._replace(point=str(tmp_path))  # where nothing is mounted
    assert process.remove()
    monkeypatch.setattr(cgroups._own_home(), "mount", cgroups_mount)
    with pytest.raises(allgone.PlacementFailed, match="can't be sealed in") as raised:
        allgone.Popen(["touch", str(tmp_path / "touched")], backend=cgroups, seal=True)
    assert raised.value.errno == errno.EINVAL
    assert list(tmp_path.iterdir()) == []


def test_without_nsdelegate_it_is_refused_with_the_reason(cgroups: CgroupBackend, tmp_path: Path) -> None:
    if cgroupns._is_boundary(cgroups._base.mount.point):
        pytest.skip("cgroup2 is mounted with nsdelegate here: tests/vm/inside/test_seal.py")
    with pytest.raises(allgone.Unsupported, match="without nsdelegate"):
        allgone.Popen(["touch", str(tmp_path / "touched")], backend=cgroups, seal=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("_boundary")
@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"user": 65534}, "seal=True with user="),
        ({"group": 65534}, "seal=True with group="),
        ({"backend": "process-group"}, "can't be sealed"),
    ],
    ids=str,
)
def test_what_can_t_be_sealed_is_refused(
    options: dict[str, object], why: str, cgroups: CgroupBackend, tmp_path: Path
) -> None:
    with pytest.raises(allgone.Unsupported, match=why):
        allgone.Popen(["touch", str(tmp_path / "touched")], **{"backend": cgroups, "seal": True, **options})
    assert list(tmp_path.iterdir()) == []


def test_without_the_capability_it_is_refused() -> None:
    code = "from allgone._linux import cgroupns; print(cgroupns.unavailable_because('/'))"
    without = ["setpriv", "--bounding-set=-sys_admin", sys.executable, "-c", code]
    assert "CAP_SYS_ADMIN" in subprocess.run(without, capture_output=True, text=True, check=True).stdout


@pytest.mark.usefixtures("_boundary", "kind")
def test_in_a_group_each_is_sealed_into_its_own(cgroups: CgroupBackend) -> None:
    with allgone.Group(backend=cgroups) as group:
        group.Popen(["sleep", "1000"])
        sealed = group.Popen(["cat", "/proc/self/cgroup"], seal=True, stdout=subprocess.PIPE)
        assert cgroupfs.own_cgroup(sealed.stdout.read().decode()) == "/"
