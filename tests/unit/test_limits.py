"""Limits are checked before anything is started, and say what is wrong with them."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest

import allgone
from allgone import Limits
from allgone._linux import controllers
from allgone._process.spawn_arguments import scope_of


@pytest.mark.parametrize(
    ("given", "known"),
    [
        ({"memory_max": "512M"}, {"memory_max": 512 << 20}),
        ({"memory_max": "1.5G"}, {"memory_max": 3 << 29}),
        ({"memory_high": " 4096 "}, {"memory_high": 4096}),
        ({"memory_high": "7k"}, {"memory_high": 7 << 10}),
        ({"memory_swap_max": 0}, {"memory_swap_max": 0}),
        ({"memory_max": "infinity", "tasks_max": math.inf}, {"memory_max": math.inf, "tasks_max": math.inf}),
        ({"tasks_max": "64"}, {"tasks_max": 64}),
        ({"cpu_quota": "150 %"}, {"cpu_quota": "150%"}),
        ({"cpu_weight": 1, "io_weight": 10_000}, {"cpu_weight": 1, "io_weight": 10_000}),
        ({"memory_oom_group": True}, {"memory_oom_group": True}),
        ({}, {}),
    ],
)
def test_values_with_units(given: dict[str, Any], known: dict[str, object]) -> None:
    limits = Limits(**given)
    assert limits.given() == known
    assert dataclasses.replace(limits) == limits


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ({"memory_max": "5Q"}, ValueError),
        ({"memory_max": "-1"}, ValueError),
        ({"memory_max": ""}, ValueError),
        ({"memory_max": "50%"}, ValueError),
        ({"memory_max": 0}, ValueError),
        ({"memory_max": 1 << 63}, ValueError),
        ({"memory_max": 1.5}, TypeError),
        ({"memory_max": True}, TypeError),
        ({"memory_high": math.nan}, TypeError),
        ({"memory_swap_max": -1}, ValueError),
        ({"memory_oom_group": 1}, TypeError),
        ({"tasks_max": 0}, ValueError),
        ({"tasks_max": "few"}, ValueError),
        ({"tasks_max": (1 << 22) + 1}, ValueError),
        ({"cpu_quota": 1.5}, TypeError),
        ({"cpu_quota": "150"}, ValueError),
        ({"cpu_quota": "0.5%"}, ValueError),
        ({"cpu_quota": "1e9%"}, ValueError),
        ({"cpu_weight": 0}, ValueError),
        ({"cpu_weight": "100"}, ValueError),
        ({"io_weight": 10_001}, ValueError),
        ({"io_weight": math.inf}, TypeError),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(given: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error, match=next(iter(given))):
        Limits(**given)


def test_systemd_is_told_the_same() -> None:
    limits = Limits("1G", "512M", 0, True, 100, "infinity", 50, 200)
    assert limits.as_unit_properties() == {
        "MemoryMax": "1073741824", "MemoryHigh": "536870912", "MemorySwapMax": "0", "TasksMax": "100",
        "CPUQuota": "infinity", "CPUWeight": "50", "IOWeight": "200",
    }  # fmt: skip


def test_systemd_is_not_told_twice() -> None:
    unit = scope_of("job.scope", None, None, {"TasksMax": 5}, None, Limits(memory_max="1G"))
    assert unit is not None
    assert unit.properties == {"MemoryMax": "1073741824", "TasksMax": 5}
    with pytest.raises(ValueError, match=r"MemoryMax.*limits="):
        scope_of("job.scope", None, None, {"MemoryMax": "1G"}, None, Limits(memory_max="1G"))


@pytest.mark.parametrize("limits", ["1G", {"memory_max": "1G"}])
def test_limits_must_be_limits(limits: Any) -> None:
    with pytest.raises(TypeError, match="limits must be a Limits"):
        allgone.Popen(["true"], limits=limits)
    with pytest.raises(TypeError, match="limits must be a Limits"):
        allgone.group(limits=limits)
    with allgone.group() as group, pytest.raises(TypeError, match="limits must be a Limits"):
        group.Popen(["true"], limits=limits)


def test_a_process_group_has_none_and_says_what_has() -> None:
    with pytest.raises(allgone.LimitUnavailable, match='backend="cgroup"') as caught:
        allgone.Popen(["true"], backend="process-group", limits=Limits(tasks_max=5))
    assert caught.value.what == "pids"
    with allgone.group(backend="process-group") as group, pytest.raises(allgone.LimitUnavailable):
        group.Popen(["true"], limits=Limits(memory_max="1G"))


def test_no_limits_are_no_reason_to_refuse() -> None:
    assert allgone.call(["true"], backend="process-group", limits=Limits()) == 0
    assert allgone.call(["true"], limits=None) == 0


def test_every_limit_has_its_file() -> None:
    assert {each.name for each in dataclasses.fields(Limits)} == set(controllers._FILES)
