"""What every test runs under: an init of its own, a cgroup of its own, and a check that it leaves nothing behind."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from support import cgroups, init, leaks
from support.backends import BACKENDS, BackendUnderTest
from support.rigs import RIGS, Rig
from support.tiers import missing

import allgone


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--run-slow", action="store_true", help="run what takes long as well")


def pytest_configure(config: pytest.Config) -> None:
    if init.pid is None and not hasattr(config, "workerinput"):
        init.run_below(lambda child: _remove_base(child))


def _remove_base(child: int) -> None:
    """After a test run that could not do it itself."""
    try:
        cgroups.remove_all(f"{cgroups.where()}/allgone-test-{child}")
    except LookupError:
        pass  # then none was made


@pytest.fixture(scope="session", autouse=True)
def _cgroup_base_or_reason() -> Iterator[tuple[str | None, str]]:
    if "ALLGONE_TEST_SCOPE" in os.environ:
        yield from _scope()
        return
    try:
        base = cgroups.make_base(os.getpid())
    except LookupError as e:
        yield None, f"no cgroup for tests: {e}"
        return
    told = os.environ.get("ALLGONE_CGROUP")
    os.environ["ALLGONE_CGROUP"] = base
    yield base, ""
    left = _close_backends(base)
    os.environ.pop("ALLGONE_CGROUP")
    if told is not None:
        os.environ["ALLGONE_CGROUP"] = told
    cgroups.remove_all(base)
    assert not left, f"cgroups left at the end: {left}"


def _scope() -> Iterator[tuple[str | None, str]]:
    """Nothing is set up: the backend is to find out by itself that it can have a scope (tests/systemd)."""
    from allgone._backends import choose

    base = choose.backend("cgroup").base  # type: ignore[attr-defined]
    assert base.endswith(".scope")
    yield base, ""
    left = [each for each in _close_backends(base) if not each.endswith("/guard")]
    assert not left, f"cgroups left at the end: {left}"


def _close_backends(base: str) -> list[str]:
    from allgone._process import driver

    for backend in list(driver._backends):
        backend.close()
    return cgroups.tree(base)[1:]


@pytest.fixture(scope="session")
def cgroup_base(_cgroup_base_or_reason: tuple[str | None, str]) -> str:
    """The cgroup directory that all cgroups of this test run are made below; ALLGONE_CGROUP says so to the backend."""
    base, reason = _cgroup_base_or_reason
    return base or missing(reason)


@pytest.fixture(autouse=True)
def _leaks_nothing(_cgroup_base_or_reason: tuple[str | None, str]) -> Iterator[None]:
    base, _ = _cgroup_base_or_reason
    before = leaks.holdings(base)
    yield
    found = leaks.leaked(before, base)
    if found:
        pytest.fail("left behind:\n  " + "\n  ".join(found), pytrace=False)


@pytest.fixture
def free_port() -> Iterator[Callable[[], int]]:
    """TCP ports for servers, which no other test run is given either until the test has ended."""
    with ExitStack() as reserved:
        yield lambda: reserved.enter_context(allgone.reserved_port())


@pytest.fixture
def port(free_port: Callable[[], int]) -> int:
    return free_port()


@pytest.fixture
def searchable_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """PATH without directories that this user may not search: execvp(3) says EACCES for what is nowhere then."""
    entries = os.environ.get("PATH", os.defpath).split(os.pathsep)
    monkeypatch.setenv("PATH", os.pathsep.join(each for each in entries if os.access(each, os.X_OK)))


@pytest.fixture(params=BACKENDS, ids=lambda each: each.label)
def backend(request: pytest.FixtureRequest) -> BackendUnderTest:
    """Each backend in turn, with and without `sweep`."""
    chosen: BackendUnderTest = request.param
    if chosen.name == "cgroup":
        request.getfixturevalue("cgroup_base")
    return chosen


@pytest.fixture(params=RIGS, ids=lambda each: each.label)
def rig(request: pytest.FixtureRequest) -> Rig:
    """Each backend with real processes, and the fake with virtual ones."""
    chosen: Rig = request.param
    if chosen.label == "cgroup":
        request.getfixturevalue("cgroup_base")
    return chosen


@pytest.fixture
def enters_by_itself(backend: BackendUnderTest) -> None:
    """Where systemd must move the child, preexec_fn would run before that: refused, as it says."""
    from allgone._backends import choose

    if backend.name == "cgroup" and choose.backend("cgroup").moves_in:  # type: ignore[attr-defined]
        with pytest.raises(allgone.Unsupported, match="preexec_fn"):
            backend.Popen(["true"], preexec_fn=os.getpid)
        pytest.skip("preexec_fn is refused here")
