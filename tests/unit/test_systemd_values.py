"""Texts as unit files have them, to the values that D-Bus wants (systemd.syntax(7), systemd.time(7))."""

from __future__ import annotations

import pytest

from allgone._linux.systemd_values import converted

INFINITY = 2**64 - 1


def seconds(value: object) -> object:
    """Stands for pystemd's functions, which take seconds, or a share of a CPU."""
    return value


@pytest.mark.parametrize(
    ("name", "signature", "text", "value"),
    [
        ("MemoryMax", b"t", "1G", 2**30),
        ("MemoryMax", b"t", "1.5K", 1536),
        ("MemoryMax", b"t", "512", 512),
        ("MemoryMax", b"t", "infinity", INFINITY),
        ("TasksMax", b"t", "100", 100),
        ("CPUQuota", seconds, "150%", 1.5),
        ("TimeoutStopSec", seconds, "1min 30s", 90.0),
        ("TimeoutStopSec", seconds, "250ms", 0.25),
        ("TimeoutStopSec", seconds, "5", 5.0),
        ("TimeoutStopUSec", b"t", "3s", 3_000_000),
        ("TimeoutStopUSec", b"t", "infinity", INFINITY),
        ("SendSIGHUP", b"b", "Yes", True),
        ("SendSIGHUP", b"b", "off", False),
        ("Requires", b"as", "a.service b.service", ["a.service", "b.service"]),
        ("KillSignal", b"i", "SIGINT", 2),
        ("KillSignal", b"i", "9", 9),
        ("OOMScoreAdjust", b"i", "-5", -5),
        ("KillMode", b"s", " mixed ", "mixed"),
    ],
)
def test_text_becomes_the_value_of_its_type(name: str, signature: object, text: str, value: object) -> None:
    assert converted(name, text, signature, ()) == value


@pytest.mark.parametrize(
    ("name", "signature", "text"),
    [
        ("MemoryMax", b"t", "1 elephant"),
        ("MemoryMax", b"t", "-1"),
        ("MemoryMax", b"t", ""),
        ("CPUQuota", seconds, "1.5"),
        ("TimeoutStopSec", seconds, "5 parsecs"),
        ("TimeoutStopSec", seconds, "soon"),
        ("SendSIGHUP", b"b", "maybe"),
        ("KillSignal", b"i", "SIGNONE"),
        ("IODeviceWeight", b"a(st)", "/dev/sda 100"),
    ],
)
def test_what_makes_no_sense_is_named(name: str, signature: object, text: str) -> None:
    with pytest.raises(ValueError, match=f"^property {name}="):
        converted(name, text, signature, ())


def test_a_value_that_is_no_text_is_taken_as_it_is() -> None:
    assert converted("BindsTo", ["a.service"], b"as", ()) == ["a.service"]


@pytest.mark.parametrize(
    ("signature", "value", "error"),
    [
        (b"t", b"\xff", TypeError),
        (b"t", True, TypeError),
        (b"t", -1, ValueError),
        (b"b", 1, TypeError),
        (b"s", 1, TypeError),
        (b"as", ("a.service",), TypeError),
    ],
)
def test_a_value_of_another_type_is_named(signature: bytes, value: object, error: type[Exception]) -> None:
    with pytest.raises(error, match=r"^property X="):
        converted("X", value, signature, ())


def test_an_unknown_name_is_an_error_with_a_guess() -> None:
    with pytest.raises(ValueError, match="did you mean 'MemoryMax'"):
        converted("MemoryMacks", "1G", b"", [b"MemoryMax", b"TasksMax"])


@pytest.mark.parametrize("name", ["PIDs", "Delegate", "CollectMode"])
def test_what_allgone_sets_itself_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="set by allgone"):
        converted(name, "x", b"s", ())
