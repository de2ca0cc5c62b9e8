"""What another version of allgone has left: an older one's is understood, a newer one's is left alone, and said to be.

What the first version wrote is written here by hand, byte for byte. It stays as it is when the formats change: then their
versions become others, and what is read here must still be read (docs/releasing.md).
"""

from __future__ import annotations

import json
import os
import re
import signal
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support import cgroups, procfs
from support.programs import PATIENCE, PROGRAMS, Lines

from allgone._backends import marks
from allgone._core.policy import StopPolicy
from allgone._linux import guard, launcher, processes, register
from allgone._linux.register import GroupEntry, Register

NOBODY = 4194000  # a pid that the kernel gives out last of all
HERE = os.stat("/proc/self/ns/pid").st_ino
POLICY = b"0 10 0 5 2.5"  # control-group, SIGUSR1, no SIGHUP, timeout_stop, guard_timeout
MARKS = {
    "owner": b"1 %d 17 %d" % (NOBODY, HERE),
    "containment": b"1 1700000000.250 " + POLICY + b"\0sleep\x00100",
    "leader": b"%d",
    "polite": b"1",
    "released": b"1",
}
PAGE, GROUPS_AT = 4096, 1025 * 4096
GUARD = str(Path(guard.__file__).parents[1] / "_upkeep/guard.py")
STAND_IN = """
import os, signal, sys
os.dup2(int(sys.argv[1]), 9)
os.execv(sys.executable, ["allgone-guard", "-c", "import signal; print('ready', flush=True); signal.pause()", "7", "9",
                          "-", "guard.py", "9", sys.argv[2]])
"""


@pytest.fixture
def place(cgroup_base: str) -> Iterator[str]:
    folder = f"{cgroup_base}/place"
    os.mkdir(folder)
    yield folder
    cgroups.remove_all(folder)


@pytest.fixture
def point(tmp_path: Path) -> Path:
    made = tmp_path / "point"
    made.mkdir()
    return made


@pytest.fixture
def ask(place: str, point: Path) -> Callable[..., tuple[str, str]]:
    """`allgone`, which sees no other cgroups than those below `place`; what it prints, and what on stderr."""

    def run(*words: str, before: tuple[str, ...] = ()) -> tuple[str, str]:
        done = subprocess.run(
            [*before, "sh", str(PROGRAMS / "only_here.sh"), place, str(point), sys.executable, "-m", "allgone", *words],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout.replace(str(point), place), done.stderr.replace(str(point), place)

    return run


class Left:
    """A home as a supervisor of that version would have left it, and in it a containment with a process."""

    def __init__(self, place: str, owner: bytes = MARKS["owner"], *, empty: bool = False) -> None:
        self.home = f"{place}/allgone-{NOBODY}-0123abcd"
        self.containment = f"{self.home}/1-sleep"
        for folder in (self.home, f"{self.home}/guard", self.containment):
            os.mkdir(folder)
        os.setxattr(self.home, "user.allgone.owner", owner)
        os.setxattr(self.containment, "user.allgone.containment", MARKS["containment"])
        os.setxattr(self.containment, "user.allgone.polite", MARKS["polite"])
        self.process = subprocess.Popen(["sleep", "100"])
        if not empty:
            cgroups.write(f"{self.containment}/cgroup.procs", str(self.process.pid))
        os.setxattr(self.containment, "user.allgone.leader", MARKS["leader"] % self.process.pid)

    def is_untouched(self) -> bool:
        return os.path.isdir(self.containment) and self.process.poll() is None

    def __enter__(self) -> Left:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()


class Groups:
    """A process with the tag of a process-group containment, and a register that has it."""

    def __init__(self, version: int = 1) -> None:
        self.tag = (1 << 61 | int.from_bytes(os.urandom(6), "big"), 1 << 62 | 7)
        self.process = subprocess.Popen(["sleep", "100"], start_new_session=True)
        subprocess.run(
            ["prlimit", f"--locks={self.tag[0]}:{self.tag[1]}", f"--pid={self.process.pid}"], check=True
        )  # fmt: skip
        self.register = os.memfd_create("register")
        os.pwrite(self.register, struct.pack("=II", version, 0), 0)
        os.pwrite(self.register, group(self.tag, self.process.pid), GROUPS_AT)

    @contextmanager
    def guarded(self) -> Iterator[int]:
        """By a process that passes for the guard of a supervisor, whose pid is its own; that pid."""
        reader, writer = os.pipe()
        lines = Lines(reader)
        words = [sys.executable, "-c", STAND_IN, str(self.register), str(NOBODY)]
        with subprocess.Popen(words, stdout=writer, pass_fds=[self.register]) as stand_in:
            os.close(writer)
            try:
                lines.wait_for("ready")
                yield stand_in.pid
            finally:
                stand_in.kill()
                lines.close()

    def __enter__(self) -> Groups:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.register)
        self.process.kill()
        self.process.wait()


def group(tag: tuple[int, int], leader: int) -> bytes:
    """An entry of the register: tags, leader, flags (1: session), since, policy, name."""
    packed = struct.pack("=QQiBd40s128s", *tag, leader, 1, 1700000000.25, POLICY, b"1-sleep")
    return packed.ljust(256, b"\0")


def run_guard(of: int, *words: str) -> int:
    """What a guard of any version runs when its supervisor is gone; the exit status."""
    command = [sys.executable, "-I", "-S", GUARD, str(of), str(NOBODY), *words]
    return subprocess.run(command, pass_fds=[of], timeout=60, check=False).returncode


# What the first version wrote is understood


def test_an_old_home_is_shown_with_all_that_is_known_of_it(place: str, ask: Callable[..., tuple[str, str]]) -> None:
    with Left(place) as left:
        out, errors = ask("ps", "--json")
        assert errors == ""
        (found,) = (each for each in json.loads(out) if each["where"] == left.containment)
        assert (found["name"], found["backend"], found["state"]) == ("1-sleep", "cgroup", "stale")
        assert (found["owner"], found["since"], found["command"]) == (NOBODY, 1700000000.25, "sleep 100")
        assert [each["pid"] for each in found["members"]] == [left.process.pid]
        assert left.is_untouched()


def test_an_old_home_is_swept(place: str, ask: Callable[..., tuple[str, str]]) -> None:
    with Left(place) as left:
        out, _ = ask("gc", "--dry-run")
        assert out.startswith(f"would remove {left.home}, of process {NOBODY}, which is gone: sleep (pid")
        assert left.is_untouched()
        out, _ = ask("gc")
        assert out.startswith(f"removed {left.home}, of process {NOBODY}, which is gone: sleep (pid")
        assert left.process.wait(PATIENCE) == -signal.SIGKILL
        assert not os.path.exists(left.home)


def test_an_old_containment_is_stopped_by_its_own_policy(place: str, ask: Callable[..., tuple[str, str]]) -> None:
    with Left(place) as left:
        out, _ = ask("stop", f"{os.path.basename(left.home)}/1-sleep")
        assert out == f"stopped {os.path.basename(left.home)}/1-sleep\n"
        assert left.process.wait(PATIENCE) == -signal.SIGUSR1


def test_what_an_old_one_released_is_nobodys_to_end(place: str, ask: Callable[..., tuple[str, str]]) -> None:
    with Left(place) as left:
        os.setxattr(left.containment, "user.allgone.released", MARKS["released"])
        out, _ = ask("gc")
        assert left.home not in out
        assert left.is_untouched()


def test_old_process_groups_are_shown_and_ended(ask: Callable[..., tuple[str, str]]) -> None:
    with Groups() as groups, groups.guarded():
        out, errors = ask("ps", "--json")
        assert errors == ""
        (found,) = (each for each in json.loads(out) if each["id"] == f"{NOBODY}/1-sleep")
        assert (found["backend"], found["since"]) == ("process-group", 1700000000.25)
        assert [each["pid"] for each in found["members"]] == [groups.process.pid]
        ask("stop", f"{NOBODY}/1-sleep")
        assert groups.process.wait(PATIENCE) == -signal.SIGUSR1


def test_an_old_guard_that_finds_a_new_package_has_its_work_done(place: str) -> None:
    """The package may have been replaced between the supervisor's start and its end."""
    with Groups() as groups, Left(place) as left:
        os.pwrite(groups.register, struct.pack("=II", 1, 1), 0)
        os.pwrite(groups.register, struct.pack("=Q", os.stat(left.home).st_ino) + os.fsencode(left.home), PAGE)
        assert run_guard(groups.register) == 0
        assert groups.process.wait(PATIENCE) == -signal.SIGUSR1
        assert left.process.wait(PATIENCE) == -signal.SIGUSR1


@pytest.mark.parametrize("kind", ["compiled", "interpreted"])
def test_a_launcher_takes_the_arguments_of_old(kind: str, place: str) -> None:
    """A supervisor from before an upgrade starts the launcher and the guard that it finds after it."""
    procs = os.open(f"{place}/cgroup.procs", os.O_WRONLY)
    reader, writer = os.pipe()
    source = Path(launcher.COMPILED).with_name("interpreted_launcher.py").read_text()
    before = [launcher.COMPILED] if kind == "compiled" else [sys.executable, "-I", "-S", "-c", source, "-"]
    words = [str(writer), str(procs), "-", "-", f"{1 << 61 | 5}:{1 << 62 | 7}", "-", "cat", "cat", "/proc/self/cgroup"]
    try:
        done = subprocess.run(
            [*before, *words], pass_fds=[procs, writer], capture_output=True, text=True, timeout=60, check=False
        )
        os.close(writer)
        assert os.read(reader, 64) == b""  # no failure
    finally:
        os.close(reader)
        os.close(procs)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"{place.rpartition('/')[2]}\n" in done.stdout


@pytest.mark.parametrize("kind", ["compiled", "interpreted"])
def test_a_guard_takes_the_arguments_of_old_and_ends_what_an_old_register_says(kind: str, place: str) -> None:
    before = [guard.COMPILED] if kind == "compiled" else [sys.executable, "-I", "-S", guard.INTERPRETED]
    supervisor = subprocess.Popen(["sleep", "100"])
    reader, writer = os.pipe()
    pipe, end = os.pipe()
    held = os.pidfd_open(supervisor.pid)
    with Groups() as groups, Left(place) as left:
        os.pwrite(groups.register, struct.pack("=II", 1, 1), 0)
        os.pwrite(groups.register, struct.pack("=Q", os.stat(left.home).st_ino) + os.fsencode(left.home), PAGE)
        fds = [writer, pipe, held, groups.register]
        program = [sys.executable, "-I", "-S", GUARD, str(groups.register), str(supervisor.pid)]
        try:
            subprocess.run([*before, *map(str, fds), place, *program], pass_fds=fds, timeout=60, check=True)
            stage, pid = struct.unpack("=ii", os.read(reader, 8))
            assert stage == 5
            supervisor.kill()
            assert left.process.wait(PATIENCE) == -signal.SIGUSR1
            assert groups.process.wait(PATIENCE) == -signal.SIGUSR1
            assert procfs.ends_within(pid, PATIENCE)
        finally:
            supervisor.kill()
            supervisor.wait()
            for fd in (reader, writer, pipe, end, held):
                os.close(fd)


# What is written today is what the first version wrote


def test_marks_are_written_as_of_old(place: str) -> None:
    """Should this fail: the format has changed. Give it a version of its own, and go on reading the old one."""
    policy = StopPolicy(kill_signal=signal.SIGUSR1, timeout_stop=5, guard_timeout=2.5)
    marks.note_owner(place)
    marks.note_containment(place, policy, ["sleep", "100"])
    marks.note_leader(place, 4711)
    marks.note_polite(place)
    marks.note_released(place)
    written = {name: os.getxattr(place, f"user.allgone.{name}") for name in MARKS}
    assert re.fullmatch(rb"1 %d \d+ %d" % (os.getpid(), HERE), written["owner"])
    containment = re.sub(rb"^1 \d{10}\.\d{3} ", b"1 1700000000.250 ", written["containment"])
    assert containment == MARKS["containment"]
    assert written["leader"] == b"4711"
    assert (written["polite"], written["released"]) == (b"1", b"1")


def test_a_register_is_written_as_of_old() -> None:
    made = Register()
    try:
        made.home_made(made.add_home("/sys/fs/cgroup/x"), 99)
        entry = GroupEntry("1-sleep", (1 << 61 | 5, 1 << 62 | 7), 4711, True, False, 1700000000.25, POLICY)
        made.add_group(entry)
        assert os.pread(made.fileno(), 8, 0) == struct.pack("=II", 1, 1)
        assert os.pread(made.fileno(), PAGE, PAGE) == (struct.pack("=Q", 99) + b"/sys/fs/cgroup/x").ljust(PAGE, b"\0")
        assert os.pread(made.fileno(), 256, GROUPS_AT) == group((1 << 61 | 5, 1 << 62 | 7), 4711)
    finally:
        made.close()


def test_tags_are_of_the_same_bits_as_of_old() -> None:
    assert processes.is_tag(1 << 61)
    assert processes.is_tag((1 << 63) - 1)
    assert not processes.is_tag((1 << 61) - 1)
    assert not processes.is_tag(1 << 63)


# What a newer version has made is left alone

NEWER = [b"2 of a kind that nobody knows yet", b"2", b"17 \xff\0\1"]
UNKNOWN = "of version {}, which this allgone does not know"


@pytest.mark.parametrize("owner", NEWER, ids=["words", "bare", "bytes"])
@pytest.mark.parametrize("empty", [False, True], ids=["populated", "empty"])
def test_a_newer_home_is_left_alone_and_that_is_said(
    place: str, ask: Callable[..., tuple[str, str]], owner: bytes, empty: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    from allgone._upkeep import janitor

    monkeypatch.setattr(janitor, "_FRESH", -1.0)  # it is old, and nobody holds its lock
    with Left(place, owner, empty=empty) as left:
        said = f"{left.home}: its mark is {UNKNOWN.format(int(owner.split()[0]))}\n"
        for words in (["gc", "--dry-run"], ["gc"]):
            out, _ = ask(*words)
            assert f"left alone: {said}" in out
            assert "remove" not in out
        out, errors = ask("ps")
        assert errors == f"allgone: not shown: {said}"
        assert left.home not in out
        janitor.sweep_beside(f"{place}/allgone-{os.getpid()}-00000000")
        assert left.is_untouched()


def test_a_newer_home_is_not_killed_with_all_others(place: str, ask: Callable[..., tuple[str, str]]) -> None:
    alone = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")  # all that --all reaches is in there
    with Left(place, NEWER[0]) as left:
        out, errors = ask("kill", "--all", before=alone)
        assert out == ""
        assert errors == f"allgone: left alone: {left.home}: its mark is {UNKNOWN.format(2)}\n"
        assert left.is_untouched()


def test_a_mark_that_is_no_versions_is_nobodys(place: str) -> None:
    for text in (b"", b"x 1", b"-2 1", b"1 x", b"9" * 300, b"\xb2 1"):
        os.setxattr(place, "user.allgone.owner", text)
        assert marks.unknown_version(place) == ""


def test_newer_process_groups_are_left_alone_and_that_is_said(ask: Callable[..., tuple[str, str]]) -> None:
    with Groups(version=2) as groups, groups.guarded():
        said = f"process groups of process {NOBODY}: its guard's register is {UNKNOWN.format(2)}\n"
        assert ask("ps")[1] == f"allgone: not shown: {said}"
        out, _ = ask("gc")
        assert f"left alone: {said}" in out
        assert f"and no guard that can be asked knows it: sleep (pid {groups.process.pid})" in out
        assert groups.process.poll() is None


def test_a_newer_guard_that_finds_an_older_package_is_told_so_and_nothing_is_ended_by_guess(place: str) -> None:
    with Groups(version=2) as groups, Left(place, NEWER[0]) as left:
        with pytest.raises(register.UnknownVersion, match="of version 2, and version 1 is known"):
            list(register.homes(groups.register))
        assert run_guard(groups.register) == 1
        assert groups.process.poll() is None
        assert left.is_untouched()
