"""Honcho's own cases for its manager and its command pass with `allgone up`, but for those below."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from peers.outcomes import Outcome
from peers.sdists import fetched, run_suite
from support import programs

# Tests that are ours to pass.
OURS = ["tests/test_manager.py", "tests/test_command.py", "tests/integration/test_start.py"]

# Files of the suite that are not about what we replace.
NOT_OURS = {
    "tests/conftest.py": "no tests",
    "tests/integration/__init__.py": "no tests",
    "tests/test_colour.py": "honcho.colour, which we use as it is",
    "tests/test_environ.py": "honcho.environ, which we use as it is",
    "tests/test_printer.py": "honcho.printer, which we use as it is",
    "tests/test_process.py": "honcho.process: a process that reports to a queue; allgone.Popen and one poll loop instead",
    "tests/test_invocation.py": "python -m honcho version",
    "tests/test_export_base.py": "honcho export, which there is not",
    "tests/test_export_runit.py": "honcho export, which there is not",
    "tests/test_export_supervisord.py": "honcho export, which there is not",
    "tests/test_export_systemd.py": "honcho export, which there is not",
    "tests/test_export_upstart.py": "honcho export, which there is not",
    "tests/integration/test_export.py": "honcho export, which there is not",
    "tests/integration/test_check.py": "honcho check, which there is not",
    "tests/integration/test_main.py": "honcho check, which there is not",
    "tests/integration/test_run.py": "honcho run, which there is not: allgone run is another thing",
}

# Tests of `OURS` that do not apply.
DIFFERS = {
    r"test_command\.py::test_command_equivalence\[.*": "options before the subcommand; allgone has them behind it",
    r"test_manager\.py::TestManager::test_add_process_name_must_be_unique": "an AssertionError; ours is a ValueError",
    r"test_manager\.py::TestManager::test_loop_calls_process_run": "that a fake process was run(); ours are real",
    r"test_manager\.py::TestManager::test_returncode_set_by_first_exiting_process": (
        "a fake process ends with 456, which a real one can't: it is 200, and first, as it should be"
    ),
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fetched("honcho", tmp_path_factory.mktemp("honcho"))


@pytest.fixture(scope="module")
def outcomes(root: Path, _cgroup_base_or_reason: object) -> dict[str, Outcome]:
    return run_suite(root, OURS, ["peers.honcho_ours"], timeout=programs.TEST_WITHIN)


def differs(name: str) -> bool:
    return any(re.search(pattern + "$", name) for pattern in DIFFERS)


def test_what_applies_passes(outcomes: dict[str, Outcome]) -> None:
    applies = {name: outcome for name, outcome in outcomes.items() if not differs(name)}
    assert len(applies) >= 18
    assert {name: outcome.why for name, outcome in applies.items() if outcome.status != "passed"} == {}


def test_what_differs_still_differs(outcomes: dict[str, Outcome]) -> None:
    assert [name for name in outcomes if differs(name) and outcomes[name].status == "passed"] == []
    assert all(any(re.search(pattern, name) for name in outcomes) for pattern in DIFFERS)
    (other,) = (outcome for name, outcome in outcomes.items() if "first_exiting" in name)
    assert "200 == 456" in other.why


def test_every_file_of_the_suite_is_accounted_for(root: Path) -> None:
    files = {str(path.relative_to(root)) for path in (root / "tests").rglob("*.py")}
    assert files == {*OURS, *NOT_OURS}
