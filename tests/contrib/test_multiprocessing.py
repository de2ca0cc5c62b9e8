"""multiprocessing's and concurrent.futures' processes, contained: their promises hold, and what they started is gone."""

from __future__ import annotations

import concurrent.futures
import errno
import multiprocessing
import os
import signal
import sys
from collections.abc import Iterator
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import resource_tracker
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any

import pytest
from support import procfs
from support.backends import BackendUnderTest

import allgone
from allgone.contrib.multiprocessing import SpawnProcess, get_context

sys.path.insert(0, str(Path(__file__).parent))  # which spawned processes inherit
import workers

SECONDS = 60


@pytest.fixture
def _no_tracker() -> Iterator[None]:
    """multiprocessing's resource tracker, a process that "spawn" has made, ends with the test."""
    yield
    resource_tracker._resource_tracker._stop()


@pytest.fixture(params=["spawn", "fork"])
def context(request: pytest.FixtureRequest, backend: BackendUnderTest) -> BaseContext:
    request.getfixturevalue("enters_by_itself" if request.param == "fork" else "_no_tracker")
    return get_context(request.param, backend=backend.name, sweep=backend.name == "process-group")


def started(context: Any, target: Any) -> tuple[Any, Any]:
    ours, its = multiprocessing.Pipe()
    process = context.Process(target=target, args=(its,))
    process.start()
    its.close()
    return process, ours


@pytest.mark.parametrize("end", ["terminate", "kill", "join"])
def test_what_daemonised_is_gone_when_its_end_is_seen(context: BaseContext, end: str) -> None:
    process, pipe = started(context, workers.with_daemon)
    with pipe:
        pid, daemon = pipe.recv()
        assert pid == process.pid
        assert procfs.is_alive(daemon)
        if end == "join":
            pipe.send("go on")
        else:
            getattr(process, end)()
        process.join(SECONDS)
    assert process.exitcode == {"terminate": -signal.SIGTERM, "kill": -signal.SIGKILL, "join": 0}[end]
    assert not procfs.is_alive(daemon)
    assert process.report is not None
    process.close()


def test_an_end_is_seen_although_a_child_holds_its_pipes(context: BaseContext) -> None:
    process, pipe = started(context, workers.forks_and_ends)
    with pipe:
        child = pipe.recv()
        process.join(SECONDS)
    assert not procfs.is_alive(child)
    assert process.exitcode == 0
    process.close()


def test_join_with_a_time_out_returns(context: BaseContext) -> None:
    process, pipe = started(context, workers.ignores_sigterm)
    with pipe:
        assert pipe.recv() == "ready"
        process.terminate()
        process.join(0.05)
        assert process.is_alive()
        assert process.exitcode is None
        process.kill()
        process.join(SECONDS)
    assert process.exitcode == -signal.SIGKILL
    process.close()


def test_exit_code_is_its_own(context: Any) -> None:
    process = context.Process(target=workers.fails)
    process.start()
    process.join(SECONDS)
    assert process.exitcode == 7
    process.close()


@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("spawn", workers.sends_where_it_was_imported),
        ("spawn", workers.sends_its_cgroup),
        ("fork", workers.sends_its_cgroup),
    ],
)
@pytest.mark.usefixtures("_no_tracker")
def test_it_is_inside_before_its_own_code_runs(cgroup_base: str, method: str, target: Any) -> None:
    process, pipe = started(get_context(method, backend="cgroup"), target)
    with pipe:
        assert f"/allgone-{os.getpid()}-" in pipe.recv()
    process.join(SECONDS)
    process.close()


def test_an_executor_works_and_leaves_nothing(context: BaseContext) -> None:
    with concurrent.futures.ProcessPoolExecutor(2, mp_context=context) as pool:
        assert list(pool.map(workers.square, range(10))) == [n * n for n in range(10)]
        _, daemon = pool.submit(workers.start_daemon_and_stay).result(SECONDS)
        assert procfs.is_alive(daemon)
    assert not procfs.is_alive(daemon)


def test_an_executor_notices_a_worker_that_was_killed(context: BaseContext) -> None:
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool:
        worker, daemon = pool.submit(workers.start_daemon_and_stay).result(SECONDS)
        os.kill(worker, signal.SIGKILL)
        with pytest.raises(BrokenProcessPool):
            pool.submit(workers.square, 3).result(SECONDS)
    assert not procfs.is_alive(daemon)


def test_a_pool_works_and_leaves_nothing(context: BaseContext) -> None:
    with context.Pool(2) as pool:
        assert pool.map(workers.square, range(10)) == [n * n for n in range(10)]
        _, daemon = pool.apply(workers.start_daemon_and_stay)
        pool.terminate()
        pool.join()
    assert not procfs.is_alive(daemon)


class Own(SpawnProcess):
    containment = {"name": "own-process"}  # noqa: RUF012  # the base class has it as a Mapping


@pytest.mark.usefixtures("_no_tracker")
def test_a_subclass_says_how(cgroup_base: str) -> None:
    process = Own(target=workers.square, args=(3,))
    process.start()
    process.join(SECONDS)
    assert process.report is not None
    assert process.report.name == "own-process"
    process.close()


def test_one_that_cannot_enter_is_an_error_and_runs_nothing(
    cgroup_base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(procs: int) -> None:
        raise OSError(errno.EACCES, "refused")

    monkeypatch.setattr("allgone._backends.cgroup_containment._enter", refused)
    process = get_context("fork", backend="cgroup").Process(target=(tmp_path / "ran").touch)
    with pytest.raises(allgone.PlacementFailed, match="Permission denied"):
        process.start()
    assert not (tmp_path / "ran").exists()


def test_what_cannot_be_promised_is_refused() -> None:
    with pytest.raises(allgone.Unsupported, match="children of the server"):
        get_context("forkserver")
    with pytest.raises(ValueError, match="cannot find context for 'thread'"):
        get_context("thread")
