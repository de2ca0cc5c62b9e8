"""The promises of tests/contract, kept with the backend that systemd's scopes make, wherever a supervisor may be."""

from __future__ import annotations

import pytest
from support.systemd_env import ROOT_SERVICE, USER_LINGERING, USER_SERVICE, USER_SESSION, Environment, Place


@pytest.mark.timeout(600)
@pytest.mark.parametrize("place", [ROOT_SERVICE, USER_SESSION], ids=str)
def test_contract_holds_with_scopes(environment: Environment, place: Place) -> None:
    holds(environment, place)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("place", [USER_SERVICE, USER_LINGERING], ids=str)
def test_contract_holds_in_other_places(environment: Environment, place: Place, slow: None) -> None:
    holds(environment, place)


def holds(environment: Environment, place: Place) -> None:
    ran = environment.run_pytest(
        "-x", "-k", "cgroup and not process-group", "tests/contract",
        place=place, variables={"ALLGONE_TEST_SCOPE": "1"}, seconds=550, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stdout[-5000:] + ran.stderr[-5000:]


@pytest.mark.timeout(600)
@pytest.mark.parametrize("place", [ROOT_SERVICE], ids=str)
def test_daemons_are_gone_with_scopes(environment: Environment, place: Place, slow: None) -> None:
    environment.run_pytest("tests/daemons", place=place, variables={"ALLGONE_TEST_SCOPE": "1"}, seconds=550)
