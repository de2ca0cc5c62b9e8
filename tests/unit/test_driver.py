"""The blocking driver's wait."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator

import pytest

from allgone._core.stop import Wait
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
