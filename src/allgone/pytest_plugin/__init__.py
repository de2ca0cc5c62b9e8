"""The pytest plugin: fixtures, options. Whatever costs something is imported and registered when it is first used."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from allgone._process.group import Group
    from allgone.pytest_plugin.factory import ProcessFactory

BACKENDS = ("auto", "cgroup", "process-group")
LEAKS = ("off", "warn", "fail")


class LeftProcessWarning(pytest.PytestWarning):
    """A test, or a fixture, has left processes behind (``--allgone-leaks=warn``)."""


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("allgone", "processes that tests start")
    backend = "what holds the processes that are started with allgone: auto, cgroup or process-group"
    reports = "write the reports of the stops that go with failing tests to this directory"
    leaks = "name tests and fixtures that leave processes behind: off, warn or fail"
    group.addoption("--allgone-backend", choices=BACKENDS, help=backend)
    group.addoption("--allgone-report-dir", metavar="DIR", help=reports)
    group.addoption("--allgone-leaks", choices=LEAKS, help=leaks)
    parser.addini("allgone_backend", backend, default="")
    parser.addini("allgone_report_dir", reports, default="")
    parser.addini("allgone_leaks", leaks, default="off")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "allgone_leaks(mode): what becomes of processes that this test leaves behind: off, warn or fail"
    )
    _set_backend(config)
    _make_report_dir(config)
    mode = _chosen(config, "leaks", LEAKS)
    if mode != "off":
        from allgone.pytest_plugin.leaks import Leaks

        config.pluginmanager.register(Leaks(mode), "allgone-leaks")


def _chosen(config: pytest.Config, name: str, choices: tuple[str, ...]) -> str:
    option = config.getoption(f"allgone_{name}")
    value = str(option or config.getini(f"allgone_{name}"))
    if value and value not in choices:
        raise pytest.UsageError(f"allgone_{name} must be one of {', '.join(choices)}, not {value!r}")
    return value


def _set_backend(config: pytest.Config) -> None:
    """For all that is started with allgone, in tests and by what they start."""
    chosen = _chosen(config, "backend", BACKENDS)
    if not chosen:
        return
    before = os.environ.get("ALLGONE_BACKEND")
    os.environ["ALLGONE_BACKEND"] = chosen

    def put_back() -> None:
        if before is None:
            os.environ.pop("ALLGONE_BACKEND", None)
        else:
            os.environ["ALLGONE_BACKEND"] = before

    config.add_cleanup(put_back)


def _make_report_dir(config: pytest.Config) -> None:
    folder = report_dir(config)
    try:
        if folder is not None:
            os.makedirs(folder, exist_ok=True)
    except OSError as e:
        raise pytest.UsageError(f"--allgone-report-dir: {e}") from e


def report_dir(config: pytest.Config) -> str | None:
    """Where reports go: the option from where pytest was called, the setting from the root directory."""
    option, setting = config.getoption("allgone_report_dir"), config.getini("allgone_report_dir")
    if option:
        return os.path.join(config.invocation_params.dir, option)
    return os.path.join(config.rootpath, str(setting)) if setting else None


def _made(request: pytest.FixtureRequest) -> Iterator[ProcessFactory]:
    from allgone.pytest_plugin.factory import ProcessFactory

    factory = ProcessFactory(request)
    yield factory
    factory.close()


@pytest.fixture
def process_fixture(request: pytest.FixtureRequest) -> Iterator[ProcessFactory]:
    """Start processes that are ready, and stop them with all that they started when the test is over."""
    yield from _made(request)


@pytest.fixture(scope="class")
def class_process_fixture(request: pytest.FixtureRequest) -> Iterator[ProcessFactory]:
    """As process_fixture, for the tests of a class."""
    yield from _made(request)


@pytest.fixture(scope="module")
def module_process_fixture(request: pytest.FixtureRequest) -> Iterator[ProcessFactory]:
    """As process_fixture, for the tests of a module."""
    yield from _made(request)


@pytest.fixture(scope="package")
def package_process_fixture(request: pytest.FixtureRequest) -> Iterator[ProcessFactory]:
    """As process_fixture, for the tests of a package."""
    yield from _made(request)


@pytest.fixture(scope="session")
def session_process_fixture(request: pytest.FixtureRequest) -> Iterator[ProcessFactory]:
    """As process_fixture, for the whole test run (with pytest-xdist: for each worker)."""
    yield from _made(request)


@pytest.fixture
def allgone_group(request: pytest.FixtureRequest) -> Iterator[Group]:
    """An allgone.group() that is stopped, with all that was started in it, when the test is over."""
    from allgone._process.group import Group
    from allgone.pytest_plugin.failures import Failures

    with Group() as group:
        record = Failures.of(request.config).add(group, request)
        yield group
    record.ended()
