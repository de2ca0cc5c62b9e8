"""aio.run(): as allgone.run(), awaited."""

from __future__ import annotations

import asyncio
import os
import pickle
import signal
import subprocess

import anyio
import pytest
from aio.conftest import Loop
from support.backends import BackendUnderTest
from support.programs import Lines

import allgone
from allgone import aio


def test_much_goes_in_and_comes_out(loop: Loop, backend: BackendUnderTest) -> None:
    data = os.urandom(1 << 20)
    args = ["sh", "-c", "sleep 1000 & tee /dev/stderr"]
    done = loop.run(lambda: aio.run(args, input=data, capture_output=True, **backend.options))
    assert (done.stdout, done.stderr) == (data, data)
    assert done.returncode == 0
    assert len(done.report.members) == 1


def test_text_as_the_blocking_one(loop: Loop) -> None:
    done = loop.run(lambda: aio.run(["cat"], input="süß\r\n", capture_output=True, text=True, encoding="utf-8"))
    assert done.stdout == allgone.run(["cat"], input="süß\r\n", capture_output=True, text=True, encoding="utf-8").stdout


def test_a_command_that_does_not_read_its_input(loop: Loop) -> None:
    assert loop.run(lambda: aio.run(["true"], input=bytes(1 << 20))).returncode == 0


def test_check(loop: Loop) -> None:
    with pytest.raises(subprocess.CalledProcessError) as caught:
        loop.run(lambda: aio.run("echo out; echo err >&2; exit 3", shell=True, check=True, capture_output=True))
    assert (caught.value.returncode, caught.value.stdout, caught.value.stderr) == (3, b"out\n", b"err\n")
    assert pickle.loads(pickle.dumps(caught.value)).returncode == 3


def test_a_timeout_ends_the_tree_and_tells_what_was_said(loop: Loop, backend: BackendUnderTest) -> None:
    reader, writer = os.pipe()
    lines = Lines(reader)
    args = ["sh", "-c", "sleep 1000 & echo so far; exec sleep 1000"]

    async def main() -> None:
        with pytest.raises(subprocess.TimeoutExpired) as caught:
            await aio.run(args, timeout=0.2, stdout=-1, stderr=writer, **backend.options)
        assert caught.value.output == b"so far\n"
        os.close(writer)
        assert lines.are_over()

    loop.run(main)
    lines.close()


def test_cancelled_while_a_grandchild_holds_the_captured_pipe(loop: Loop, backend: BackendUnderTest) -> None:
    reader, writer = os.pipe()
    lines = Lines(reader)

    async def main() -> None:
        args = ["sh", "-c", "sleep 1000 & echo up >&2; exec sleep 1000"]
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(lambda: aio.run(args, stdout=-1, stderr=writer, **backend.options))
                await anyio.wait_readable(reader)
                tasks.cancel_scope.cancel()
        assert not scope.cancel_called
        os.close(writer)
        lines.wait_for("up")
        assert lines.are_over()

    loop.run(main)
    lines.close()


def test_asyncios_own_timeouts_and_cancellations() -> None:
    async def main() -> None:
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(aio.run(["sleep", "1000"]), 0.05)
        task = asyncio.create_task(aio.run(["sleep", "1000"]))
        await asyncio.sleep(0.02)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())


def test_asyncios_second_cancellation_kills_what_takes_its_time() -> None:
    patient = allgone.StopPolicy(timeout_stop=1000)
    args = ["sh", "-c", "trap '' TERM; echo up; exec sleep 1000"]

    async def main() -> aio.Process:
        process = await aio.open_process(args, stdout=-1, policy=patient)
        is_up = asyncio.Event()

        async def life() -> None:
            async with process:
                await process.stdout.receive()
                is_up.set()
                await process.wait()

        task = asyncio.create_task(life())
        await is_up.wait()
        for _ in range(2):
            task.cancel()
            await asyncio.sleep(0.05)
        with pytest.raises(asyncio.CancelledError):
            await task
        return process

    assert asyncio.run(main()).report.returncode == -signal.SIGKILL


@pytest.mark.parametrize(
    "keywords",
    [{"input": b"", "stdin": -1}, {"capture_output": True, "stdout": -1}, {"capture_output": True, "stderr": -1}],
)
def test_what_run_does_not_take_together(loop: Loop, keywords: dict) -> None:
    with pytest.raises(ValueError, match="may not"):
        loop.run(lambda: aio.run(["true"], **keywords))
