"""pytest-xprocess's own suite passes with our starter in place of its own."""

from __future__ import annotations

import pytest
from peers.outcomes import Outcome
from peers.sdists import fetched, run_suite

# They start a server and wait for it by its output and by a callback, use it again, and end it.
QUICK = [
    "tests/test_functional_workflow.py",
    "tests/test_resource_cleanup.py",
    "tests/test_process_initialization.py::test_ensure_not_restart",
    "tests/test_process_initialization.py::test_startup_without_pattern",
]
DIFFERS: dict[str, str] = {}  # none; those that interrupt pytest find the process alive after it, as they want it


@pytest.fixture(scope="module")
def outcomes(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, _cgroup_base_or_reason: object
) -> dict[str, Outcome]:
    root = fetched("pytest-xprocess", tmp_path_factory.mktemp("xprocess"))
    tests = ["tests"] if request.config.getoption("--run-slow") else QUICK
    return run_suite(root, tests, ["peers.xprocess_ours"], timeout=600)


@pytest.mark.timeout(700)
def test_all_of_it_passes(outcomes: dict[str, Outcome]) -> None:
    assert len(outcomes) >= 8
    failed = {name: outcome.why for name, outcome in outcomes.items() if outcome.status != "passed"}
    assert {name: why for name, why in failed.items() if name not in DIFFERS} == {}
