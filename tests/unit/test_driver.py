"""The blocking driver's wait."""

from __future__ import annotations

import math
import os
import signal
import threading
import time
from collections.abc import Iterator

import pytest

from allgone._core.stop import Wait
from allgone._linux.pidfd import Child
from allgone._process import driver

LONG = 20.0


@pytest.fixture
def signal_soon() -> Iterator[None]:
    """SIGALRM in a moment, with a handler that does nothing."""
    before = signal.signal(signal.SIGALRM, lambda *_: None)
    signal.setitimer(signal.ITIMER_REAL, 0.02)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.usefixtures("signal_soon")
def test_a_signal_ends_a_wait() -> None:
    # poll(2) alone would go on: Python notes the signal and calls poll again.
    began = time.monotonic()
    driver.wait_for(Wait((), began + LONG))
    assert time.monotonic() - began < LONG / 2
    assert signal.set_wakeup_fd(-1) == -1


def test_a_wait_leaves_an_event_loops_wakeup_fd_alone() -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer)
    try:
        driver.wait_for(Wait((), time.monotonic() + 0.01))
        assert signal.set_wakeup_fd(-1) == writer
    finally:
        signal.set_wakeup_fd(-1)
        os.close(reader)
        os.close(writer)


def test_other_threads_can_wait() -> None:
    reader, writer = os.pipe()
    waiting = threading.Thread(target=driver.wait_for, args=(Wait((reader,), time.monotonic() + LONG),))
    waiting.start()
    os.write(writer, b"1")
    waiting.join(LONG / 2)
    assert not waiting.is_alive()
    os.close(reader)
    os.close(writer)


def spawn(*argv: str) -> Child:
    return Child(os.posix_spawnp(argv[0], argv, os.environ))


@pytest.mark.parametrize("timeout", [math.inf, 1e300, 1e10, 3e6])
def test_a_very_long_wait_for_an_end_is_a_wait(timeout: float) -> None:
    child = spawn("sleep", "0.01")
    assert driver.ends(child, time.monotonic() + timeout)
    child.reap()


@pytest.mark.parametrize("timeout", [0, -1, -math.inf, 0.001])
def test_a_short_wait_for_an_end_says_that_it_runs_on(timeout: float) -> None:
    child = spawn("sleep", "1000")
    assert not driver.ends(child, time.monotonic() + timeout)
    child.send(signal.SIGKILL)
    child.reap(block=True)


def test_a_wait_longer_than_poll_knows_goes_on_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "_LONGEST_POLL", 1)
    child = spawn("sleep", "0.05")
    assert driver.ends(child, time.monotonic() + 1000)
    child.reap()


def test_a_wait_for_one_that_somebody_else_has_reaped_is_over() -> None:
    child = spawn("true")
    os.waitpid(child.pid, 0)
    assert driver.ends(child, math.inf)
