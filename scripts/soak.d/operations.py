"""What a supervisor of the soak does: each function is one operation, and looks whether all is gone after it."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from functools import cache
from typing import Any

from state import NOT_STARTED, Soak

import allgone

ALLGONE = [sys.executable, "-m", "allgone"]
MOST_HELD = 6
SLEEP = ["sleep", "100"]


class Abandoned(Exception):
    """Raised by the body of a with block."""


def stop(soak: Soak) -> None:
    soak.start().stop(**soak.policy())


def hold(soak: Soak) -> None:
    """Have some running all the time, for who is killed to leave something."""
    if len(soak.held) < MOST_HELD:
        soak.held.append(soak.start())
    else:
        soak.held.pop(soak.random.randrange(MOST_HELD)).stop(**soak.policy())


def kill(soak: Soak) -> None:
    child = soak.start()
    child.process.kill()
    child.process.wait()
    child.stop(timeout_stop=0)


def left_block(soak: Soak) -> None:
    """By an exception, with what was started as its context manager."""
    child = soak.start(policy=allgone.StopPolicy(**soak.policy()))
    with contextlib.suppress(Abandoned), child.process:
        raise Abandoned
    child.check(child.process.report)


def released(soak: Soak) -> None:
    """Stopped with kill_mode="process", which leaves all but the leader, and then in earnest."""
    child = soak.start(ready=True)
    child.process.stop(allgone.StopPolicy(kill_mode="process", timeout_stop=0))
    child.stop(timeout_stop=0)


def refused(soak: Soak) -> None:
    for words, options, error in (
        (["/nonexistent/program"], {}, FileNotFoundError),
        (["/etc/passwd"], {}, PermissionError),
        (SLEEP, {"cwd": "/nonexistent"}, FileNotFoundError),
        (SLEEP, {"name": "../x"}, ValueError),
    ):
        try:
            allgone.Popen(words, **soak.how | options)
        except error:
            continue
        raise AssertionError(f"{words} {options} was started")


def run(soak: Soak) -> None:
    timeout = soak.random.choice([0.01, 0.1, 0.5])
    reader, writer = os.pipe()
    words = [*soak.command("ignores_sigterm")]
    try:
        allgone.run(words, timeout=timeout, capture_output=True, pass_fds=[writer], policy=_at_once(), **soak.how)
    except allgone.TimeoutExpired:
        pass
    else:
        raise AssertionError("it has ended by itself")
    finally:
        os.close(writer)
    _at_its_end(reader)


def ends_first(soak: Soak) -> None:
    reader, writer = os.pipe()
    done = allgone.run(["sh", "-c", "sleep 100 & exit 3"], pass_fds=[writer], **soak.how)
    os.close(writer)
    _at_its_end(reader)
    assert done.returncode in (3, -signal.SIGKILL), done


def _at_its_end(reader: int) -> None:
    os.set_blocking(reader, False)
    try:
        assert os.read(reader, 1) == b""
    except BlockingIOError:
        raise AssertionError("what it had started has survived") from None
    finally:
        os.close(reader)


def _at_once() -> allgone.StopPolicy:
    return allgone.StopPolicy(timeout_stop=0)


def fixture(soak: Soak) -> None:
    words = ["sh", "-c", "trap 'exit 0' TERM; echo ready; sleep 100 & wait"]
    made = allgone.process_fixture(words, ready=allgone.log_line("ready"), ready_timeout=60, **soak.how)
    with made as process:
        if soak.random.random() < 0.3:
            with process.stopped():
                assert not process.members()
        assert process.members()
    assert not process.members()


def group(soak: Soak) -> None:
    with allgone.group(**soak.how, policy=_at_once()) as together:
        children = [soak.start(together.Popen) for _ in range(soak.random.randint(1, 3))]
        if soak.random.random() < 0.5:
            children.pop().stop(timeout_stop=0)
        if soak.how["backend"] == "cgroup" and soak.random.random() < 0.5:
            together.freeze(timeout=60)
    for child in children:
        child.check(together.report)


def many(soak: Soak) -> None:
    started = [allgone.Popen(SLEEP, **soak.how) for _ in range(soak.random.randint(10, 30))]
    soak.random.shuffle(started)
    for each in started:
        each.stop(_at_once())
        assert not each.members()


def threads(soak: Soak) -> None:
    failures: list[BaseException] = []
    seeds = [soak.random.random() for _ in range(4)]

    def work(seed: float) -> None:
        try:
            for timeout in (0, random.Random(seed).random() / 4):
                process = allgone.Popen(["sh", "-c", "sleep 100 & sleep 100"], **soak.how)
                process.stop(allgone.StopPolicy(timeout_stop=timeout))
                assert not process.members()
        except BaseException as e:  # noqa: BLE001  # raised by who waits for us
            failures.append(e)

    workers = [threading.Thread(target=work, args=[seed]) for seed in seeds]
    for each in workers:
        each.start()
    for each in workers:
        each.join()
    if failures:
        raise failures[0]


def frozen(soak: Soak) -> None:
    child = soak.start()
    child.process.freeze(timeout=60)
    if soak.random.random() < 0.5:
        child.process.thaw()
    child.stop(**soak.policy())


def network(soak: Soak) -> None:
    soak.start(network="private").stop(**soak.policy())


def sealed(soak: Soak) -> None:
    soak.start(seal=True).stop(**soak.policy())


def traced(soak: Soak) -> None:
    soak.start(trace=True, escapees="kill").stop(**soak.policy())


def limited(soak: Soak) -> None:
    """More memory than it may have: the kernel kills, and the report says so; or one that keeps to it."""
    limits = allgone.Limits(memory_max="64M", memory_swap_max=0, tasks_max=500)
    if soak.random.random() < 0.7:
        soak.start(limits=limits, ready=False).stop(**soak.policy())
        return
    eats = [sys.executable, "-S", "-c", "hoard = bytearray(200_000_000); hoard[::4096] = b'x' * len(hoard[::4096])"]
    done = allgone.run(eats, limits=limits, stderr=subprocess.DEVNULL, **soak.how)
    assert done.report.oom_kills or done.returncode != 0, done


def unit(soak: Soak) -> None:
    name = f"soakjob-{os.getpid()}-{soak.random.randrange(1 << 32):x}.scope"
    soak.start(unit=name).stop(**soak.policy())


def forked(soak: Soak) -> None:
    """A child that the supervisor forks has supervised processes of its own, and ends with or without clean-up."""
    clean = soak.random.random() < 0.5
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            allgone.run(["true"], **soak.how)
            process = allgone.Popen(["sh", "-c", "sleep 100 & sleep 100"], **soak.how)
            if clean:
                process.stop(_at_once())
            status = 0
        finally:
            os._exit(status)
    _, status = os.waitpid(pid, 0)
    assert status == 0


def command(soak: Soak) -> None:
    """`allgone run` is a supervisor, too, with a guard of its own, and is killed or ends by itself.

    In a cgroup it is run by allgone; a process group would not hold what it starts in sessions of their own.
    """
    words = [*ALLGONE, "run", "--backend", soak.how["backend"], "--timeout", "300ms", "--timeout-stop", "100ms", "--"]
    words += soak.command("ignores_sigterm")
    quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    in_cgroup = soak.how["backend"] == "cgroup"
    process: subprocess.Popen[Any]
    if in_cgroup:
        process = allgone.Popen(words, **quiet, **soak.how)
    else:
        process = subprocess.Popen(["setpriv", "--pdeathsig", "KILL", "--", *words], **quiet)
    if soak.random.random() < 0.5:
        process.send_signal(signal.SIGKILL)
    process.wait()
    if isinstance(process, allgone.Popen):
        process.stop(_at_once())
        assert not process.members()


def event_loop(soak: Soak) -> None:
    """A run and a process on an event loop, cancelled at some moment or stopped."""
    import anyio

    delay = soak.random.choice([0.001, 0.01, 0.1])
    library = soak.random.choice(["asyncio", "trio"])

    async def main() -> None:
        from allgone import aio

        with anyio.move_on_after(delay):
            await aio.run(soak.command("ignores_sigterm"), capture_output=True, policy=_at_once(), **soak.how)
        process = await aio.open_process(["sh", "-c", "sleep 100 & sleep 100"], **soak.how)
        async with process:
            await process.stop(_at_once())
        assert not process.members()
        with anyio.move_on_after(delay):
            async with aio.group(**soak.how, policy=_at_once()) as group:
                await group.open_process(["sh", "-c", "trap '' TERM; sleep 100"])
                await anyio.sleep(delay / 2)

    anyio.run(main, backend=library)


_OPERATIONS: dict[Callable[[Soak], None], int] = {
    stop: 30, hold: 30, kill: 8, left_block: 8, released: 4, refused: 3, run: 5, ends_first: 8, fixture: 5, group: 6,
    many: 3, threads: 4, frozen: 8, network: 3, sealed: 3, traced: 3, limited: 6, unit: 5, forked: 3, command: 3,
    event_loop: 4,
}  # fmt: skip
_ONLY_CGROUP = {frozen, sealed, limited, unit}
_ONLY_LONG_LIVED = {released}  # what is left on purpose no guard ends, should the supervisor be killed just then
_LEAVES_ORPHANS = {forked, command}


def possible(soak: Soak) -> list[tuple[str, Callable[[Soak], None], int]]:
    """Name, function and weight of those that can be had here, by trying."""
    tried: dict[Callable[[Soak], None], dict[str, Any]] = {
        network: {"network": "private"}, sealed: {"seal": True}, traced: {"trace": True},
        limited: {"limits": allgone.Limits(memory_max="64M", tasks_max=500)},
        unit: {"unit": f"soakjob-{os.getpid()}.scope"},
    }  # fmt: skip
    found = []
    for each, weight in _OPERATIONS.items():
        if each in _ONLY_CGROUP and soak.how["backend"] != "cgroup":
            continue
        if each in _ONLY_LONG_LIVED and not soak.is_long_lived:
            continue
        # The guards of these come to a subreaper when they are orphans, and stay its zombies: as documented.
        if each in _LEAVES_ORPHANS and "sweep" in soak.how and soak.is_long_lived:
            continue
        if each is event_loop and not _has_event_loops():
            continue
        if each not in tried or _can(soak, tried[each]):
            found.append((each.__name__, each, weight))
    return found


def _can(soak: Soak, options: dict[str, Any]) -> bool:
    try:
        allgone.run(["true"], **soak.how | options)
    except (allgone.Unsupported, allgone.LimitUnavailable, *NOT_STARTED):
        return False
    return True


@cache
def _has_event_loops() -> bool:
    try:
        import anyio  # noqa: F401
        import trio  # noqa: F401
    except ImportError:
        return False
    return True
