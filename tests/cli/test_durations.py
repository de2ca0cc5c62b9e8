"""Durations are read as systemd.time(7) reads them."""

from __future__ import annotations

import math

import pytest

from allgone.cli import durations


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("10m", 600), ("5s", 5), ("1h30m", 5400), ("1h 30m", 5400), ("250ms", 0.25), ("7", 7), ("0", 0), ("1.5", 1.5),
        (".5s", 0.5), ("2 h", 7200), ("  3min ", 180), ("1 sec", 1), ("1d", 86400), ("1w", 604800), ("100us", 1e-4),
        ("100µs", 1e-4), ("100\N{GREEK SMALL LETTER MU}s", 1e-4), ("1M", 30.44 * 86400), ("1year", 365.25 * 86400),
        ("2min 200ms", 120.2), ("infinity", math.inf), ("1m1m", 120), ("5 5", 10),
    ],
)  # fmt: skip
def test_is_read_as_systemd_reads_it(text: str, seconds: float) -> None:
    assert durations.seconds(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "text", ["", " ", "-5", "-5s", "5x", "s", "1h-", "1e3", "inf", "nan", "Infinity", "infinity s", "5s infinity", "٣s",
             "1,5s", "0x10", "1..5", "5 S"],
)  # fmt: skip
def test_what_is_no_duration_is_refused_with_examples(text: str) -> None:
    with pytest.raises(ValueError, match="is not a duration; write 10m, "):
        durations.seconds(text)


@pytest.mark.parametrize("text", ["1h30m", "250ms", "1.5s", "10m", "2d1s", "0s", "infinity"])
def test_is_shown_as_it_can_be_written(text: str) -> None:
    assert durations.shown(durations.seconds(text)) == text
