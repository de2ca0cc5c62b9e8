"""Errors say what to do, survive pickling, and are caught by the standard classes."""

from __future__ import annotations

import copy
import errno
import pickle
import subprocess

import pytest

import allgone
from allgone import Process, errors

REASONS = (errors.Reason("the cgroup given (/x)", "no such directory", "create it"), errors.Reason("b", "c", ""))
EXAMPLES = [
    (errors.AllgoneError("something"), Exception),
    (errors.BackendUnavailable("cgroup", REASONS), RuntimeError),
    (errors.Unsupported("freeze: only the cgroup backend can"), NotImplementedError),
    (errors.LimitUnavailable("memory", REASONS), NotImplementedError),
    (errors.OutOfMemory(-9, ["make"], 2, b"out", b"err"), subprocess.CalledProcessError),
    (errors.WrongProcess("1-true was started by process 7"), RuntimeError),
    (errors.PlacementFailed(errno.EACCES, "Permission denied", "/sys/fs/cgroup/x", "do y"), OSError),
    (errors.PortTaken("tcp 0.0.0.0:80", (Process(7, "x"),), "containment 1-x", "by x (pid 7)"), OSError),
    (errors.NotReady("not ready in 3 s", "last\nlines"), TimeoutError),
    (errors.WatchdogTimeout("no WATCHDOG=1 for 3 s", "last\nlines"), TimeoutError),
    (errors.ExitedBeforeReady("it ended", 3, "last\nlines"), RuntimeError),
    (errors.SystemdError("no such unit", "org.freedesktop.systemd1.NoSuchUnit"), RuntimeError),
    (errors.FreezeTimeout("x was not frozen within 10 s"), TimeoutError),
    (errors.StopTimeout("these are alive: 7", frozenset({7})), TimeoutError),
]
IDS = [type(error).__name__ for error, _ in EXAMPLES]


def details(error: BaseException) -> dict[str, object]:
    names = (
        "args",
        "errno",
        "strerror",
        "filename",
        "remedy",
        "reasons",
        "backend",
        "tail",
        "returncode",
        "survivors",
        "holders",
        "containment",
        "address",
        "dbus_name",
        "what",
        "cmd",
        "oom_kills",
        "output",
        "stderr",
    )
    return {name: getattr(error, name) for name in names if hasattr(error, name)}


def test_every_error_has_an_example_here() -> None:
    defined = {
        each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, errors.AllgoneError)
    }
    assert defined == {type(error) for error, _ in EXAMPLES}


@pytest.mark.parametrize(("error", "standard"), EXAMPLES, ids=IDS)
def test_error_is_caught_as_allgone_error_and_by_its_standard_class(
    error: BaseException, standard: type[BaseException]
) -> None:
    assert isinstance(error, errors.AllgoneError)
    assert isinstance(error, standard)


@pytest.mark.parametrize(("error", "_"), EXAMPLES, ids=IDS)
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_error_survives_pickling(error: BaseException, _: type, protocol: int) -> None:
    again = pickle.loads(pickle.dumps(error, protocol))
    assert type(again) is type(error)
    assert str(again) == str(error)
    assert details(again) == details(error)


@pytest.mark.parametrize(("error", "_"), EXAMPLES, ids=IDS)
def test_error_survives_copying(error: BaseException, _: type) -> None:
    assert details(copy.copy(error)) == details(error)


def test_backend_unavailable_lists_each_reason_with_its_remedy() -> None:
    text = str(errors.BackendUnavailable("cgroup", REASONS))
    assert text.splitlines() == [
        "backend 'cgroup' is not available here:",
        "  - the cgroup given (/x): no such directory (create it)",
        "  - b: c",
    ]


def test_placement_failed_is_an_os_error_with_errno_and_file_name() -> None:
    error = errors.PlacementFailed(errno.EACCES, "Permission denied", "/sys/fs/cgroup/x", "run inside it")
    assert (error.errno, error.strerror, error.filename) == (errno.EACCES, "Permission denied", "/sys/fs/cgroup/x")
    assert str(error) == "cannot enter /sys/fs/cgroup/x: Permission denied. run inside it"


def test_an_output_tail_is_shown_where_there_is_one() -> None:
    assert str(errors.NotReady("not ready", "oops")) == "not ready\nlast output:\noops"
    assert str(errors.ExitedBeforeReady("it ended", 3)) == "it ended"


def test_the_escape_warning_is_a_warning_that_can_be_turned_into_an_error() -> None:
    assert issubclass(allgone.EscapedProcessWarning, RuntimeWarning)
    assert not issubclass(allgone.EscapedProcessWarning, DeprecationWarning)
