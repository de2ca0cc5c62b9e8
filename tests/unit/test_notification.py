"""The text of notifications, what they add up to, and when the watchdog has had enough."""

from __future__ import annotations

import math

import pytest

from allgone._core.notification import MOST, Notified, assignments, in_words, number, seconds
from allgone._process.notify import Notifications


@pytest.mark.parametrize(
    ("datagram", "expected"),
    [
        (b"READY=1", {"READY": "1"}),
        (b"READY=1\n", {"READY": "1"}),
        (b"READY=1\nSTATUS=a=b\n\nX_OWN=", {"READY": "1", "STATUS": "a=b", "X_OWN": ""}),
        (b"READY=1\0", {"READY": "1"}),
        (b"STATUS=first\nSTATUS=second", {"STATUS": "first"}),
        (b"STATUS=caf\xc3\xa9 \xff", {"STATUS": "café �"}),
        (b"READY", {}),
        (b"=1", {}),
        (b"", {}),
    ],
)
def test_a_message_is_lines_of_assignments(datagram: bytes, expected: dict[str, str]) -> None:
    assert assignments(datagram) == expected


@pytest.mark.parametrize("datagram", [b"READY=1\0STATUS=x", b"\0READY=1", b"STATUS=" + b"x" * MOST])
def test_what_systemd_ignores_as_a_whole_is_an_error(datagram: bytes) -> None:
    with pytest.raises(ValueError, match=r"longer than 4096 bytes|with a NUL"):
        assignments(datagram)


@pytest.mark.parametrize("text", [None, "", "-1", "+1", " 1", "1.5", "x", "0x1", "1" * 21, "\u0661"])
def test_only_plain_decimal_numbers_count(text: str | None) -> None:
    assert number(text) is None
    assert seconds(text) is None


def test_microseconds_become_seconds_that_can_be_waited_for() -> None:
    assert seconds("1500000") == 1.5
    assert seconds("18446744073709551615") == 1e9  # infinity


def told(*messages: dict[str, str]) -> Notified:
    sum_of_all = Notified()
    for message in messages:
        sum_of_all = sum_of_all.and_then(message)
    return sum_of_all


def test_messages_add_up() -> None:
    assert told({"STATUS": "a"}, {"READY": "1"}, {"ERRNO": "2"}) == Notified(ready=True, status="a", errno=2)
    assert told({"READY": "1"}, {"READY": "0"}, {"STOPPING": "1"}) == Notified(ready=True, stopping=True)
    assert told({"READY": "1"}, {"RELOADING": "1"}) == Notified(ready=True, reloading=True)
    assert told({"RELOADING": "1"}, {"READY": "1"}) == Notified(ready=True)
    assert told({"ERRNO": "2"}, {"ERRNO": "x"}, {"ERRNO": "5000"}) == Notified(errno=2)
    assert told({"MAINPID": "1", "FDSTORE": "1", "X_OWN": "y"}) == Notified()


def test_what_keeps_it_from_being_ready_is_put_into_words() -> None:
    assert in_words(Notified(ready=True, reloading=True)) == ""
    everything = Notified(status="a\nb", errno=2, exit_status="1", stopping=True)
    assert in_words(everything) == r"status 'a\nb', errno 2 (No such file or directory), exit status 1, it is stopping"


class Told(Notifications):
    """At made-up times."""

    def at(self, now: float, text: str) -> float:
        """When it is too late, by then."""
        was_ready, message = self.notified.ready, assignments(text.encode())
        self.notified = self.notified.and_then(message)
        self._watch(message, now, starts=self.notified.ready and not was_ready)
        return self._silent_at


def test_the_watchdog_counts_from_readiness_and_from_each_sign_of_life() -> None:
    told = Told(10)
    assert told.at(1, "WATCHDOG=1") == math.inf
    assert told.at(5, "READY=1") == 15
    assert told.at(7, "STATUS=x") == 15
    assert told.at(12, "WATCHDOG=1") == 22
    assert told.at(13, "READY=1") == 22
    assert told.at(14, "WATCHDOG=0") == 22


def test_the_interval_can_be_changed() -> None:
    told = Told(10)
    assert told.at(1, "WATCHDOG_USEC=2000000") == math.inf
    assert told.at(5, "READY=1") == 7
    assert told.at(6, "WATCHDOG_USEC=20000000") == 26
    assert told.at(7, "WATCHDOG_USEC=x") == 26
    assert told.at(8, "WATCHDOG_USEC=0") == math.inf
    assert told.at(9, "WATCHDOG=1") == math.inf


def test_a_watchdog_can_be_asked_for_by_the_process() -> None:
    told = Told(None)
    assert told.at(1, "READY=1") == math.inf
    assert told.at(2, "WATCHDOG=1") == math.inf
    assert told.at(3, "WATCHDOG_USEC=4000000") == 7
    assert told.at(4, "WATCHDOG=trigger") == 4


def test_what_stops_may_be_silent() -> None:
    told = Told(10)
    assert told.at(1, "READY=1") == 11
    assert told.at(2, "STOPPING=1") == math.inf
    assert told.at(3, "WATCHDOG=1") == math.inf
