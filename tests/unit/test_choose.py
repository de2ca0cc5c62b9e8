"""The choice of a backend: by name or not at all, and visible where it was left to us."""

from __future__ import annotations

import logging

import pytest

from allgone import BackendUnavailable, Reason
from allgone._backends import choose
from allgone._backends.process_group import ProcessGroupBackend

REASON = Reason("cgroup v2", "not mounted", "mount it")


class Stub:
    """Stands for a cgroup backend that works."""

    name = "cgroup"

    def __init__(self, *, guard: bool) -> None:
        pass


def _no_cgroup(*, guard: bool) -> None:
    raise BackendUnavailable("cgroup", (REASON,))


@pytest.fixture(autouse=True)
def _nothing_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choose, "_chosen", {})
    monkeypatch.delenv("ALLGONE_BACKEND", raising=False)
    monkeypatch.delenv("ALLGONE_CGROUP", raising=False)


@pytest.fixture
def works(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choose, "CgroupBackend", Stub)


@pytest.fixture
def missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choose, "CgroupBackend", _no_cgroup)


@pytest.mark.usefixtures("works")
def test_auto_takes_cgroup_where_it_works_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "allgone")
    assert choose.backend().name == "cgroup"
    assert choose.backend("auto") is choose.backend()
    assert [(r.levelname, r.getMessage()) for r in caplog.records] == [("INFO", "backend: cgroup")]


@pytest.mark.usefixtures("missing")
def test_auto_falls_back_and_says_why(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "allgone")
    assert choose.backend().name == "process-group"
    assert choose.backend().name == "process-group"
    assert len(caplog.records) == 1, "once per process, not once per child"
    text = caplog.records[0].getMessage()
    assert "process-group, because" in text
    assert str(REASON) in text


@pytest.mark.usefixtures("missing")
def test_what_was_asked_for_by_name_is_never_downgraded() -> None:
    for _ in range(2):
        with pytest.raises(BackendUnavailable) as caught:
            choose.backend("cgroup")
        assert caught.value.reasons == (REASON,)


@pytest.mark.usefixtures("missing")
def test_what_was_asked_for_by_the_environment_is_never_downgraded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALLGONE_BACKEND", "cgroup")
    with pytest.raises(BackendUnavailable):
        choose.backend()


@pytest.mark.usefixtures("works")
def test_the_environment_overrides_auto_by_default_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALLGONE_BACKEND", "process-group")
    assert choose.backend().name == "process-group"
    assert choose.backend("cgroup").name == "cgroup"


@pytest.mark.usefixtures("works")
def test_an_empty_variable_means_auto(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALLGONE_BACKEND", "")
    assert choose.backend().name == "cgroup"


@pytest.mark.parametrize("name", ["systemd", "Cgroup", "process_group", " auto"])
def test_an_unknown_backend_is_a_value_error_that_lists_the_known(name: str) -> None:
    with pytest.raises(ValueError, match="backend must be one of auto, cgroup, process-group.*" + name):
        choose.backend(name)  # type: ignore[arg-type]


def test_an_unknown_backend_in_the_environment_is_blamed_on_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALLGONE_BACKEND", "docker")
    with pytest.raises(ValueError, match="ALLGONE_BACKEND must be one of"):
        choose.backend()


def test_a_backend_object_is_taken_as_it_is() -> None:
    own = ProcessGroupBackend()
    assert choose.backend(own) is own


def test_with_and_without_sweep_are_two_backends() -> None:
    assert choose.backend("process-group") is choose.backend("process-group")
    assert choose.backend("process-group", sweep=True) is not choose.backend("process-group")


@pytest.mark.usefixtures("works")
def test_another_base_in_the_environment_is_another_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    first = choose.backend("cgroup")
    monkeypatch.setenv("ALLGONE_CGROUP", "/elsewhere")
    assert choose.backend("cgroup") is not first


def test_a_process_group_without_a_session_needs_sweep() -> None:
    with pytest.raises(ValueError, match="session=False needs sweep=True"):
        ProcessGroupBackend(session=False)
