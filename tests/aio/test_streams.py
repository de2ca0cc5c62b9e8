"""The pipes to a process: nothing read ahead, nothing lost, and errors that say what it was."""

from __future__ import annotations

import fcntl
import os
import struct
import sys
import termios

import anyio
import pytest
from aio.conftest import Loop

import allgone
from allgone import aio

LARGE = 1 << 20
ANSWERS = ["sh", "-c", 'while read -r line; do echo "$line"; echo "$line" >&2; done']


def held_by(pipe: int) -> int:
    """Bytes that are in it."""
    return struct.unpack("i", fcntl.ioctl(pipe, termios.FIONREAD, b"\0" * 4))[0]


async def all_of(stream: anyio.abc.ByteReceiveStream) -> bytes:
    return b"".join([chunk async for chunk in stream])


def test_there_are_streams_where_there_are_pipes_only(loop: Loop) -> None:
    async def main() -> None:
        async with await aio.open_process(["true"], stdout=allgone.DEVNULL) as process:
            assert process.stdin is process.stdout is process.stderr is None
        async with await aio.open_process(["true"], stdout=-1, stderr=allgone.STDOUT) as process:
            assert isinstance(process.stdout, anyio.abc.ByteReceiveStream)
            assert process.stderr is None

    loop.run(main)


def test_an_interactive_process_is_answered_on_both_pipes(loop: Loop) -> None:
    async def main() -> None:
        async with await aio.open_process(ANSWERS, stdin=-1, stdout=-1, stderr=-1) as process:
            for word in (b"one\n", b"two\n", b"three\n"):
                await process.stdin.send(word)
                assert await process.stdout.receive() == word
                assert await process.stderr.receive() == word
            await process.stdin.aclose()
            for stream in (process.stdout, process.stderr):
                with pytest.raises(anyio.EndOfStream):
                    await stream.receive()

    loop.run(main)


def test_much_is_written_and_read_at_the_same_time(loop: Loop) -> None:
    data = os.urandom(LARGE)

    async def main() -> None:
        async with await aio.open_process(["cat"], stdin=-1, stdout=-1) as process:

            async def feed() -> None:
                await process.stdin.send(data)
                await process.stdin.aclose()

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(feed)
                assert await all_of(process.stdout) == data

    loop.run(main)


def test_nothing_is_read_before_it_is_asked_for(loop: Loop) -> None:
    async def main() -> None:
        async with await aio.open_process(["head", "-c", str(LARGE), "/dev/zero"], stdout=-1) as process:
            first = await process.stdout.receive(10)
            assert len(first) == 10
            with anyio.move_on_after(0.05) as scope:
                await process.wait()
            assert scope.cancelled_caught  # it waits for somebody to read
            assert 0 < held_by(process.stdout.fileno()) < LARGE - 10
            assert len(await all_of(process.stdout)) == LARGE - 10

    loop.run(main)


def test_send_waits_while_nobody_reads(loop: Loop) -> None:
    async def main() -> None:
        async with await aio.open_process(["sleep", "1000"], stdin=-1) as process:
            with anyio.move_on_after(0.05) as scope:
                await process.stdin.send(bytes(LARGE))
            assert scope.cancelled_caught
            assert held_by(process.stdin.fileno()) < LARGE
            await process.stop()

    loop.run(main)


def test_a_pipe_that_nobody_reads_any_more_is_broken(loop: Loop) -> None:
    async def main() -> None:
        async with await aio.open_process(["true"], stdin=-1) as process:
            await process.wait()
            with pytest.raises(anyio.BrokenResourceError):
                await process.stdin.send(b"x")

    loop.run(main)


def test_a_stream_closed_while_a_task_waits_for_it(loop: Loop) -> None:
    async def main() -> list[str]:
        closed = []

        async def reads() -> None:
            with pytest.raises(anyio.ClosedResourceError):
                await process.stdout.receive()
            closed.append("read")

        async def writes() -> None:
            with pytest.raises(anyio.ClosedResourceError):
                await process.stdin.send(bytes(LARGE))
            closed.append("write")

        async with await aio.open_process(["sleep", "1000"], stdin=-1, stdout=-1) as process:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(reads)
                tasks.start_soon(writes)
                await anyio.wait_all_tasks_blocked()
                await process.stdin.aclose()
                await process.stdout.aclose()
            for use in (process.stdin.send(b"x"), process.stdout.receive()):
                with pytest.raises(anyio.ClosedResourceError):
                    await use
            await process.stdout.aclose()  # again
            await process.stop()
        return closed

    assert sorted(loop.run(main)) == ["read", "write"]


def test_one_task_at_a_time_reads(loop: Loop) -> None:
    async def main() -> None:
        async with await aio.open_process(["sleep", "1000"], stdout=-1) as process:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(process.stdout.receive)
                await anyio.wait_all_tasks_blocked()
                with pytest.raises(anyio.BusyResourceError):
                    await process.stdout.receive()
                tasks.cancel_scope.cancel()
            await process.stop()

    loop.run(main)


def test_what_was_written_before_the_stop_can_be_read_after_it(loop: Loop) -> None:
    async def main() -> bytes:
        async with await aio.open_process(
            ["sh", "-c", "echo said; echo up >&2; exec sleep 1000"], stdout=-1, stderr=-1
        ) as process:
            await process.stderr.receive()
            await process.stop()
            return await all_of(process.stdout)

    assert loop.run(main) == b"said\n"


def test_a_wrong_limit_is_refused(loop: Loop) -> None:
    async def main() -> None:
        async with await aio.open_process(["true"], stdout=-1) as process:
            with pytest.raises(ValueError, match="max_bytes"):
                await process.stdout.receive(0)

    loop.run(main)


def test_anyios_wrappers_take_the_streams(loop: Loop) -> None:
    from anyio.streams.text import TextReceiveStream

    async def main() -> str:
        args = [sys.executable, "-c", "import sys; sys.stdout.buffer.write('süß'.encode())"]
        async with await aio.open_process(args, stdout=-1) as process:
            return "".join([part async for part in TextReceiveStream(process.stdout)])

    assert loop.run(main) == "süß"
