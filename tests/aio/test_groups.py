"""aio.group(): several processes in one containment."""

from __future__ import annotations

import os
import signal

import anyio
import pytest
from aio.conftest import Loop
from support.backends import BackendUnderTest

import allgone
from allgone import aio


def test_all_are_stopped_together(loop: Loop, backend: BackendUnderTest) -> None:
    async def main() -> None:
        async with aio.group(**backend.options) as group:
            one = await group.open_process(["sleep", "1000"])
            two = await group.open_process(["sh", "-c", "sleep 1000 & echo up; exec sleep 1000"], stdout=-1)
            await two.stdout.receive()
            assert {one.pid, two.pid} < group.members() == one.members() | two.members()
            assert group.backend == backend.name
        assert group.members() == frozenset()
        assert one.returncode == two.returncode == -signal.SIGTERM
        assert len(group.report.members) == 3
        with pytest.raises(anyio.ClosedResourceError):
            await two.stdout.receive()

    loop.run(main)


def test_one_can_be_stopped_alone(loop: Loop, backend: BackendUnderTest) -> None:
    async def main() -> None:
        async with aio.group(**backend.options) as group:
            one, two = [await group.open_process(["sleep", "1000"]) for _ in range(2)]
            await one.stop()
            assert group.members() == {two.pid}
            assert group.signal_all(signal.SIGKILL) == {two.pid}
            assert await two.wait() == -signal.SIGKILL

    loop.run(main)


def test_who_reads_when_the_group_is_stopped_is_told(loop: Loop, backend: BackendUnderTest) -> None:
    async def main() -> None:
        async def reads() -> None:
            with pytest.raises(anyio.ClosedResourceError):
                await process.stdout.receive()

        async with anyio.create_task_group() as tasks, aio.group(**backend.options) as group:
            process = await group.open_process(["sleep", "1000"], stdout=-1)
            holds = os.open(f"/proc/self/fd/{process.stdout.fileno()}", os.O_WRONLY)  # so that it does not end
            tasks.start_soon(reads)
            await anyio.wait_all_tasks_blocked()
        os.close(holds)

    loop.run(main)


def test_a_cancelled_group_is_stopped(loop: Loop, backend: BackendUnderTest) -> None:
    async def main() -> aio.Group:
        with anyio.move_on_after(0.05) as scope:
            async with aio.group(**backend.options) as group:
                process = await group.open_process(["sleep", "1000"], stdout=-1)
                await process.stdout.receive()
        assert scope.cancelled_caught
        assert process.returncode == -signal.SIGTERM
        return group

    assert len(loop.run(main).report.members) == 1


def test_what_a_group_refuses(loop: Loop) -> None:
    async def main() -> None:
        async with aio.group() as group:
            with pytest.raises(TypeError, match="the group's to say"):
                await group.open_process(["true"], backend="cgroup")
            with pytest.raises(ValueError, match="text="):
                await group.open_process(["true"], text=True)
            with pytest.raises(FileNotFoundError):
                await group.open_process(["/not/there"])
        with pytest.raises(ValueError, match="has been stopped"):
            await group.open_process(["true"])
        with pytest.raises(TypeError, match="colour"):
            async with aio.group(colour="red"):
                pass
        with pytest.raises(ValueError, match="backend"):
            async with aio.group(backend="tmux"):
                pass

    loop.run(main)


def test_a_group_is_frozen(loop: Loop, cgroup_base: str) -> None:
    async def main() -> None:
        async with aio.group(backend="cgroup") as group:
            await group.open_process(["sleep", "1000"])
            async with group.frozen():
                with pytest.raises(ValueError, match="frozen"):
                    await group.open_process(["true"])
            await group.freeze()

    loop.run(main)


def test_freezing_is_refused_with_process_group(loop: Loop) -> None:
    async def main() -> None:
        async with aio.group(backend="process-group") as group:
            with pytest.raises(allgone.Unsupported):
                await group.freeze()

    loop.run(main)
