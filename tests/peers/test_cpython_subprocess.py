"""Whatever CPython's own test_subprocess asks of `subprocess`, allgone gives it too, and leaves nothing behind."""

from __future__ import annotations

import faulthandler
import json
import os
import subprocess
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from peers.interpreters import other_pythons, version_if_it_has
from peers.tables import TABLE
from support.tiers import missing

RUNNER = Path(__file__).with_name("cpython_subprocess.py")
SUITE = "test.test_subprocess"
AT_ONCE = 2  # suites; their tests look at the clock

# What an interrupt does with allgone is in tests/contract/test_interrupts.py: the tree is stopped as the policy says.
_FINDS_THE_CHILD_BY_A_PRIVATE = (
    "it finds the child through subprocess.Popen, which it replaces for that moment, and interrupts by replacing "
    "private methods of it; allgone's functions use allgone's Popen, and don't wait by those methods"
)
BY_DESIGN = {
    "MiscTests.test_call_keyboardinterrupt_no_kill": _FINDS_THE_CHILD_BY_A_PRIVATE,
    "MiscTests.test_run_keyboardinterrupt_no_kill": _FINDS_THE_CHILD_BY_A_PRIVATE,
    "MiscTests.test_context_manager_keyboardinterrupt_no_kill": (
        "it wants one call of the private method _wait(timeout=0.25), after which the standard library leaves the "
        "child alone; allgone stops it"
    ),
}
# ProcessTestCaseNoPoll repeats ProcessTestCase without poll(), which starts do not use. This is 1,024 starts that fail,
# 14 s with an interpreter for each.
REPEATED_WITH_INTERPRETED = {"ProcessTestCaseNoPoll.test_leaking_fds_on_error"}
# It lets nothing be spawned (it replaces a private method), so no end of a leader is ever noticed before exit.
NEVER_SPAWNED = {"ProcessTestCase.test_repr", "ProcessTestCaseNoPoll.test_repr"}


@dataclass(frozen=True)
class Setup:
    """What stands for `subprocess` in a run of the suite."""

    backend: str
    launcher: str
    left_out: frozenset[str] = frozenset()
    only: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        return f"{self.backend}, {self.launcher}" if self.backend else "subprocess"

    @property
    def arguments(self) -> list[str]:
        chosen = ["--backend", self.backend, "--launcher", self.launcher] if self.backend else ["--baseline"]
        return [*chosen, *(f"--skip={name}" for name in self.left_out), *self.only]


@dataclass(frozen=True)
class Python:
    """An interpreter that has the suite."""

    version: str
    path: str


STANDARD = Setup("", "")
# The slow ones first: two run at a time.
SETUPS = [
    Setup(backend, launcher, frozenset(BY_DESIGN) | (REPEATED_WITH_INTERPRETED if launcher == "interpreted" else set()))
    for launcher in ("interpreted", "compiled")
    for backend in ("cgroup", "process-group")
]
DIFFERENT = Setup("process-group", "compiled", only=tuple(BY_DESIGN))


def pythons(config: pytest.Config) -> list[Python]:
    """The running interpreter if it has the suite, and the others asked for; one per version."""
    found: dict[str, Python] = {}
    for path in (sys.executable, *other_pythons(config.getoption("--all-pythons", default=False))):
        version = version_if_it_has(SUITE, path)
        if version is not None:
            found.setdefault(version, Python(version, path))
    return list(found.values())


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "python" in metafunc.fixturenames:
        found = pythons(metafunc.config) or [None]
        metafunc.parametrize("python", found, ids=lambda each: each.version if each else "none")
    if "setup" in metafunc.fixturenames:
        metafunc.parametrize("setup", SETUPS, ids=lambda each: f"{each.backend}-{each.launcher}")


Runs = dict[tuple[Python, Setup], dict[str, Any]]


@pytest.fixture(scope="session")
def runs(request: pytest.FixtureRequest, _cgroup_base_or_reason: tuple[str | None, str]) -> Iterator[Runs]:
    """Every run of the suite that the selected tests want, made before the first of them."""
    faulthandler.cancel_dump_traceback_later()  # pytest's alarm for hangs; the runner has a time limit of its own
    no_cgroup = _cgroup_base_or_reason[0] is None
    jobs = [job for job in wanted(request.session.items) if not (no_cgroup and job[1].backend == "cgroup")]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        found = dict(zip(jobs, pool.map(lambda job: run_suite(*job), jobs), strict=True))
    request.config.stash[TABLE] = table(found)
    return found


def wanted(items: Iterable[pytest.Item]) -> list[tuple[Python, Setup]]:
    jobs: dict[tuple[Python, Setup], None] = {}
    for item in items:
        callspec = getattr(item, "callspec", None)
        if callspec is None or item.path != Path(__file__) or callspec.params["python"] is None:
            continue
        setup = callspec.params.get("setup", DIFFERENT)
        jobs[callspec.params["python"], setup] = None
    return [*jobs, *((python, STANDARD) for python in dict.fromkeys(python for python, _ in jobs))]


def run_suite(python: Python, setup: Setup) -> dict[str, Any]:
    """What the runner says, ``{"broken": why}`` where it could not say it."""
    command = [python.path, str(RUNNER), *setup.arguments]
    if python.path != sys.executable:  # it need not have allgone installed
        for folder in (Path(__file__).parents[2] / "src", sysconfig.get_path("platlib")):
            command += ["--path", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace")
    if done.returncode:
        return {"broken": f"exit status {done.returncode}\n{done.stderr[-3000:]}"}
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def passed(run: dict[str, Any]) -> set[str]:
    assert "broken" not in run, run["broken"]
    return {name for name, outcome in run["tests"].items() if outcome["status"] == "passed"}


def table(runs: Runs) -> list[tuple[str, ...]]:
    rows = [("python", "what", "tests", "passed", "skipped", "new failures", "seconds")]
    for (python, setup), run in sorted(runs.items(), key=lambda item: (item[0][0].version, item[0][1].label)):
        if setup == DIFFERENT:
            continue
        if "broken" in run:
            rows.append((python.version, setup.label, "broken", "", "", "", ""))
            continue
        statuses = [outcome["status"] for outcome in run["tests"].values()]
        failures = "" if setup == STANDARD else str(len(new_failures(runs, python, setup)))
        counts = (len(statuses), statuses.count("passed"), statuses.count("skipped"))
        rows.append((python.version, setup.label, *map(str, counts), failures, f"{run['seconds']:.0f}"))
    return rows


def new_failures(runs: Runs, python: Python, setup: Setup) -> list[str]:
    expected = passed(runs[python, STANDARD]) if "broken" not in runs[python, STANDARD] else set()
    return sorted(expected - passed(runs[python, setup]) - setup.left_out)


def available(runs: Runs, python: Python | None, setup: Setup) -> dict[str, Any]:
    if python is None:
        missing(f"no Python here has {SUITE}; on Debian it is in libpython3-testsuite")
    if (python, setup) not in runs:
        missing("no cgroup to work below")
    run = runs[python, setup]
    assert "broken" not in run, run["broken"]
    return run


# A pause of this length is nothing here: all runs are made before the first test.
pytestmark = pytest.mark.timeout(1800)


def test_what_passes_with_subprocess_passes_with_allgone(runs: Runs, python: Python | None, setup: Setup) -> None:
    run = available(runs, python, setup)
    assert python is not None
    failures = new_failures(runs, python, setup)
    unknown = {"status": "not run", "why": ""}
    whys = [f"{name}: {run['tests'].get(name, unknown)}" for name in failures]
    assert not failures, "\n".join(whys).replace("\\n", "\n")


def test_nothing_is_left_behind(runs: Runs, python: Python | None, setup: Setup) -> None:
    run = available(runs, python, setup)
    left = {what: run[f"{what}_left"] for what in ("processes", "children", "cgroups", "fds")}
    assert left == {"processes": [], "children": [], "cgroups": [], "fds": []}
    assert run["containments_left"].keys() <= NEVER_SPAWNED


def test_what_differs_by_design_still_differs(runs: Runs, python: Python | None) -> None:
    run = available(runs, python, DIFFERENT)
    assert python is not None
    assert passed(runs[python, STANDARD]) >= BY_DESIGN.keys()
    assert passed(run) == set()
    assert run["tests"].keys() == BY_DESIGN.keys()


def test_the_list_of_differences_is_short() -> None:
    assert len(BY_DESIGN) <= 5
    assert os.path.exists(RUNNER)
