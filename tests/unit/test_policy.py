"""StopPolicy takes systemd's values and nothing else."""

from __future__ import annotations

import dataclasses
import math
import signal

import pytest

from allgone import StopPolicy


def test_defaults_are_those_of_the_design() -> None:
    policy = StopPolicy()
    assert dataclasses.asdict(policy) == {
        "kill_mode": "control-group",
        "kill_signal": signal.SIGTERM,
        "send_sighup": False,
        "timeout_stop": 10.0,
        "final_kill_signal": signal.SIGKILL,
        "guard_timeout": 0.0,
    }


@pytest.mark.parametrize(
    "values",
    [
        {"kill_mode": "mixed"},
        {"kill_mode": "process"},
        {"kill_signal": signal.SIGRTMIN + 1},
        {"kill_signal": 2},
        {"timeout_stop": 0},
        {"timeout_stop": math.inf},
        {"timeout_stop": 1e12},
        {"final_kill_signal": signal.SIGQUIT},
    ],
    ids=str,
)
def test_good_values_are_taken(values: dict[str, object]) -> None:
    policy = StopPolicy(**values)  # type: ignore[arg-type]
    assert {name: getattr(policy, name) for name in values} == values


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("kill_mode", "none"),
        ("kill_mode", "Control-Group"),
        ("kill_mode", None),
        ("kill_signal", 0),
        ("kill_signal", -9),
        ("kill_signal", 65),
        ("kill_signal", "SIGTERM"),
        ("kill_signal", None),
        ("kill_signal", 15.0),
        ("kill_signal", True),
        ("kill_signal", [15]),
        ("final_kill_signal", 0),
        ("final_kill_signal", 9.0),
        ("timeout_stop", -1),
        ("timeout_stop", -0.001),
        ("timeout_stop", -math.inf),
        ("timeout_stop", math.nan),
        ("timeout_stop", "10"),
        ("timeout_stop", None),
        ("timeout_stop", True),
    ],
)
def test_bad_value_is_an_error_that_names_the_field_and_the_value(field: str, value: object) -> None:
    with pytest.raises((ValueError, TypeError)) as caught:
        StopPolicy(**{field: value})  # type: ignore[arg-type]
    assert field in str(caught.value)
    assert repr(value) in str(caught.value)


def test_a_policy_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        StopPolicy().timeout_stop = 3  # type: ignore[misc]


def test_at_once_skips_the_polite_part_and_kills() -> None:
    policy = StopPolicy(kill_mode="mixed", kill_signal=signal.SIGINT, final_kill_signal=signal.SIGABRT)
    assert policy.at_once() == StopPolicy(kill_mode="mixed", kill_signal=signal.SIGINT, timeout_stop=0)
