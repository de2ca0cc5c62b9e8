"""The promises of tests/contract, kept with the backend that systemd's scopes make, wherever a supervisor may be.

And the real servers of tests/daemons, as root and as an ordinary user.
"""

from __future__ import annotations

import pytest
from support import programs
from support.systemd_env import ROOT_SERVICE, USER_LINGERING, USER_SERVICE, USER_SESSION, Environment, Place
from support.tiers import missing

# What can't be had inside, or can't be done by this user; everything else that is left out there is told to the caller.
KNOWN = {
    "no pids controller of cgroup v1": "only cgroup v2 is mounted inside; tests/contract has it outside",
    "no freezer of cgroup v1": "the same",
    "no memory controller of cgroups v1": "tests/daemons has it outside",
    "only root can start processes as another user": "a test of a process group without processes, not of cgroups",
    "the temporary directory is in memory": "no disk, so nothing is written to one; outside it is",
    "preexec_fn is refused here": "the test has looked that it is: systemd must move the child of a login session",
}
# Those that are left out count what is in a directory that they have told the backend.
CONTRACT = (
    "tests/contract", "-k", "not process-group and not fake",
    "--ignore=tests/contract/test_supervisor_killed.py", "--ignore=tests/contract/test_every_call_fails_once.py",
    "--ignore=tests/contract/test_guard.py",
    "--deselect=tests/contract/test_told_of_ends.py::test_what_the_janitor_sweeps_is_told_of",
)  # fmt: skip
LESS = {"ALLGONE_TEST_ROUNDS": "2"}  # of 20
IN_SCOPES = ("tests/daemons", "-k", "real_server and cgroup")
WITHIN = 7 * programs.TEST_WITHIN  # seconds for hundreds of tests, each of which has its own limit inside
BOTH = pytest.mark.parametrize("place", [ROOT_SERVICE, USER_SESSION], ids=str)


def hold(environment: Environment, place: Place, *tests: str, rounds: dict[str, str] | None = None) -> None:
    ran = environment.run_pytest(
        "-x", "-rs", *tests, place=place, variables={"ALLGONE_TEST_SCOPE": "1", **(rounds or {})},
        seconds=WITHIN - 50, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stdout[-5000:] + ran.stderr[-5000:]
    left_out = [each for each in ran.stdout.splitlines() if each.startswith("SKIPPED")]
    unknown = [each for each in left_out if not any(known in each for known in KNOWN)]
    if unknown:
        missing(f"inside, in {place}: " + "; ".join(unknown))


@pytest.mark.timeout(WITHIN)
@BOTH
def test_contract_holds_with_scopes(environment: Environment, place: Place) -> None:
    hold(environment, place, *CONTRACT)


@pytest.mark.timeout(WITHIN)
@pytest.mark.parametrize("place", [USER_SERVICE, USER_LINGERING], ids=str)
def test_contract_holds_in_other_places(environment: Environment, place: Place, slow: None) -> None:
    hold(environment, place, *CONTRACT)


@pytest.mark.timeout(WITHIN)
@BOTH
def test_daemons_are_gone_with_scopes(environment: Environment, place: Place) -> None:
    hold(environment, place, *IN_SCOPES, rounds=LESS)


@pytest.mark.timeout(WITHIN)
@BOTH
def test_daemons_are_gone_after_each_of_twenty_rounds(environment: Environment, place: Place, slow: None) -> None:
    """With the other backends as well, which know nothing of scopes, and work in a login session all the same."""
    hold(environment, place, "tests/daemons", "--run-slow")


@pytest.mark.timeout(WITHIN)
@BOTH
def test_event_loops_with_scopes(environment: Environment, place: Place, slow: None) -> None:
    """Starts are made in threads: the first, and in a login session all."""
    if environment.run(environment.python, "-c", "import anyio, trio", check=False).returncode:
        missing(f"anyio and trio are not installed for {environment.python}")
    hold(environment, place, "tests/aio", "-k", "cgroup and not process-group and not many")
