"""aio.process_fixture(): ready before the body runs, all gone after it."""

from __future__ import annotations

import socket
import sys
import threading

import anyio
import pytest
from aio.conftest import Loop
from support.backends import BackendUnderTest
from support.programs import PATIENCE

import allgone
from allgone import aio

SOON = allgone.StopPolicy(timeout_stop=0.3)
UP = ["sh", "-c", "sleep 1000 & echo up; exec sleep 1000"]
# Listens at the port that is its argument, and says so; ends by itself.
LISTENS = [
    sys.executable, "-S", "-c",
    "import signal, socket, sys; signal.alarm(120)\n"
    "s = socket.create_server(('127.0.0.1', int(sys.argv[1]))); print('listening', flush=True); signal.pause()",
]  # fmt: skip


def entered(loop: Loop, args: list[str], **keywords: object) -> aio.FixtureProcess:
    async def main() -> aio.FixtureProcess:
        async with aio.process_fixture(args, **keywords) as process:
            assert process.returncode is None
        return process

    return loop.run(main)


def test_the_probes_of_allgone(loop: Loop, backend: BackendUnderTest, port: int) -> None:
    for ready in (allgone.tcp(port), allgone.listening(port), allgone.log_line("listening")):
        process = entered(loop, [*LISTENS, str(port)], ready=ready, **backend.options)
        assert process.returncode == -15
        assert process.members() == frozenset()
        if repr(ready).startswith("listening("):
            assert [each.released for each in process.report.ports] == [True]


def test_path_exists_and_notify(loop: Loop, backend: BackendUnderTest, tmp_path: object) -> None:
    entered(
        loop, ["sh", "-c", f"echo >{tmp_path}/there; exec sleep 1000"], ready=allgone.path_exists(f"{tmp_path}/there")
    )
    tells = (
        "import os, signal, socket; signal.alarm(120); s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)\n"
        "to = os.environ['NOTIFY_SOCKET']; s.connect(to.replace('@', '\\0', 1)); s.send(b'READY=1\\nSTATUS=here')\n"
        "signal.pause()"
    )
    process = entered(loop, [sys.executable, "-S", "-c", tells], ready=allgone.notify(), **backend.options)
    assert process.notified.status == "here"


def test_functions_that_block_are_asked_in_a_thread_and_get_the_process(loop: Loop) -> None:
    asked_in = set()

    def ready(process: aio.FixtureProcess) -> bool:
        asked_in.add(threading.current_thread())
        return "up" in process.output()

    process = entered(loop, UP, ready=ready, output=allgone.capture())
    assert process.output() == "up\n"
    assert threading.main_thread() not in asked_in


def test_coroutine_functions_are_awaited(loop: Loop) -> None:
    async def with_process(process: aio.FixtureProcess) -> bool:
        await anyio.sleep(0)
        return "up" in process.output()

    asked = []

    async def without() -> bool:
        asked.append(1)
        if len(asked) < 3:
            raise ConnectionRefusedError("not yet")
        return True

    assert entered(loop, UP, ready=with_process, output=allgone.capture()).output() == "up\n"
    entered(loop, UP, ready=without)
    assert len(asked) == 3


def test_the_blocking_fixture_refuses_coroutine_functions() -> None:
    async def ready() -> bool:
        return True

    with pytest.raises(TypeError, match="aio"), allgone.process_fixture(["true"], ready=ready):
        pass


@pytest.mark.parametrize("how", ["never", "in a thread", "says no"])
def test_not_ready_in_time(loop: Loop, backend: BackendUnderTest, how: str) -> None:
    over = threading.Event()

    async def never() -> bool:
        await anyio.sleep_forever()
        return True

    def in_a_thread() -> bool:
        return over.wait(PATIENCE)

    async def says_no() -> bool:
        raise ConnectionRefusedError("nobody there")

    ready = {"never": never, "in a thread": in_a_thread, "says no": says_no}[how]
    with pytest.raises(allgone.NotReady, match=r"was not true within 0\.2 s") as caught:
        entered(loop, UP, ready=ready, ready_timeout=0.2, output=allgone.capture(), **backend.options)
    over.set()
    assert caught.value.tail == "up\n"
    assert ("nobody there" in str(caught.value)) == (how == "says no")


def test_ended_before_ready(loop: Loop, backend: BackendUnderTest) -> None:
    with pytest.raises(allgone.ExitedBeforeReady) as caught:
        entered(loop, ["sh", "-c", "echo oh no; exit 3"], ready=allgone.log_line("up"), **backend.options)
    assert caught.value.returncode == 3
    assert caught.value.tail == "oh no\n"


def test_port_taken(loop: Loop, port: int) -> None:
    with socket.create_server(("127.0.0.1", port)), pytest.raises(allgone.PortTaken):
        entered(loop, [*LISTENS, str(port)], ready=allgone.listening(port))


def test_an_error_of_the_probe_or_of_the_body_stops_it(loop: Loop, backend: BackendUnderTest) -> None:
    def wrong() -> bool:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        entered(loop, UP, ready=wrong, **backend.options)

    async def main() -> aio.FixtureProcess:
        with pytest.raises(ZeroDivisionError):
            async with aio.process_fixture(UP, **backend.options) as process:
                _ = 1 / 0
        return process

    assert loop.run(main).returncode == -15


def test_the_loop_goes_on_while_a_probe_blocks(loop: Loop) -> None:
    went_on = threading.Event()

    def ready() -> bool:
        return went_on.wait(PATIENCE)

    async def main() -> None:
        async with anyio.create_task_group() as tasks:

            async def fixture() -> None:
                async with aio.process_fixture(UP, ready=ready):
                    pass

            tasks.start_soon(fixture)
            await anyio.sleep(0.01)
            went_on.set()

    loop.run(main)


def test_many_fixtures_start_at_the_same_time(loop: Loop) -> None:
    together = threading.Barrier(3)

    def ready() -> bool:
        together.wait(PATIENCE)
        return True

    async def main() -> None:
        async def one() -> None:
            async with aio.process_fixture(UP, ready=ready):
                pass

        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(one)

    loop.run(main)


def test_bad_arguments_are_refused_before_anything_is_started(loop: Loop) -> None:
    for keywords, error in (
        ({"ready": 7}, TypeError),
        ({"ready_timeout": -1}, ValueError),
        ({"stdout": -1}, TypeError),
        ({"output": 7}, TypeError),
        ({"text": True}, ValueError),
    ):
        with pytest.raises(error):
            entered(loop, ["/not/there"], **keywords)


def test_a_watchdog_ends_it(loop: Loop) -> None:
    tells = (
        "import os, signal, socket; signal.alarm(120); s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)\n"
        "to = os.environ['NOTIFY_SOCKET']; s.connect(to.replace('@', '\\0', 1)); s.send(b'READY=1')\n"
        "signal.pause()"
    )

    async def main() -> None:
        args = [sys.executable, "-S", "-c", tells]
        async with aio.process_fixture(args, ready=allgone.notify(watchdog=0.05), policy=SOON) as process:
            await process.wait()

    with pytest.raises(allgone.WatchdogTimeout):
        loop.run(main)
