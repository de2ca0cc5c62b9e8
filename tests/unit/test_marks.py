"""Marks on directories: what was noted is read back, and what anybody else may have written there does no harm."""

from __future__ import annotations

import errno
import math
import os
from pathlib import Path

import pytest
from support.tiers import missing

from allgone._backends import marks
from allgone._backends.marks import CONTAINMENT, LEADER, OWNER, POLITE, RELEASED, Noted, Owner
from allgone._core.policy import StopPolicy


@pytest.fixture
def folder(tmp_path: Path) -> str:
    """An ordinary directory will do."""
    try:
        os.setxattr(tmp_path, "user.allgone.test", b"1")
    except OSError as e:
        missing(f"no xattrs in {tmp_path}: {e.strerror}")
    return str(tmp_path)


def test_without_marks_nothing_is_known(folder: str) -> None:
    assert marks.owner(folder) is None
    assert marks.containment(folder) is None
    assert marks.leader(folder) == 0
    assert not marks.is_released(folder)


def test_of_a_directory_that_is_not_there_nothing_is_known(tmp_path: Path) -> None:
    gone = f"{tmp_path}/gone"
    assert marks.owner(gone) is None
    assert marks.containment(gone) is None
    assert marks.leader(gone) == 0
    assert not marks.is_released(gone)


def test_an_owner_is_known_by_pid_start_and_namespace(folder: str) -> None:
    marks.note_owner(folder)
    owner = marks.owner(folder)
    assert owner is not None
    assert owner.pid == os.getpid()
    assert owner.is_here()
    assert owner.is_alive()


def test_another_process_can_be_noted_as_the_owner(folder: str) -> None:
    marks.note_owner(folder, os.getppid())
    owner = marks.owner(folder)
    assert owner is not None
    assert owner.pid == os.getppid()
    assert owner.is_alive()


@pytest.mark.parametrize("origin", ["/sys/fs/cgroup/a b", "/sys/fs/cgroup/\udcff"])
def test_a_job_is_known_by_where_its_owner_came_from(origin: str, folder: str) -> None:
    assert marks.origin_of_job(folder) == ""
    marks.note_job(folder, origin)
    assert marks.origin_of_job(folder) == origin


def test_a_job_of_an_unknown_version_is_none(folder: str) -> None:
    os.setxattr(folder, marks.JOB, b"2 /sys/fs/cgroup/a")
    assert marks.origin_of_job(folder) == ""


def test_an_owner_is_not_alive_by_its_number_alone(folder: str) -> None:
    marks.note_owner(folder)
    owner = marks.owner(folder)
    assert owner is not None
    assert not owner._replace(started=owner.started + 1).is_alive()
    assert not owner._replace(pid_namespace=owner.pid_namespace + 1).is_alive()
    assert not owner._replace(pid_namespace=owner.pid_namespace + 1).is_here()


def test_the_owner_is_noted_anew_in_a_fork(folder: str) -> None:
    marks.note_owner(folder)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            marks.note_owner(folder)
            owner = marks.owner(folder)
            status = 0 if owner is not None and owner.pid == os.getpid() and owner.is_alive() else 1
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
    owner = marks.owner(folder)
    assert owner is not None
    assert owner.pid == child
    assert not owner.is_alive()


def test_a_containment_is_read_as_it_was_noted(folder: str) -> None:
    policy = StopPolicy(kill_mode="mixed", timeout_stop=2.5, guard_timeout=math.inf, kill_signal=2, send_sighup=True)
    marks.note_containment(folder, policy, ["sh", b"-c", Path("/x y"), "", "caf\u00e9", 7])
    noted = marks.containment(folder)
    assert noted is not None
    assert noted.policy == policy
    assert noted.command == ("sh", "-c", "/x y", "", "caf\u00e9", "?")
    assert noted.since > 1e9


@pytest.mark.parametrize("argv", [["x" * 5000], ["\u00e9" * 900], ["x"] * 9000, [b"\xff" * 2000]])
def test_a_long_command_is_cut(folder: str, argv: list[str]) -> None:
    marks.note_containment(folder, StopPolicy(), argv)
    noted = marks.containment(folder)
    assert noted is not None
    assert len(os.fsencode(" ".join(noted.command))) <= 1000
    assert os.fsencode(argv[0]).startswith(os.fsencode(noted.command[0]))


def test_a_leader_and_a_release_are_read_as_they_were_noted(folder: str) -> None:
    marks.note_leader(folder, 4711)
    assert marks.leader(folder) == 4711
    marks.note_released(folder)
    assert marks.is_released(folder)
    marks.note_polite(folder)
    assert os.getxattr(folder, POLITE) == b"1"


# What others have written

LONG = b"9" * 300
OWNERS = [
    b"",
    b"1",
    b"2 1 1 1",
    b"1 1 1",
    b"1 1 1 1 1",
    b"1  1 1",
    b"1 x 1 1",
    b"1 1.5 1 1",
    b"\xff\xfe \0 1 1",
    b"1 1 1 " + LONG,
    b"1 " + LONG + b" 1 1",
    b"1 " + b"9" * 3000 + b" 1 1",
    b"1 -1 0 1",
    b"1 0 0 1",
    b"1 ../self 0 1",
    b"1" * 3000,
]


@pytest.mark.parametrize("text", OWNERS, ids=lambda text: str(text[:20]))
def test_an_owner_that_makes_no_sense_is_none_or_at_least_not_alive(folder: str, text: bytes) -> None:
    here = b"%d" % os.stat("/proc/self/ns/pid").st_ino
    for each in (text, text[:-1] + here if text.endswith(b" 1") else text):
        os.setxattr(folder, OWNER, each)
        owner = marks.owner(folder)
        assert owner is None or not owner.is_alive()


def test_an_owner_with_a_number_that_no_process_can_have_is_none(folder: str) -> None:
    for pid in (-1, 0, (1 << 22) + 1, int(LONG)):
        os.setxattr(folder, OWNER, b"1 %d 1 1" % pid)
        assert marks.owner(folder) is None


CONTAINMENTS = [
    b"",
    b"1",
    b"1 \0",
    b"2 1700000000.000 0 15 0 10 0\0sh",
    b"1 yesterday 0 15 0 10 0\0sh",
    b"1 nan 0 15 0 10 0\0sh",
    b"1 inf 0 15 0 10 0\0sh",
    b"1 -inf 0 15 0 10 0\0sh",
    b"1 1e400 0 15 0 10 0\0sh",
    b"1 1 9 15 0 10 0\0sh",
    b"1 1 -1 15 0 10 0\0sh",
    b"1 1 0 0 0 10 0\0sh",
    b"1 1 0 99 0 10 0\0sh",
    b"1 1 0 15 0 nan 0\0sh",
    b"1 1 0 15 0 -1 0\0sh",
    b"1 1 0 15 0 10\0sh",
    b"1 1 0 15 0 10 0 0\0sh",
    b"\xff\xfe\xfd",
    b"1 1 \xff 15 0 10 0\0sh",
    b"9" * 3000,
]


@pytest.mark.parametrize("text", CONTAINMENTS, ids=lambda text: str(text[:30]))
def test_a_containment_that_makes_no_sense_is_none(folder: str, text: bytes) -> None:
    os.setxattr(folder, CONTAINMENT, text)
    assert marks.containment(folder) is None


def test_of_a_containment_without_a_command_the_rest_is_known(folder: str) -> None:
    os.setxattr(folder, CONTAINMENT, b"1 17 0 15 0 10 0")
    assert marks.containment(folder) == Noted(17.0, StopPolicy(), ("",))


@pytest.mark.parametrize("text", [b"", b"-1", b"1.5", b" 1", b"\xff", b"\xb2", LONG, b"9" * 3000, b"4194305", b"0"])
def test_a_leader_that_can_be_no_pid_is_none(folder: str, text: bytes) -> None:
    os.setxattr(folder, LEADER, text)
    found = marks.leader(folder)
    assert found <= 4194304, "no Linux has more (proc_sys_kernel(5), pid_max)"
    assert found >= 0


def test_a_release_by_another_version_is_one(folder: str) -> None:
    os.setxattr(folder, RELEASED, b"2")
    assert marks.is_released(folder)


# Where there are no xattrs


@pytest.fixture(params=[errno.EOPNOTSUPP, errno.EPERM], ids=lambda code: errno.errorcode[code])
def without_xattrs(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a cgroup before Linux 5.7."""

    def refuse(folder: str, name: str, value: bytes = b"") -> bytes:
        raise OSError(request.param, os.strerror(request.param), folder)

    monkeypatch.setattr(os, "setxattr", refuse)
    monkeypatch.setattr(os, "getxattr", refuse)


@pytest.mark.usefixtures("without_xattrs")
def test_without_xattrs_nothing_is_noted_and_nothing_fails(tmp_path: Path) -> None:
    folder = str(tmp_path)
    marks.note_owner(folder)
    marks.note_containment(folder, StopPolicy(), ["true"])
    marks.note_leader(folder, 1)
    marks.note_polite(folder)
    marks.note_released(folder)
    assert marks.owner(folder) is None
    assert marks.containment(folder) is None
    assert marks.leader(folder) == 0
    assert not marks.is_released(folder)


def test_only_where_there_can_be_no_mark_it_is_said_that_there_can_be_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A janitor takes a directory that can have no mark for a supervisor's; so who can't tell leaves it alone."""
    for code in (errno.EOPNOTSUPP, errno.ENODATA, errno.EPERM, errno.ENOMEM, errno.EACCES):

        def refuse(*_: object, code: int = code) -> None:
            raise OSError(code, os.strerror(code))

        monkeypatch.setattr(os, "getxattr", refuse)
        assert marks.owner_could_be_noted(str(tmp_path)) == (code != errno.EOPNOTSUPP)


def test_of_a_directory_that_only_its_user_may_read_nothing_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another user's, with a umask of 077."""

    def refuse(*_: object) -> None:
        raise OSError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(os, "getxattr", refuse)
    assert marks.owner(str(tmp_path)) is None
    assert marks.containment(str(tmp_path)) is None
    assert not marks.is_released(str(tmp_path))


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.E2BIG])
def test_where_there_is_no_room_for_a_mark_it_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "setxattr", refuse)
    marks.note_owner(str(tmp_path))


def test_an_error_of_another_kind_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "setxattr", refuse)
    monkeypatch.setattr(os, "getxattr", refuse)
    with pytest.raises(OSError, match="Input/output"):
        marks.note_owner(str(tmp_path))
    with pytest.raises(OSError, match="Input/output"):
        marks.owner(str(tmp_path))


def test_an_owner_is_compared_by_value() -> None:
    assert Owner(1, 2, 3) == Owner(1, 2, 3)
