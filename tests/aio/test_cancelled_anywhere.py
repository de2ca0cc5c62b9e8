"""A start, a life and a stop, cancelled at every await in turn: nothing is left, and the cancellation comes out."""

from __future__ import annotations

import asyncio
import gc
import os
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import anyio
import pytest
from aio.conftest import LOOPS, Loop
from support import cgroups, leaks
from support.backends import BACKENDS, BackendUnderTest
from support.every_await import Disturbed
from support.programs import Lines

import allgone
from allgone import aio
from allgone._backends import choose

SOON = allgone.StopPolicy(timeout_stop=0.05)
MOST = 300  # suspensions that a life may take, which takes some thirty
TREE = ["sh", "-c", "sleep 1000 & echo up; exec sleep 1000"]
PAIRS = [("asyncio", "cgroup"), ("trio", "process-group")]  # by default not each loop with each backend
NATIVE_PAIRS = [("asyncio", "process-group")]  # trio has scopes only
Options = dict[str, Any]
Life = Callable[[Options], Awaitable[object]]


async def stopped(options: Options) -> None:
    async with await aio.open_process(TREE, stdout=-1, policy=SOON, **options) as process:
        await process.stdout.receive()
        await process.stop()


class Unknown:
    """A backend of which nobody knows how long it takes, so that it is used in a thread."""

    def __init__(self, backend: allgone.Backend) -> None:
        self._backend = backend
        self.name = backend.name
        self.create = backend.create

    def close(self) -> None:
        pass

    def after_fork_in_child(self) -> None:
        pass


async def started_in_a_thread(options: Options) -> None:
    options["backend"] = Unknown(choose.backend(options["backend"], sweep=options.pop("sweep", False)))
    await stopped(options)


async def stopped_the_hard_way(options: Options) -> None:
    deaf = ["sh", "-c", "trap '' TERM; sleep 1000 & echo up; exec sleep 1000"]
    async with await aio.open_process(deaf, stdout=-1, policy=SOON, **options) as process:
        await process.stdout.receive()
        await process.stop()


async def waited_for(options: Options) -> None:
    process = await aio.open_process(["sh", "-c", "sleep 1000 & cat"], stdin=-1, stdout=-1, **options)
    async with process:
        await process.stdin.send(b"x" * 100_000)
        read = 0
        while read < 100_000:
            read += len(await process.stdout.receive())
        await process.stdin.aclose()
        await process.wait()


async def run(options: Options) -> None:
    done = await aio.run(["sh", "-c", "sleep 1000 & cat"], input=b"x" * 200_000, stdout=-1, policy=SOON, **options)
    assert len(done.stdout) == 200_000


async def timed_out(options: Options) -> None:
    with pytest.raises(allgone.TimeoutExpired):
        await aio.run(TREE, timeout=0.05, stdout=-1, policy=SOON, **options)


async def fixture(options: Options) -> None:
    del options["stderr"]

    async def says_up(process: aio.FixtureProcess) -> bool:
        await anyio.lowlevel.checkpoint()
        return "up" in process.output()

    async with aio.process_fixture(TREE, ready=says_up, output=allgone.capture(), policy=SOON, **options):
        pass


async def fixture_asked_in_a_thread(options: Options) -> None:
    del options["stderr"]
    said = []

    def second_time() -> bool:
        said.append(1)
        return len(said) == 2

    async with aio.process_fixture(TREE, ready=second_time, output=allgone.capture(), policy=SOON, **options):
        pass


async def group(options: Options) -> None:
    stderr = options.pop("stderr")
    async with aio.group(policy=SOON, **options) as both:
        one = await both.open_process(TREE, stdout=-1, stderr=stderr)
        await one.stdout.receive()
        await both.open_process(TREE, stdout=-1, stderr=stderr)
        await one.stop()


LIVES = (
    stopped,
    started_in_a_thread,
    stopped_the_hard_way,
    waited_for,
    run,
    timed_out,
    fixture,
    fixture_asked_in_a_thread,
    group,
)


@contextmanager
def holding_stderr() -> Iterator[tuple[int, Callable[[], bool]]]:
    """The write end of a pipe for all processes of a life, and whether they are all gone."""
    reader, writer = os.pipe()
    lines = Lines(reader)
    open_ends = [writer]

    def all_gone() -> bool:
        os.close(open_ends.pop())
        return lines.are_over()

    try:
        yield writer, all_gone
    finally:
        for end in open_ends:
            os.close(end)
        lines.close()


async def lived(life: Life, options: Options, nth: int, *, natively: bool) -> tuple[int, bool]:
    """(how many suspensions there were, whether the cancellation came out)."""
    with anyio.CancelScope() as scope:
        task = asyncio.current_task() if natively else None
        disturbed = Disturbed(life(options), nth, task.cancel if task is not None else scope.cancel)
        try:
            await disturbed
            if disturbed.count >= nth:
                await anyio.lowlevel.checkpoint()  # it came when nothing was left that it could interrupt
        except asyncio.CancelledError:
            if task is None or scope.cancel_called:
                raise
            if hasattr(task, "uncancel"):  # Python 3.11
                task.uncancel()
            return disturbed.count, True
    return disturbed.count, scope.cancelled_caught


def at_every_await(loop: Loop, life: Life, options: Callable[[], Options], *, natively: bool = False) -> int:
    base = os.environ.get("ALLGONE_CGROUP")
    for nth in range(1, MOST):
        with holding_stderr() as (writer, all_gone):

            async def once(nth: int = nth, writer: int = writer) -> tuple[int, bool, bool, set[str]]:
                count, came_out = await lived(life, {**options(), "stderr": writer}, nth, natively=natively)
                left = {each for each in cgroups.tree(base)[1:] if not leaks.is_own_home(each)} if base else set()
                return count, came_out, all_gone(), left

            count, came_out, gone, left = loop.run(once)
        gc.collect()
        assert gone, f"a process is left when cancelled at await {nth} of {count}"
        assert not left, f"cgroups are left when cancelled at await {nth} of {count}: {left}"
        if count < nth:
            assert not came_out
            return nth - 1
        assert came_out, f"the cancellation at await {nth} of {count} was lost"
    pytest.fail(f"more than {MOST} awaits")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    natively = "a_task" in metafunc.function.__name__
    pairs = [
        (loop, backend)
        for loop in LOOPS
        for backend in BACKENDS
        if (loop.label, backend.label) in (NATIVE_PAIRS if natively else PAIRS)
        or (metafunc.config.getoption("--run-slow") and not (natively and loop.label == "trio"))
    ]
    ids = [f"{loop.label}-{backend.label}" for loop, backend in pairs]
    metafunc.parametrize("pair", pairs, indirect=True, ids=ids)


@pytest.fixture
def pair(request: pytest.FixtureRequest) -> tuple[Loop, BackendUnderTest]:
    if request.param[1].name == "cgroup":
        request.getfixturevalue("cgroup_base")
    return request.param


@pytest.mark.parametrize("life", LIVES, ids=lambda life: life.__name__)
def test_a_scope_cancelled_at_any_await_leaves_nothing(pair: tuple[Loop, BackendUnderTest], life: Life) -> None:
    awaits = at_every_await(pair[0], life, lambda: dict(pair[1].options))
    assert awaits > 1  # a probe or a wait, and the stop, at the least


@pytest.mark.parametrize("life", LIVES, ids=lambda life: life.__name__)
def test_a_task_cancelled_at_any_await_leaves_nothing(pair: tuple[Loop, BackendUnderTest], life: Life) -> None:
    at_every_await(pair[0], life, lambda: dict(pair[1].options), natively=True)
