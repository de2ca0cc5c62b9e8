"""`allgone run` and the signals that came while it was still starting the command: nobody knows who sent them."""

from __future__ import annotations

import signal
from typing import Any, cast

import pytest

from allgone.cli.supervision import Supervision


class Command:
    """That never ends, and notes what it was sent."""

    pid = 1

    def __init__(self) -> None:
        self.sent: list[int] = []

    def poll(self) -> None:
        return None

    def send_signal(self, signum: int) -> None:
        self.sent.append(signum)


class Early:
    def __init__(self, signum: int) -> None:
        self.early = [signum]


class Terminal:
    def __init__(self, gone: bool) -> None:
        self._gone = gone

    def is_gone(self) -> bool:
        return self._gone


@pytest.mark.parametrize(
    ("signum", "terminal", "asks"),
    [
        (signal.SIGHUP, Terminal(gone=True), True),
        (signal.SIGHUP, Terminal(gone=False), False),
        (signal.SIGHUP, None, False),
        (signal.SIGINT, Terminal(gone=False), False),
        (signal.SIGINT, None, True),
        (signal.SIGTERM, Terminal(gone=False), True),
        (signal.SIGUSR1, None, False),
    ],
)
def test_an_early_signal_is_passed_on_and_asks_to_end_if_a_later_one_would(
    signum: signal.Signals, terminal: Terminal | None, asks: bool
) -> None:
    command = Command()
    timeout = 3600 if asks else 0
    supervision = Supervision(
        cast(Any, command), cast(Any, Early(signum)), cast(Any, terminal), timeout=timeout, timeout_stop=0
    )
    supervision._follow_stop = lambda: None  # type: ignore[method-assign]
    why = supervision.until_end()
    assert command.sent == [signum]
    assert why == (f"it did not end within 0s of {signum.name}" if asks else "timeout")
