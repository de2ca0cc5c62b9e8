"""allgone.aio's processes: started, waited for, signalled, stopped, on each event loop."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import threading

import anyio
import pytest
from aio.conftest import Loop
from support.backends import BackendUnderTest
from support.programs import PATIENCE, command

import allgone
from allgone import aio

SOON = allgone.StopPolicy(timeout_stop=0.3)
TREE = ["sh", "-c", "sleep 1000 & echo up; exec sleep 1000"]


async def line(stream: anyio.abc.ByteReceiveStream) -> bytes:
    text = b""
    while not text.endswith(b"\n"):
        text += await stream.receive(1)
    return text


def test_a_block_left_normally_waits_for_the_leader_then_stops_the_rest(loop: Loop, backend: BackendUnderTest) -> None:
    async def main() -> aio.Process:
        args = ["sh", "-c", "sleep 1000 & read line; exit 3"]
        async with await aio.open_process(args, stdin=-1, **backend.options) as process:
            assert process.returncode is None
            await process.stdin.send(b"go on\n")
        return process

    process = loop.run(main)
    assert process.returncode == 3
    assert len(process.report.members) == 1
    assert process.members() == frozenset()


def test_a_block_left_by_an_exception_stops_at_once(loop: Loop, backend: BackendUnderTest) -> None:
    async def main() -> aio.Process:
        started = []

        async def life() -> None:
            async with await aio.open_process(TREE, stdout=-1, **backend.options) as process:
                started.append(process)
                await line(process.stdout)
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await life()
        return started[0]

    process = loop.run(main)
    assert process.returncode == -signal.SIGTERM
    assert len(process.report.members) == 2


def test_a_cancelled_block_stops_as_its_policy_says(loop: Loop, backend: BackendUnderTest) -> None:
    async def main() -> tuple[aio.Process, bytes]:
        args = command("ignores_sigterm")
        with anyio.CancelScope() as scope:
            async with await aio.open_process(args, stdout=-1, policy=SOON, **backend.options) as process:
                while b"ready" not in await line(process.stdout):
                    pass
                scope.cancel()
                await process.wait()
        assert scope.cancelled_caught
        return process

    process = loop.run(main)
    assert [each.signum for each in process.report.sent] == [signal.SIGTERM, signal.SIGCONT, signal.SIGKILL]
    assert process.report.sent[-1].after >= SOON.timeout_stop
    assert process.returncode == -signal.SIGKILL


def test_a_stop_that_is_cancelled_meanwhile_kills_and_has_a_report(loop: Loop, backend: BackendUnderTest) -> None:
    patient = allgone.StopPolicy(timeout_stop=1000)

    async def main() -> aio.Process:
        args = command("ignores_sigterm")
        async with await aio.open_process(args, stdout=-1, policy=patient, **backend.options) as process:
            while b"ready" not in await line(process.stdout):
                pass
            with anyio.move_on_after(0.05) as scope:
                await process.stop()
            assert scope.cancelled_caught
            assert process.members() == frozenset()
            assert process.report.returncode == -signal.SIGKILL
            return process

    assert loop.run(main).returncode == -signal.SIGKILL


def test_two_tasks_may_stop_it_and_many_may_wait(loop: Loop, backend: BackendUnderTest) -> None:
    async def main() -> list[object]:
        found: list[object] = []

        async def waits() -> None:
            found.append(await process.wait())

        async def stops() -> None:
            found.append(await process.stop())

        async with await aio.open_process(TREE, **backend.options) as process, anyio.create_task_group() as tasks:
            for each in (waits, waits, stops, stops, waits):
                tasks.start_soon(each)
        return found

    found = loop.run(main)
    reports = [each for each in found if isinstance(each, allgone.Report)]
    assert reports[0] is reports[1]
    assert [each for each in found if not isinstance(each, allgone.Report)] == [-15, -15, -15]


def test_a_wait_ends_also_when_the_process_is_reaped_by_a_look_at_its_returncode(loop: Loop) -> None:
    async def main() -> int:
        async with await aio.open_process(["sleep", "1000"]) as process, anyio.create_task_group() as tasks:
            tasks.start_soon(process.wait)
            await anyio.wait_all_tasks_blocked()
            process.kill()
            while process.returncode is None:  # no await in here: the loop sees the end only later
                os.sched_yield()
        return process.returncode

    assert loop.run(main) == -signal.SIGKILL


def test_wait_cancelled_stops_nothing(loop: Loop) -> None:
    async def main() -> None:
        async with await aio.open_process(["cat"], stdin=-1) as process:
            with anyio.move_on_after(0.01):
                await process.wait()
            assert process.returncode is None
        assert process.returncode == 0

    loop.run(main)


def test_a_wait_goes_on_when_there_are_no_fds_left(loop: Loop, backend: BackendUnderTest) -> None:
    async def main() -> None:
        async with await aio.open_process(["cat"], stdin=-1, **backend.options) as process:
            soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            lowest_free = os.dup(0)
            os.close(lowest_free)
            async with anyio.create_task_group() as tasks:
                resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, hard))
                with pytest.raises(OSError, match="Too many open files"):
                    os.dup(0)
                tasks.start_soon(process.wait)
                await anyio.sleep(0.1)
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
                assert process.returncode is None
                await process.stdin.aclose()
        assert process.returncode == 0

    loop.run(main)


def test_signals_reach_whom_they_do_with_popen(loop: Loop, backend: BackendUnderTest) -> None:
    async def main() -> None:
        async with await aio.open_process(TREE, stdout=-1, **backend.options) as process:
            await line(process.stdout)
            assert process.signal_all(signal.SIGCONT) == process.members()
            process.send_signal(signal.SIGKILL)
            assert await process.wait() == -signal.SIGKILL
            assert len(process.members()) == 1
            process.terminate()
        async with await aio.open_process(TREE, stdout=-1, **backend.options) as process:
            await line(process.stdout)
            process.kill()
            assert await process.wait() == -signal.SIGKILL

    loop.run(main)


def test_it_tells_what_popen_tells(loop: Loop, backend: BackendUnderTest) -> None:
    async def main() -> None:
        async with await aio.open_process(["cat"], stdin=-1, name=f"told-{os.getpid()}", **backend.options) as process:
            assert process.args == ["cat"]
            assert process.backend == backend.name
            assert process.name == f"told-{os.getpid()}"
            assert process.guarantees.escape_proof == (backend.name == "cgroup")
            assert process.usage().cpu_user < 60
            assert process.escapees() == frozenset()
            assert await process.listening() == ()
            assert process.netns is None
            assert repr(process) == f"<allgone.aio.Process ['cat']: running with PID {process.pid}>"
            with pytest.raises(ValueError, match="trace=True"):
                process.genealogy()
        assert repr(process) == "<allgone.aio.Process ['cat']: exited with status 0>"

    loop.run(main)


def test_frozen_and_thawed(loop: Loop, cgroup_base: str) -> None:
    async def main() -> None:
        async with await aio.open_process(["cat"], stdin=-1, stdout=-1, backend="cgroup") as process:
            async with process.frozen():
                await process.stdin.send(b"x")
                with anyio.move_on_after(0.05) as scope:
                    await process.stdout.receive()
                assert scope.cancelled_caught
            assert await process.stdout.receive() == b"x"
            await process.freeze()  # the end of the block thaws it

    loop.run(main)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"text": True}, "text="),
        ({"universal_newlines": True}, "universal_newlines="),
        ({"encoding": "utf-8"}, "encoding="),
        ({"errors": "strict"}, "errors="),
        ({"bufsize": 1}, "bufsize="),
        ({"backend": "tmux"}, "backend must be one of"),
        ({"name": "../x"}, "name"),
    ],
)
def test_bad_arguments_are_refused(loop: Loop, options: dict, error: str) -> None:
    with pytest.raises(ValueError, match=error):
        loop.run(lambda: aio.open_process(["true"], **options))


def test_a_command_that_is_not_there(loop: Loop, backend: BackendUnderTest, searchable_path: None) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        loop.run(lambda: aio.open_process(["not-there-at-all"], **backend.options))
    assert caught.value.filename == "not-there-at-all"
    with pytest.raises(FileNotFoundError):
        loop.run(lambda: aio.run(["not-there-at-all"], **backend.options))


def test_shell_env_and_cwd(loop: Loop, tmp_path: object) -> None:
    async def main() -> bytes:
        args = 'echo "$WHO in $(pwd)"'
        async with await aio.open_process(args, shell=True, env={"WHO": "me"}, cwd=tmp_path, stdout=-1) as process:
            return await line(process.stdout)

    assert loop.run(main) == f"me in {tmp_path}\n".encode()


def test_it_can_be_used_in_event_loops_of_two_threads(loop: Loop, backend: BackendUnderTest) -> None:
    done = []

    def works() -> None:
        async def main() -> None:
            for _ in range(3):
                async with await aio.open_process(TREE, stdout=-1, **backend.options) as process:
                    await line(process.stdout)
                    done.append((await process.stop()).returncode)

        loop.run(main)

    threads = [threading.Thread(target=works) for _ in range(2)]
    for each in threads:
        each.start()
    for each in threads:
        each.join(PATIENCE)
    assert done == [-15] * 6


def test_a_fork_neither_stops_nor_waits(backend: BackendUnderTest) -> None:
    async def main() -> tuple[int, int | None]:
        async with await aio.open_process(["sleep", "1000"], **backend.options) as process:
            pid = os.fork()
            if pid == 0:
                code = 1
                try:
                    await process.aclose()  # does nothing
                    try:
                        await process.stop()
                    except allgone.WrongProcess:
                        code = 0
                finally:
                    os._exit(code)
            _, status = os.waitpid(pid, 0)
            running = process.returncode
            await process.stop()
        return os.waitstatus_to_exitcode(status), running

    assert anyio.run(main) == (0, None)


def test_no_thread_waits(loop: Loop) -> None:
    async def main() -> None:
        async with await aio.open_process(["cat"], stdin=-1) as one, anyio.create_task_group() as tasks:
            before = set(threading.enumerate())
            async with await aio.open_process(["cat"], stdin=-1) as two:
                tasks.start_soon(two.wait)
                tasks.start_soon(one.wait)
                await anyio.wait_all_tasks_blocked()
                assert set(threading.enumerate()) - before == set()  # those of other loops may end meanwhile
            await one.stdin.aclose()

    loop.run(main)


def test_allgone_does_not_import_anyio_and_aio_says_what_it_needs() -> None:
    program = """
import sys, allgone
allgone.Popen, allgone.run, allgone.process_fixture, allgone.group
assert "anyio" not in sys.modules and "asyncio" not in sys.modules
sys.modules["anyio"] = None
try:
    import allgone.aio
except ImportError as e:
    assert "pip install 'allgone[aio]'" in str(e), e
else:
    raise AssertionError
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
