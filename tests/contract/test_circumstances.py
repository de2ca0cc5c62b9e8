"""The same promises from odd places: other users, many or no fds, many threads, preexec_fn, allgone within allgone."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import cgroups, procfs, users
from support.backends import BACKENDS, BackendUnderTest
from support.programs import Started, command
from support.supervisors import Supervisor, say

import allgone

AT_ONCE = allgone.StopPolicy(timeout_stop=0)
SOON = allgone.StopPolicy(timeout_stop=0.3)
TREE = ["sh", "-c", "sleep 1000 & sleep 1000 & echo ready; wait"]


def uids(pid: int) -> set[int]:
    """Real, effective, saved and file system user."""
    text = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    return set(map(int, text.split("Uid:\t")[1].split("\n")[0].split()))


@pytest.mark.parametrize("also", [{}, {"group": 65534, "extra_groups": []}], ids=["user", "user, group, extra_groups"])
def test_a_command_run_as_another_user_is_stopped(backend: BackendUnderTest, also: dict[str, object]) -> None:
    uid = users.spare_uid()
    with Started(backend.Popen, TREE, policy=SOON, user=uid, **also) as started:
        members = started.process.members()
        assert len(members) == 3
        assert set().union(*map(uids, members)) == {uid}
        started.process.stop()
        assert started.all_gone()


def test_a_command_that_another_user_may_not_execute_is_an_error_that_names_it(
    backend: BackendUnderTest, tmp_path: Path
) -> None:
    uid = users.spare_uid()
    hidden = tmp_path / "hidden"
    hidden.write_text("#!/bin/sh\n", encoding="utf-8")
    hidden.chmod(0o700)
    with pytest.raises(PermissionError) as caught:
        backend.Popen([str(hidden)], user=uid)
    assert caught.value.filename == str(hidden)


def open_fds(run: object, **options: object) -> list[str]:
    """What the child of a `run` finds open."""
    return run(["sh", "-c", "ls /proc/$$/fd"], capture_output=True, text=True, **options).stdout.split()


@pytest.fixture
def many_fds() -> Iterator[list[int]]:
    """500 fds that children inherit, with gaps between them."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, before[1]), before[1]))
    null = os.open(os.devnull, os.O_RDONLY)
    fds: list[int] = []
    try:
        for _ in range(600):
            fds.append(os.dup(null))
            os.set_inheritable(fds[-1], True)
        for fd in fds[3::6]:
            os.close(fd)
            fds.remove(fd)
        yield fds
    finally:
        for fd in (null, *fds):
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.parametrize("close_fds", [True, False])
def test_the_child_finds_the_fds_that_subprocess_would_give_it(
    backend: BackendUnderTest, many_fds: list[int], close_fds: bool
) -> None:
    ours = open_fds(backend.run, close_fds=close_fds)
    assert ours == open_fds(subprocess.run, close_fds=close_fds)
    assert set(map(str, many_fds)) <= set(ours) or close_fds


def test_pass_fds_are_passed_and_the_launchers_are_not(backend: BackendUnderTest, many_fds: list[int]) -> None:
    kept = many_fds[7]
    assert open_fds(backend.run, pass_fds=[kept]) == open_fds(subprocess.run, pass_fds=[kept])


def test_with_500_fds_open_everything_is_stopped(backend: BackendUnderTest, many_fds: list[int]) -> None:
    assert len(many_fds) == 500
    with Started(backend.Popen, command("forking_server"), policy=SOON, close_fds=False) as started:
        started.process.stop()
        assert started.all_gone()


def with_closed(options: dict, closed: tuple[int, ...], start: str) -> None:
    report = os.dup(1)
    while report < 10:
        report = os.dup(1)
    for fd in closed:
        os.close(fd)
    if start == "run":
        done = allgone.run(
            ["sh", "-c", "sleep 1000 & cat; echo err >&2; exit 3"], input=b"in", capture_output=True, **options
        )
        result = (done.returncode, done.stdout, done.stderr)
    else:
        with allgone.Popen(["sh", "-c", "sleep 1000 & exit 3"], **options) as process:
            pass
        result = (process.returncode, process.members())
    os.write(report, repr(result).encode() + b"\n")


@pytest.mark.parametrize("closed", [(0,), (1,), (2,), (0, 1), (0, 1, 2)], ids=str)
@pytest.mark.parametrize(
    ("start", "expected"), [("run", (3, b"in", b"err\n")), ("Popen", (3, frozenset()))], ids=["run", "Popen"]
)
def test_with_standard_fds_closed_in_the_supervisor(
    backend: BackendUnderTest, closed: tuple[int, ...], start: str, expected: object
) -> None:
    with Supervisor(with_closed, backend, closed, start) as supervisor:
        supervisor.succeeds()
        assert supervisor.lines.are_over()
        assert supervisor.lines.read == [repr(expected)]


def test_from_32_threads_at_once(backend: BackendUnderTest) -> None:
    errors: list[BaseException] = []
    start = threading.Barrier(32)

    def work() -> None:
        try:
            start.wait()
            assert backend.run(["sh", "-c", "sleep 1000 & echo hi"], capture_output=True).stdout == b"hi\n"
            with backend.Popen(["sh", "-c", "sleep 1000 & exec sleep 1000"], stdin=allgone.DEVNULL) as process:
                process.stop(SOON)
            assert process.returncode == -15
            assert process.members() == frozenset()
        except BaseException as e:  # noqa: BLE001  # shown below, whatever it is
            errors.append(e)

    threads = [threading.Thread(target=work) for _ in range(32)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []


def with_preexec_fn(options: dict, args: list[str]) -> None:
    def look() -> None:
        with open("/proc/self/cgroup") as f:
            say("where", *f.read().split())
        say("session", os.getsid(0) == os.getpid())
        said, saying = os.pipe()
        if os.fork() == 0:  # whoever is started by it is in the containment as well
            signal.alarm(120)
            say("forked", os.getpid())
            os.closerange(3, 256)  # Popen waits for the end of a pipe, as in the standard library
            signal.pause()
        os.close(saying)
        os.read(said, 1)  # its end: whoever is stopped next has spoken
        os.close(said)

    with allgone.Popen(args, preexec_fn=look, **options) as process:
        say("containment", process._containment.where())
        process.stop()


@pytest.mark.usefixtures("enters_by_itself")
def test_preexec_fn_runs_inside_the_containment(backend: BackendUnderTest) -> None:
    with Supervisor(with_preexec_fn, backend, ["sleep", "1000"]) as supervisor:
        supervisor.succeeds()
        assert supervisor.lines.are_over()
        supervisor.lines.wait_for("forked")
        where = supervisor.lines.wait_for("where").split()[-1].removeprefix("0::")
        inside = supervisor.lines.wait_for("containment").endswith(where)
        assert inside == (backend.name == "cgroup")
        assert supervisor.lines.wait_for("session") == f"session {backend.name != 'cgroup'}"


def fails_in_preexec_fn(options: dict, args: list[str]) -> None:
    def fail() -> None:
        raise ValueError("of the preexec_fn")

    try:
        allgone.Popen(args, preexec_fn=fail, **options)
    except subprocess.SubprocessError as e:
        say("failed", e)


@pytest.mark.usefixtures("enters_by_itself")
def test_a_preexec_fn_that_fails_is_an_error_that_leaves_nothing(backend: BackendUnderTest) -> None:
    with Supervisor(fails_in_preexec_fn, backend, ["sleep", "1000"]) as supervisor:
        supervisor.succeeds()
        assert supervisor.lines.wait_for("failed") == "failed Exception occurred in preexec_fn."


INNER = """
import allgone, os, signal, sys
signal.alarm(120)
inner = allgone.Popen(sys.argv[1:], **{options})
print("inner", inner._containment.where(), flush=True)
signal.pause()
"""


@pytest.mark.parametrize("inner", BACKENDS, ids=lambda each: f"inner {each.label}")
@pytest.mark.parametrize("told", [True, False], ids=["ALLGONE_CGROUP", "own cgroup"])
def test_allgone_within_allgone_is_stopped_with_the_outer_one(
    backend: BackendUnderTest, inner: BackendUnderTest, told: bool, cgroup_base: str
) -> None:
    args = [sys.executable, "-c", INNER.format(options=inner.options), *command("double_fork_daemon")]
    env = {**os.environ} if told else {k: v for k, v in os.environ.items() if k != "ALLGONE_CGROUP"}
    with Started(backend.Popen, args, announce="inner", policy=AT_ONCE, env=env) as started:
        started.lines.wait_for("ready")
        daemon = int(started.lines.wait_for("escaped").split()[1])
        where = started.lines.wait_for("inner").split()[1]
        if backend.ends_daemons:
            started.process.stop()
            assert started.all_gone()
            if backend.name == inner.name == "cgroup":
                assert where.startswith(started.process._containment.where() + "/")
        else:
            with warnings.catch_warnings(record=True):
                warnings.simplefilter("always")
                report = started.process.stop()
            if not inner.ends_daemons:  # else the inner one's guard ends it, sooner or later than this
                assert daemon in {escapee.pid for escapee in report.escapees}
                procfs.end(daemon)
            assert started.lines.are_over(within=10)
        if inner.name == "cgroup":
            cgroups.remove_all(os.path.dirname(where))  # the inner supervisor was killed and could not
