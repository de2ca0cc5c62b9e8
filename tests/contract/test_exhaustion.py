"""Without fds, processes or a place in the pids limit: a clean OSError, and nothing is left."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import subprocess
import sys
from collections.abc import Iterator

import pytest
from support import users
from support.backends import BackendUnderTest
from support.supervisors import Supervisor, say
from support.tiers import missing

import allgone
from allgone._linux.pidfd import Child

PIDS_V1 = "/sys/fs/cgroup/pids"
MORE_THAN_ENOUGH = 24


def with_few_fds(options: dict, most: int, what: str) -> None:
    """Start, or stop, with 0, 1, 2 … free fds."""

    def starve(free: int) -> list[int]:
        taken: list[int] = []
        with contextlib.suppress(OSError):
            while True:
                taken.append(os.dup(2))
        for _ in range(free):
            os.close(taken.pop())
        return taken

    def attempt() -> str:
        try:
            if what == "start":
                started.append(allgone.Popen(args, **options))
            elif what == "run":
                allgone.run(args[:-1] + ["sleep 1000 & echo"], capture_output=True, **options)
            else:
                started[0].stop(allgone.StopPolicy(timeout_stop=0))
        except OSError as e:
            return errno.errorcode.get(e.errno, str(e))
        return "done"

    args = ["sh", "-c", "sleep 1000 & wait"]
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    for free in (most, *range(most)):  # first with enough: what is imported or opened once and for all
        started = [allgone.Popen(args, **options)] if what == "stop" else []
        before = sorted(os.listdir("/proc/self/fd"))
        taken = starve(free)
        result = attempt()
        for fd in taken:
            os.close(fd)
        # Python 3.10 and early 3.11 themselves lose a pipe there when they can't make the next.
        loses_pipes = what == "run" and not hasattr(subprocess.Popen, "_on_error_fd_closer")
        if what != "stop" and result != "done" and not loses_pipes:
            assert sorted(os.listdir("/proc/self/fd")) == before, f"fds lost with {free} free"
        for process in started:
            process.stop(allgone.StopPolicy(timeout_stop=0))
            assert process.returncode == -9
        say(free, result)


@pytest.mark.parametrize("what", ["start", "run", "stop"])
def test_without_fds(backend: BackendUnderTest, what: str) -> None:
    with Supervisor(with_few_fds, backend, MORE_THAN_ENOUGH, what) as supervisor:
        supervisor.succeeds()
        assert supervisor.lines.are_over()
        results = [line.split()[1] for line in supervisor.lines.read if line]
        assert set(results) == {"EMFILE", "done"}
        assert results[0] == results[-1] == "done"


def with_few_processes(options: dict, uid: int) -> None:
    """Start with room for 0, 1, 2 … more processes of this user."""
    import ctypes

    import psutil

    assert psutil
    allgone.run(["true"], capture_output=True, **options)  # what is imported late
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)  # PR_SET_DUMPABLE: it is lost with the user
    for room in range(6):
        resource.setrlimit(resource.RLIMIT_NPROC, (1 + room, resource.getrlimit(resource.RLIMIT_NPROC)[1]))
        try:
            with allgone.Popen(["sh", "-c", "sleep 1000 & sleep 1000 & wait"], **options) as process:
                process.stop()
            say("room", room, "done")
        except OSError as e:
            say("room", room, errno.errorcode[e.errno], type(e).__name__)
        try:
            os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            say("room", room, "no child")


@pytest.mark.parametrize("sweep", [False, True])
def test_without_processes(sweep: bool) -> None:
    backend = BackendUnderTest("process-group", sweep=sweep)  # the user can't make cgroups
    uid = users.spare_uid()
    users.may_run(uid, "test", "-x", os.path.dirname(allgone.__file__))
    with Supervisor(with_few_processes, backend, uid) as supervisor:
        supervisor.succeeds()
        assert supervisor.lines.are_over()
        assert supervisor.lines.wait_for("room", "0") == "room 0 EAGAIN BlockingIOError"
        assert supervisor.lines.wait_for("room", "5") == "room 5 done"
        assert [f"room {room} no child" in supervisor.lines.read for room in range(6)] == [True] * 6


@pytest.fixture
def pids_limit() -> Iterator[str]:
    """A cgroup of the v1 pids controller."""
    folder = f"{PIDS_V1}/allgone-test-{os.getpid()}"
    try:
        os.mkdir(folder)
    except OSError as e:
        missing(f"no pids controller of cgroup v1 to limit a test with: {e}")
    yield folder
    os.rmdir(folder)


def with_a_pids_limit(options: dict, folder: str) -> None:
    def limit(room: object) -> None:
        with open(folder + "/pids.max", "w") as f:
            f.write(str(room))

    with open(folder + "/cgroup.procs", "w") as f:
        f.write("0")
    allgone.run(["true"], capture_output=True, **options)
    for room in range(5):
        limit(1 + room)
        try:
            with allgone.Popen(["sh", "-c", "sleep 1000 & sleep 1000 & wait"], **options) as process:
                process.stop()
            say("room", room, "done")
        except OSError as e:
            say("room", room, errno.errorcode[e.errno])
    limit(20)
    with allgone.Popen([sys.executable, "-S", "-c", FILLS_UP], stdout=allgone.PIPE, **options) as process:
        say("filled", process.stdout.readline())
        report = process.stop()
        say("stopped", len(report.members) > 10, len(process.members()))
    limit("max")


FILLS_UP = """
import os, signal
signal.signal(signal.SIGTERM, signal.SIG_DFL)
signal.alarm(120)
while True:
    try:
        if os.fork() == 0:
            signal.alarm(120)
            while True:
                signal.pause()
    except BlockingIOError:
        print("full", flush=True)
        while True:
            signal.pause()
"""


def test_with_a_full_pids_limit(backend: BackendUnderTest, pids_limit: str) -> None:
    source = with_a_pids_limit
    with Supervisor(source, backend, pids_limit, before=f"FILLS_UP = {FILLS_UP!r}") as supervisor:
        supervisor.succeeds()
        assert supervisor.lines.are_over()
        assert supervisor.lines.wait_for("room", "0") == "room 0 EAGAIN"
        assert supervisor.lines.wait_for("room", "4") == "room 4 done"
        assert supervisor.lines.wait_for("filled") == r"filled b'full\n'"
        assert supervisor.lines.wait_for("stopped") == "stopped True 0"


def test_wait_without_a_free_fd_waits_all_the_same(backend: BackendUnderTest, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_fds_left(_: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with backend.Popen(["sh", "-c", "read line; exit 3"], stdin=subprocess.PIPE) as process:
        monkeypatch.setattr(Child, "own_pidfd", no_fds_left)
        with pytest.raises(OSError, match="Too many open files"):
            process.wait(1000)
        process.stdin.close()
        assert process.wait() == 3
