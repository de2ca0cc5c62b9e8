"""Real servers, started and stopped 20 times: nothing is left, and the port is free for the next round."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from support import init, leaks, procfs
from support.backends import BACKENDS, BackendUnderTest
from support.programs import PATIENCE
from support.tiers import missing

import allgone
from allgone import ready as readiness
from allgone._process.output import Output

from .servers import SERVERS, FreePort, Server

ROUNDS = int(os.environ.get("ALLGONE_TEST_ROUNDS", "20"))
POLICY = allgone.StopPolicy(timeout_stop=5)
SETTLE = 1.0  # seconds
# This process, and what systemd gives the first process of a login session for a child: (sd-pam).
THERE_BEFORE = frozenset(init.children(init.pid or 1))


@pytest.fixture
def folder() -> Iterator[Path]:
    """Not tmp_path: PostgreSQL runs as another user, for whom pytest's folders are closed."""
    with tempfile.TemporaryDirectory(prefix="allgone-test-") as path:
        os.chmod(path, 0o755)
        yield Path(path)


def made(name: str, folder: Path, free_port: FreePort) -> Server:
    make, installed = SERVERS[name]
    if installed is None:
        missing(f"{name} is not installed")
    return make(folder, free_port)


@pytest.fixture(params=SERVERS)
def server(request: pytest.FixtureRequest, folder: Path, free_port: FreePort) -> Server:
    return made(request.param, folder, free_port)


def orphans() -> set[int]:
    """Live processes that were left to the init of the test run, but for our guard and the first process of our scope."""
    left = {pid for pid in init.children(init.pid or 1) if pid not in THERE_BEFORE and procfs.is_alive(pid)}
    return {pid for pid in left if not procfs.cgroup(pid).endswith(".scope/guard") and not leaks.is_own_guard(pid)}


def nothing_is_left() -> bool:
    """A process is out of its cgroup a moment before it is a zombie: that long a busy machine may take."""
    return all(procfs.ends_within(pid, SETTLE) for pid in orphans())


def end_orphans() -> set[int]:
    """SIGKILL to orphans and to what becomes one by that; returns all of them."""
    ended: set[int] = set()
    while found := orphans():
        ended |= found
        for pid in found:
            procfs.end(pid)
    return ended


def assert_free(server: Server) -> None:
    for port in server.ports:
        with socket.socket() as s:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            s.bind(("127.0.0.1", port))  # fails while somebody listens
    for path in server.paths:
        assert not path.exists()


def started(server: Server, backend: BackendUnderTest) -> AbstractContextManager[allgone.Popen]:
    return allgone.process_fixture(
        server.args, ready=server.ready, output=allgone.capture(), policy=POLICY, **backend.options, **server.options
    )


@pytest.mark.parametrize("backend", [b for b in BACKENDS if b.ends_daemons], ids=lambda b: b.label)
def test_nothing_is_left_of_a_real_server(
    server: Server, backend: BackendUnderTest, request: pytest.FixtureRequest
) -> None:
    if backend.name == "cgroup":
        request.getfixturevalue("cgroup_base")
    for _ in range(ROUNDS):
        with started(server, backend) as process:
            assert process.members()
        assert process.members() == process.escapees() == frozenset()
        assert nothing_is_left()
        assert_free(server)


@pytest.mark.parametrize("name", SERVERS)
def test_plain_process_group_names_whatever_survives_it(name: str, folder: Path, free_port: FreePort) -> None:
    server = made(name, folder, free_port)
    backend = BackendUnderTest("process-group", sweep=False)
    for _ in range(ROUNDS):
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            with started(server, backend) as process:
                pass
        assert process.report is not None
        survivors = end_orphans()
        reported = {p.pid: p for p in process.report.escapees}
        # PostgreSQL's own processes end by themselves a moment after their postmaster.
        assert survivors <= reported.keys()
        assert all(reported[pid].name != "?" for pid in survivors)
        escaped = [str(w.message) for w in warned if w.category is allgone.EscapedProcessWarning]
        assert all(any(f"pid {pid})" in message for message in escaped) for pid in survivors)
        assert_free(server)


def test_daemons_do_survive_a_plain_process_group(folder: Path, free_port: FreePort) -> None:
    """Or else the test above would show nothing."""
    server = made("redis", folder, free_port)
    backend = BackendUnderTest("process-group", sweep=False)
    with pytest.warns(allgone.EscapedProcessWarning, match="redis-server"), started(server, backend):
        pass
    assert end_orphans()


def test_the_tag_is_kept_where_the_environment_is_overwritten(folder: Path, free_port: FreePort) -> None:
    """Why descent is marked by a limit: what nginx shows as its environment holds nothing of what it was given."""
    server = made("nginx", folder, free_port)
    backend = BackendUnderTest("process-group", sweep=True)
    env = {**os.environ, "MARKED_BY_ENVIRONMENT": "yes"}
    with allgone.process_fixture(server.args, ready=server.ready, policy=POLICY, env=env, **backend.options) as process:
        process.wait(PATIENCE)  # the one that has made them a daemon
        while len(pids := process.members()) < 3:  # and the second worker may come after the first has answered
            time.sleep(0.005)
        environments = [Path(f"/proc/{pid}/environ").read_bytes() for pid in pids]
        assert len(environments) == 3
        assert not any(b"MARKED_BY_ENVIRONMENT" in text for text in environments)
    assert nothing_is_left()


@pytest.mark.parametrize("by", ["cgroup", "process-group"])
def test_nothing_is_left_by_the_command(
    server: Server, by: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """A shell waits for the server as a CI job would, then ends; the command sees to the rest."""
    if by == "cgroup":
        request.getfixturevalue("cgroup_base")
    report = tmp_path / "report.json"
    for _ in range(ROUNDS if request.config.getoption("--run-slow") else min(ROUNDS, 5)):
        command = [sys.executable, "-m", "allgone", "run", "--backend", by, "--timeout-stop", "5s"]
        script = '"$@" & read line'
        job = subprocess.Popen(
            [*command, "--report", str(report), "--", "sh", "-c", script, "job", *as_its_user(server)],
            stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        )  # fmt: skip
        with job:
            wait_until_ready(server, job)
            job.communicate(b"\n", timeout=30)
        assert job.returncode == 0
        assert nothing_is_left()
        assert_free(server)
        said = json.loads(report.read_text())
        assert said["members"] or said["escapees"]


def as_its_user(server: Server) -> list[str]:
    """The command line that does what the server's options ask of Popen."""
    if "user" not in server.options:
        return server.args
    return ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", "env", "LC_ALL=C", *server.args]


def wait_until_ready(server: Server, job: subprocess.Popen[bytes]) -> None:
    """By the server's own probe, as the fixture does it, but for a job that it did not start."""
    probe = readiness.probe(server.ready)
    assert probe is not None
    if probe.reads_output:  # which the command leaves alone
        probe = allgone.tcp(server.ports[0])
    for _ in range(6000):
        try:
            if probe(job, Output()):
                return
        except OSError:
            pass  # not yet
        assert job.poll() is None, job.stderr and job.stderr.read()
        time.sleep(0.005)
    pytest.fail(f"{server.args} was not ready")
