"""`allgone job begin` and `end`: whom they move, whom they end, and what they refuse."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import cgroups, procfs
from support.programs import PATIENCE, Held, Lines, command

from cli.command import ALLGONE

JOB = shlex.join([*ALLGONE, "job"])


class Owner:
    """A shell that does what it is told, line by line: it begins a job, and is moved. It has a group of its own."""

    def __init__(self, **environment: str) -> None:
        reader, writer = os.pipe()
        self.lines = Lines(reader)
        self.process = subprocess.Popen(
            ["bash"], stdin=subprocess.PIPE, stdout=writer, stderr=writer, text=True,
            env={**os.environ, **environment}, process_group=0,
        )  # fmt: skip
        os.close(writer)
        self.pid = self.process.pid
        self._done = 0

    def do(self, line: str, status: int = 0) -> str:
        """What it says to that."""
        assert self.process.stdin is not None
        self._done += 1
        before = len(self.lines.read)
        self.process.stdin.write(f"{line}\necho done-{self._done} $?\n")
        self.process.stdin.flush()
        assert self.lines.wait_for(f"done-{self._done}").split()[1] == str(status), self.lines.read[before:]
        said = "\n".join(self.lines.read[before:-1])
        assert "Traceback" not in said, said
        return said

    def cgroup(self) -> str:
        return procfs.cgroup(self.pid)

    def __enter__(self) -> Owner:
        return self

    def __exit__(self, *_: object) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        if self.process.wait(PATIENCE) is None:
            self.process.kill()
        assert self.lines.are_over(PATIENCE)
        self.lines.close()


@pytest.fixture
def owner(cgroup_base: str) -> Iterator[Owner]:
    with Owner() as made:
        yield made


# Of the hook's shell, which is another one than the owner.
BEGIN = f"bash -c '{JOB} begin --pid $PPID \"$@\"' hook"
END = f"bash -c '{JOB} end \"$@\"' hook"


def started(owner: Owner, line: str = "setsid sleep 100 >/dev/null 2>&1 & echo started $!") -> Held:
    return Held(int(owner.do(line).rpartition("started ")[2].split()[0]))


def home_of(owner: Owner) -> Path:
    """The directory of its job."""
    return Path(cgroups.directory(owner.cgroup())).parent


def test_what_the_owner_starts_is_born_in_the_job_and_ends_with_it(owner: Owner, cgroup_base: str) -> None:
    before = owner.cgroup()
    elsewhere = started(owner)
    said = owner.do(BEGIN)
    assert f"what process {owner.pid} starts from now on ends with it" in said
    assert owner.cgroup().endswith("/job")
    inside = started(owner)
    assert procfs.cgroup(inside.pid) == owner.cgroup()
    assert procfs.cgroup(elsewhere.pid) == before
    said = owner.do(END)
    assert f"pid {inside.pid}: sleep 100" in said
    assert owner.cgroup() == before
    assert not inside.is_alive()
    assert elsewhere.is_alive()
    assert [each for each in os.listdir(cgroup_base) if each.startswith(f"allgone-{owner.pid}-")] == []
    elsewhere.end()
    elsewhere.close()
    inside.close()


def test_a_job_that_leaves_nothing_says_so(owner: Owner) -> None:
    owner.do(BEGIN)
    assert "nothing was left in it" in owner.do(f"{END} --fail-on-leftovers")


def test_leftovers_can_be_a_failure(owner: Owner) -> None:
    owner.do(BEGIN)
    started(owner).close()
    owner.do(f"{END} --fail-on-leftovers", status=1)


def test_a_report_is_written(owner: Owner, tmp_path: Path) -> None:
    owner.do(f"{BEGIN} --name build-7")
    left = started(owner)
    owner.do(f"{END} --report {tmp_path}/r.json --report {tmp_path}/r.txt")
    facts = json.loads((tmp_path / "r.json").read_text())
    assert facts["args"] == ["build-7"]
    assert [each["pid"] for each in facts["members"]] == [left.pid]
    assert f"{left.pid} sleep 100" in (tmp_path / "r.txt").read_text()
    left.close()


def test_the_log_is_as_asked_for(cgroup_base: str) -> None:
    expected = {"": "::warning title=allgone::stopped 1 process", " --log plain": "allgone: stopped 1 process"}
    with Owner(GITHUB_ACTIONS="true") as owner:
        for options, said in expected.items():
            owner.do(BEGIN)
            started(owner).close()
            assert said in owner.do(f"{END}{options}")


def test_names_of_processes_write_no_lines_of_their_own(cgroup_base: str) -> None:
    with Owner(GITHUB_ACTIONS="true") as owner:
        owner.do(BEGIN)
        started(owner, "bash -c $'exec -a \"x\\n::error::%0A y\" sleep 100' >/dev/null 2>&1 & echo started $!").close()
        said = owner.do(END)
        assert len([line for line in said.splitlines() if line.startswith("::")]) == 1
        assert "::error::%250A y" in said


def test_one_who_ignores_sigterm_is_killed(owner: Owner) -> None:
    owner.do(BEGIN)
    deaf = shlex.join(command("ignores_sigterm"))
    left = started(
        owner,
        f"exec 3< <({deaf}); read -r _ pid <&3; while read -r line <&3 && [ $line != ready ]; do :; done; echo started $pid",
    )
    said = owner.do(f"{END} --timeout-stop 100ms")
    assert f"pid {left.pid} (had to be killed)" in said
    assert not left.is_alive()
    left.close()


@pytest.mark.parametrize("kind", ["compiled", "interpreted"])
def test_the_job_ends_when_its_owner_is_killed(kind: str, cgroup_base: str) -> None:
    with Owner(ALLGONE_LAUNCHER=kind) as owner:
        owner.do(BEGIN)
        left = started(owner)
        owner.process.kill()
        assert left.ends_within(PATIENCE)
        left.close()


def test_a_job_that_was_not_ended_is_ended_by_the_next_one(owner: Owner) -> None:
    owner.do(BEGIN)
    first, left = owner.cgroup(), started(owner)
    said = owner.do(BEGIN)
    assert "was not ended, so this has done it: stopped 1 process" in said
    assert not left.is_alive()
    assert owner.cgroup() != first
    assert os.path.dirname(os.path.dirname(owner.cgroup())) == os.path.dirname(os.path.dirname(first))
    owner.do(END)
    left.close()


def test_a_job_with_a_wrong_name_leaves_the_one_before_as_it_is(owner: Owner) -> None:
    owner.do(BEGIN)
    first, left = owner.cgroup(), started(owner)
    owner.do(f"{BEGIN} --name ../x", status=125)
    assert owner.cgroup() == first
    assert left.is_alive()
    owner.do(END)
    left.close()


def test_a_job_within_a_job(owner: Owner) -> None:
    """As of a runner that a job has started: that one's ends first, and the outer one is as it was."""
    owner.do(BEGIN)
    outer = owner.cgroup()
    inner = (
        f"{BEGIN}; tail -n 1 /proc/self/cgroup; setsid sleep 100 >/dev/null 2>&1 & {END}; tail -n 1 /proc/self/cgroup"
    )
    said = owner.do(f"bash -c {shlex.quote(inner)}")
    within, after = (line[3:] for line in said.splitlines() if line.startswith("0::"))
    assert within.startswith(f"{outer}/allgone-")
    assert after == outer
    assert "stopped 1 process" in said
    owner.do(END)


def test_allgone_run_in_a_job_has_its_cgroups_in_there(owner: Owner) -> None:
    owner.do(BEGIN)
    said = owner.do(f"{shlex.join(ALLGONE)} run --backend cgroup -- tail -n 1 /proc/self/cgroup")
    assert said.removeprefix("0::").startswith(f"{owner.cgroup()}/allgone-")
    owner.do(END)


def test_an_owner_that_is_one_cgroup_further_down_is_taken_back(owner: Owner) -> None:
    """As when a step has had controllers handed down: what is in the job's cgroup is moved out of the way."""
    before = owner.cgroup()
    owner.do(BEGIN)
    below = home_of(owner) / "job/allgone.supervisors"
    below.mkdir()
    (below / "cgroup.procs").write_text(str(owner.pid))
    owner.do(END)
    assert owner.cgroup() == before


BUSY = """
import errno, os, sys
from allgone._linux import cgroupfs
from allgone.cli import main
move = cgroupfs.move
def busy(folder, pid):
    if folder == sys.argv[1]:
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
    move(folder, pid)
cgroupfs.move = busy
sys.exit(main(sys.argv[2:]))
"""


def test_where_it_came_from_hands_controllers_down_by_now(cgroup_base: str) -> None:
    """Then no process can be in there, but one further below. (The controllers themselves are missing here.)"""
    origin = Path(cgroup_base, "runner")
    (origin / "allgone.supervisors").mkdir(parents=True)
    with Owner(ALLGONE_CGROUP=cgroup_base) as owner:
        (origin / "cgroup.procs").write_text(str(owner.pid))
        owner.do(BEGIN)
        assert home_of(owner).parent == Path(cgroup_base)
        owner.do(
            f"bash -c {shlex.quote(shlex.join([sys.executable, '-c', BUSY, str(origin), 'job', 'end']) + '; exit $?')}"
        )
        assert owner.cgroup().endswith("/runner/allgone.supervisors")
    cgroups.remove_all(str(origin))


def test_a_job_can_be_stopped_from_outside(owner: Owner) -> None:
    owner.do(BEGIN)
    name, left = "/".join(owner.cgroup().split("/")[-2:]), started(owner)
    subprocess.run([*ALLGONE, "stop", name], check=True, capture_output=True, timeout=60)
    assert not left.is_alive()
    assert owner.process.wait(PATIENCE) != 0
    left.close()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("begin", "Missing option '--pid'"),
        ("begin --pid x", "'x' is not a valid integer"),
        ("begin --pid 1", "process 1 is none that has started this one"),
        ("begin --pid 0", "there is no process 0"),
        ("begin --pid -5", "there is no process -5"),
        ("begin --pid 99999999999999999999", "there is no process"),
        ("begin --pid $SIBLING", "is none that has started this one"),
        ("begin --pid $PPID --name guard", "can't be used"),
        ("begin --pid $PPID --name ../x", "can't be used"),
        ("end", "no job has begun here"),
        ("end --timeout-stop soon", "is not a duration"),
        ("end --kill-signal NONE", "is not a signal"),
    ],
)
def test_what_can_not_be_is_refused_and_nobody_is_moved(words: str, said: str, owner: Owner, cgroup_base: str) -> None:
    before = owner.cgroup()
    sibling = started(owner)
    assert said in owner.do(f"SIBLING={sibling.pid} bash -c '{JOB} {words}'", status=125)
    assert owner.cgroup() == before
    assert procfs.cgroup(sibling.pid) == before
    sibling.end()
    sibling.close()


def test_a_report_that_can_not_be_written_is_said_before_anything_is_stopped(owner: Owner) -> None:
    owner.do(BEGIN)
    left = started(owner)
    assert "cannot write the report" in owner.do(f"{END} --report /nowhere/r.json", status=125)
    assert left.is_alive()
    owner.do(END)
    left.close()


def test_where_no_cgroup_can_be_entered_all_is_as_before(cgroup_base: str) -> None:
    folder = Path(cgroup_base, "threaded")
    folder.mkdir()
    (folder / "inner").mkdir()
    (folder / "inner/cgroup.type").write_text("threaded")
    with Owner(ALLGONE_CGROUP=str(folder / "inner")) as owner:
        before = owner.cgroup()
        assert "cannot enter" in owner.do(BEGIN, status=125)
        assert owner.cgroup() == before
    assert sorted(each.name for each in folder.rglob("*") if each.is_dir()) == ["inner"]
    cgroups.remove_all(str(folder))


def guard_of(owner: Owner) -> str:
    """The cgroup of its guard; "" if it has none."""
    for name in filter(str.isdigit, os.listdir("/proc")):
        words = procfs.describe(int(name)).split()
        if "(allgone-guard," in words and words[-1] == str(owner.pid):
            return procfs.cgroup(int(name))
    return ""


def test_the_guard_is_there_as_long_as_the_job(owner: Owner) -> None:
    assert not guard_of(owner)
    owner.do(BEGIN)
    assert guard_of(owner) == f"{os.path.dirname(owner.cgroup())}/guard"
    owner.do(END)
    assert not guard_of(owner)


FAILS = """
import errno, sys
from allgone._linux import cgroupfs
from allgone.cli import main
move, left = cgroupfs.move, [int(sys.argv[1])]
def fails(folder, pid):
    left[0] -= 1
    if left[0] == 0:
        raise OSError(errno.EAGAIN, "not now")
    move(folder, pid)
cgroupfs.move = fails
sys.exit(main(sys.argv[2:]))
"""


@pytest.mark.parametrize("n", [1, 2, 3])
def test_where_one_of_them_can_not_be_moved_all_is_as_before(n: int, owner: Owner, cgroup_base: str) -> None:
    before = owner.cgroup()
    hook = shlex.join([sys.executable, "-c", FAILS, str(n), "job", "begin", "--pid"])
    said = owner.do(f"bash -c {shlex.quote(hook + ' $PPID; echo shell $(tail -n 1 /proc/self/cgroup); exit 125')}", 125)
    assert "not now. a pids limit (pids.max) is exhausted" in said
    assert f"shell 0::{before}" in said
    assert owner.cgroup() == before
    assert [each for each in os.listdir(cgroup_base) if each.startswith(f"allgone-{owner.pid}-")] == []
    assert not guard_of(owner)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_where_one_of_them_can_not_be_taken_back_nothing_is_stopped(n: int, owner: Owner) -> None:
    owner.do(BEGIN)
    left = started(owner)
    hook = shlex.join([sys.executable, "-c", FAILS, str(n), "job", "end"])
    assert "not now" in owner.do(f"bash -c {shlex.quote(hook + '; exit $?')}", 125)
    assert left.is_alive()
    owner.process.kill()  # the guard's turn
    assert left.ends_within(PATIENCE)
    left.close()


def test_only_what_the_owner_has_started_may_end_the_job(owner: Owner) -> None:
    owner.do(BEGIN)
    left = started(owner)
    procs = home_of(owner) / "job/cgroup.procs"
    done = subprocess.run(
        ["sh", "-c", f'echo $$ >"$0"; exec {JOB} end', procs], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 125
    assert "which has not started this one" in done.stderr
    assert left.is_alive()
    owner.do(END)
    left.close()
