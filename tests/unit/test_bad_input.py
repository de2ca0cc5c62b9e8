"""Bad input is a clear error, before anything is started or made."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import allgone
from allgone._backends.keeper import KEEPER
from allgone._linux import processes
from allgone._process import driver

START: dict[str, Callable[..., Any]] = {"Popen": allgone.Popen, "run": allgone.run, "call": allgone.call}


@pytest.fixture(autouse=True)
def _nothing_is_started(monkeypatch: pytest.MonkeyPatch) -> Any:
    def fork_exec(*_: object) -> int:
        raise AssertionError("something was started")

    KEEPER._ensure()  # this process's guard, which the first containment would start
    children, fds, live = processes.children_of_self(), os.listdir("/proc/self/fd"), list(driver._live)
    monkeypatch.setattr("subprocess._fork_exec", fork_exec, raising=False)
    monkeypatch.setattr("_posixsubprocess.fork_exec", fork_exec)
    monkeypatch.setenv("ALLGONE_BACKEND", "process-group")
    yield
    assert processes.children_of_self() == children
    assert os.listdir("/proc/self/fd") == fds
    assert list(driver._live) == live


@pytest.mark.parametrize("start", START.values(), ids=START)
@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"args": []}, ValueError, "args is empty"),
        ({"args": ()}, ValueError, "args is empty"),
        ({"args": None}, TypeError, "NoneType"),
        ({"args": 5}, TypeError, "int"),
        ({"args": Path("/bin/true"), "shell": True}, TypeError, "path-like args"),
        ({"args": ["true"], "backend": "systemd"}, ValueError, "backend must be one of"),
        ({"args": ["true"], "backend": 42}, TypeError, "backend"),
        ({"args": ["true"], "policy": "kill"}, TypeError, "policy must be a StopPolicy, not str"),
        ({"args": ["true"], "policy": {"timeout_stop": 3}}, TypeError, "policy must be a StopPolicy, not dict"),
        ({"args": ["true"], "name": "../../x"}, ValueError, "can't be used"),
        ({"args": ["true"], "name": "a/b"}, ValueError, "can't be used"),
        ({"args": ["true"], "name": "a\0b"}, ValueError, "can't be used"),
        ({"args": ["true"], "name": "a\nb"}, ValueError, "can't be used"),
        ({"args": ["true"], "name": "x" * 5000}, ValueError, "can't be used"),
        ({"args": ["true"], "name": ""}, ValueError, "can't be used"),
        ({"args": ["true"], "name": b"web"}, TypeError, "name must be a str"),
        ({"args": ["true"], "name": 7}, TypeError, "name must be a str"),
        ({"args": ["true"], "guard": "no"}, TypeError, "guard must be True or False"),
        ({"args": ["true"], "guard": False, "backend": allgone.ProcessGroupBackend()}, ValueError, "to be made with"),
        ({"args": ["true"], "sockets": 3}, TypeError, "sockets must be a list of sockets"),
        ({"args": ["true"], "sockets": [3]}, TypeError, "3 is not a socket"),
        ({"args": ["true"], "network": "host"}, ValueError, "network must be one of private, veth, or None"),
        ({"args": ["true"], "network": True}, ValueError, "network must be one of"),
        ({"args": ["true"], "nonsense": 1}, TypeError, "nonsense"),
        ({"args": ["true"], "bufsize": "x"}, TypeError, "bufsize"),
        ({"args": ["true"], "process_group": 7}, ValueError, "process_group= joins a group that exists"),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, dict) else "",
)
def test_bad_argument(
    start: Callable[..., Any], arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        start(**arguments)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"backend": "systemd"}, ValueError),
        ({"backend": 42}, TypeError),
        ({"policy": "kill"}, TypeError),
        ({"name": "../x"}, ValueError),
        ({"name": ""}, ValueError),
        ({"name": 7}, TypeError),
    ],
    ids=str,
)
def test_bad_argument_of_a_group(arguments: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        allgone.group(**arguments)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"args": []}, ValueError),
        ({"args": ["true"], "name": ".."}, ValueError),
        ({"args": ["true"], "name": ""}, ValueError),
        ({"args": ["true"], "backend": "cgroup"}, TypeError),
        ({"args": ["true"], "sweep": True}, TypeError),
        ({"args": ["true"], "policy": 3}, TypeError),
    ],
    ids=str,
)
def test_bad_argument_of_a_process_in_a_group(arguments: dict[str, Any], error: type[Exception]) -> None:
    with allgone.group() as group, pytest.raises(error):
        group.Popen(**arguments)


def test_the_name_of_a_process_that_was_not_started_in_a_group_can_be_used_again() -> None:
    with allgone.group() as group:
        with pytest.raises(ValueError, match="args is empty"):
            group.Popen([], name="web")
        with pytest.raises(AssertionError, match="something was started"):  # it got as far as that
            group.Popen(["true"], name="web")


def test_a_stopped_group_starts_nothing_more() -> None:
    group = allgone.group(name="over")
    group.stop()
    with pytest.raises(ValueError, match="group over has been stopped"):
        group.Popen(["true"])


def test_a_wrong_policy_for_a_stop_is_a_type_error() -> None:
    with allgone.group() as group, pytest.raises(TypeError, match="policy must be a StopPolicy"):
        group.stop("now")  # type: ignore[arg-type]


def test_input_and_stdin_exclude_each_other() -> None:
    with pytest.raises(ValueError, match="stdin and input"):
        allgone.run(["cat"], input=b"x", stdin=allgone.PIPE)


def test_capture_output_and_stdout_exclude_each_other() -> None:
    with pytest.raises(ValueError, match="capture_output"):
        allgone.run(["cat"], capture_output=True, stdout=allgone.PIPE)


@pytest.mark.parametrize("name", ["in-use"])
def test_a_name_in_use_is_a_value_error_until_it_is_free(name: str) -> None:
    with allgone.group(name=name), pytest.raises(ValueError, match="in use"):
        allgone.group(name=name)
    with allgone.group(name=name):
        pass
