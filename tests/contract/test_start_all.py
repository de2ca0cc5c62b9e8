"""`start_all`: several fixtures become ready at the same time; one that fails takes the others along."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support import procfs
from support.backends import BackendUnderTest

import allgone


def fixture(backend: BackendUnderTest, script: str, **options: Any) -> Any:
    return allgone.process_fixture(["sh", "-c", script], **backend.options, **options)


def waits_for(own: Path, other: Path) -> str:
    """Tells that it runs, and is up when the other one runs, too."""
    return f">{own}; until [ -e {other} ]; do sleep 0.02; done; echo up; exec sleep 120"


def test_they_are_waited_for_at_the_same_time(backend: BackendUnderTest, tmp_path: Path) -> None:
    """Each is ready only when the other has been started: one after the other, neither would ever be."""
    a, b = tmp_path / "a", tmp_path / "b"
    with allgone.start_all(
        fixture(backend, waits_for(a, b), ready=allgone.log_line("up")),
        fixture(backend, waits_for(b, a), ready=allgone.log_line("up")),
    ) as (one, two):
        assert one.output() == two.output() == "up\n"
        assert one.members()
        assert two.members()
    assert one.returncode == two.returncode == -15
    assert one.members() | two.members() == frozenset()


def test_each_may_have_its_own_probe_or_none(backend: BackendUnderTest, tmp_path: Path) -> None:
    with allgone.start_all(
        fixture(backend, "exec sleep 120"),
        fixture(backend, f">{tmp_path / 'up'}; exec sleep 120", ready=allgone.path_exists(tmp_path / "up")),
        fixture(backend, "echo up; exec sleep 120", ready=allgone.log_line("up"), output=tmp_path / "out"),
    ) as processes:
        assert [process.poll() for process in processes] == [None] * 3


def test_they_are_stopped_the_last_one_first(backend: BackendUnderTest, tmp_path: Path) -> None:
    told = tmp_path / "told"
    script = f"trap 'echo {{}} >>{told}; exit' TERM; echo up; while :; do sleep 0.05; done"
    with allgone.start_all(
        *(fixture(backend, script.format(n), ready=allgone.log_line("up")) for n in "abc")
    ) as processes:
        assert len(processes) == 3
    assert told.read_text() == "c\nb\na\n"


def test_one_that_ends_takes_the_others_along_and_is_named(backend: BackendUnderTest, tmp_path: Path) -> None:
    started = tmp_path / "pid"
    with (
        pytest.raises(allgone.ExitedBeforeReady, match=r"exit 3.*return code 3") as raised,
        allgone.start_all(
            fixture(backend, f"echo $$ >{started}; exec sleep 120", ready=lambda: False),
            fixture(backend, f"until [ -s {started} ]; do :; done; echo why; exit 3", ready=allgone.log_line("up")),
        ),
    ):
        pytest.fail("the body ran")
    assert raised.value.tail == "why\n"
    assert not procfs.is_alive(int(started.read_text()))


def test_each_has_its_own_time(backend: BackendUnderTest) -> None:
    with (
        pytest.raises(allgone.NotReady, match=r"sleep 119.*within 0.2 s"),
        allgone.start_all(
            fixture(backend, "exec sleep 120", ready=lambda: False, ready_timeout=120),
            fixture(backend, "exec sleep 119", ready=lambda: False, ready_timeout=0.2),
        ),
    ):
        pytest.fail("the body ran")


def test_one_that_can_not_be_started_takes_the_others_along(backend: BackendUnderTest) -> None:
    begun = []

    def is_up(process: allgone.Popen) -> bool:
        begun.append(process)
        return True

    with (
        pytest.raises(FileNotFoundError, match="/nonexistent"),
        allgone.start_all(
            fixture(backend, "exec sleep 120", ready=is_up),
            allgone.process_fixture(["/nonexistent"], output=allgone.capture(), **backend.options),
        ),
    ):
        pytest.fail("the body ran")
    assert not begun  # nobody was waited for


def test_an_error_in_the_body_stops_all(backend: BackendUnderTest) -> None:
    with pytest.raises(ZeroDivisionError), allgone.start_all(fixture(backend, "exec sleep 120")) as (process,):
        _ = 1 / 0
    assert process.returncode == -15


def test_bad_input_starts_nothing(tmp_path: Path) -> None:
    starts = allgone.process_fixture(["touch", str(tmp_path / "started")])
    for wrong in ((starts, ["sleep", "1"]), (starts, starts)):
        with pytest.raises((TypeError, RuntimeError)), allgone.start_all(*wrong):
            pytest.fail("the body ran")
    with starts, pytest.raises(RuntimeError, match="in use"), allgone.start_all(starts):
        pytest.fail("the body ran")
    with allgone.start_all() as none:
        assert none == ()


def test_a_fixture_can_be_used_once_more_but_not_twice_at_a_time(backend: BackendUnderTest) -> None:
    again = fixture(backend, "echo up; exec sleep 120", ready=allgone.log_line("up"))
    for _ in range(2):
        with again as process:
            assert process.output() == "up\n"
            with pytest.raises(RuntimeError, match="in use"), again:
                pytest.fail("the body ran")
            assert process.poll() is None
        assert process.returncode == -15
