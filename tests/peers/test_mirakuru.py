"""mirakuru's own suite passes with our executors in place of its own, but for those below.

Its sdists have no tests: ALLGONE_MIRAKURU names a checkout. It takes a minute and a half: --run-slow.
"""

from __future__ import annotations

import os
import re
from importlib.util import find_spec
from pathlib import Path

import pytest
from peers.outcomes import Outcome
from peers.sdists import run_suite

_A_MOCK_FOR_POPEN = "it replaces subprocess.Popen by a mock and looks at what that was given; ours is allgone.Popen"
DIFFERS = {
    r"test_additional_popen_kwargs_are_passed_through\[.*\]": _A_MOCK_FOR_POPEN,
    "test_additional_popen_kwargs_do_not_override_standard_streams": _A_MOCK_FOR_POPEN,
}
if find_spec("daemon") is None:
    DIFFERS["test_daemons_killing"] = "its daemon needs python-daemon, which is not installed here"


@pytest.fixture(scope="module")
def outcomes(request: pytest.FixtureRequest, _cgroup_base_or_reason: object) -> dict[str, Outcome]:
    if not request.config.getoption("--run-slow"):
        pytest.skip("takes long: --run-slow")
    checkout = os.environ.get("ALLGONE_MIRAKURU")
    if not checkout:
        pytest.skip("its sdists have no tests: ALLGONE_MIRAKURU names a checkout")
    return run_suite(Path(checkout), ["tests"], ["peers.mirakuru_ours"], timeout=600)


@pytest.mark.timeout(700)
def test_all_but_what_differs_by_design_passes(outcomes: dict[str, Outcome]) -> None:
    failed = {name: outcome.why for name, outcome in outcomes.items() if outcome.status == "failed"}
    assert len(outcomes) >= 60
    assert {name: why for name, why in failed.items() if not _differs(name)} == {}
    assert sum(map(_differs, failed)) == sum(map(_differs, outcomes))


def _differs(name: str) -> bool:
    return any(re.search(f"::{pattern}$", name) for pattern in DIFFERS)
