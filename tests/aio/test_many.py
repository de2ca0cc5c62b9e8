"""Very many processes at the same time in one event loop."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator

import anyio
import pytest
from aio.conftest import Loop
from support import programs
from support.backends import BackendUnderTest

from allgone import aio

MANY, FEWER = 500, 100


@pytest.fixture
def enough_fds() -> Iterator[None]:
    """Two or three are open for each at a time."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 4096
    if hard != resource.RLIM_INFINITY and hard < wanted:
        pytest.skip(f"RLIMIT_NOFILE is {hard}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.usefixtures("enough_fds", "cgroup_base")
def test_hundreds_are_started_waited_for_and_stopped_at_once(loop: Loop, request: pytest.FixtureRequest) -> None:
    many = MANY if loop.label == "asyncio" or request.config.getoption("--run-slow") else FEWER

    async def main() -> list[aio.Process]:
        started = []
        await aio.run(["true"], backend="cgroup")  # opens what is kept
        fds = len(os.listdir("/proc/self/fd"))

        async def one(task_status: anyio.abc.TaskStatus[None]) -> None:
            async with await aio.open_process(["sleep", "1000"], backend="cgroup") as process:
                started.append(process)
                task_status.started()
                await process.wait()

        async with anyio.create_task_group() as tasks:
            for _ in range(many):
                await tasks.start(one)
            tasks.cancel_scope.cancel()
        assert len(os.listdir("/proc/self/fd")) == fds
        return started

    started = loop.run(main, within=programs.TEST_WITHIN)
    assert len(started) == many
    assert {process.returncode for process in started} == {-15}


def test_dozens_run_at_once_with_their_pipes(loop: Loop, backend: BackendUnderTest) -> None:
    async def main() -> list[bytes]:
        found = []

        async def one(number: int) -> None:
            done = await aio.run(["cat"], input=str(number).encode(), stdout=-1, **backend.options)
            found.append(done.stdout)

        async with anyio.create_task_group() as tasks:
            for number in range(40):
                tasks.start_soon(one, number)
        return found

    assert sorted(map(int, loop.run(main))) == list(range(40))
