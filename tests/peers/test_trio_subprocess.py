"""trio's own test_subprocess passes with allgone's processes, and leaves nothing behind."""

from __future__ import annotations

import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from support import programs

HERE = Path(__file__).parent
SUITE = "trio._tests.test_subprocess"

_DELIVER_CANCEL = "it is of run_process(deliver_cancel=), which only trio has; in allgone the policy says how to stop"
_WARNINGS = "trio warns when it kills, or fails to; in allgone the report tells of the one, and an error of the other"
_INTERNAL = "it replaces a private function of trio's, which is not called here"
# With allgone.aio; trio's own processes that are an allgone.Popen inside pass all.
BY_DESIGN = {
    "test_custom_deliver_cancel": _DELIVER_CANCEL,
    "test_bad_deliver_cancel": _DELIVER_CANCEL,
    "test_warn_on_failed_cancel_terminate": _WARNINGS,
    "test_warn_on_cancel_SIGKILL_escalation": _WARNINGS,
    "test_run_process_internal_error": _INTERNAL,
    "test_subprocess_pidfd_unnotified": _INTERNAL,
}
BY_CHANCE = {
    "test_basic_no_pidfd[run_process in nursery]": "it wants no pidfd while the process runs; it may have ended by then",
}


def outcomes(what: str, backend: str, folder: Path) -> dict[str, str]:
    """Test -> what is wrong; "" where it passed. Of those that were run."""
    results = folder / "results.xml"
    env = {**os.environ, "ALLGONE_PEER": what, "ALLGONE_BACKEND": backend, "PYTHONPATH": str(HERE)}
    arguments = ["-p", "trio_subprocess", "-p", "no:cacheprovider", "--run-slow", "-c", os.devnull, "--rootdir", folder]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *arguments, f"--junit-xml={results}", "--pyargs", SUITE],
        cwd=folder, env=env, capture_output=True, text=True, timeout=programs.TEST_WITHIN,
    )  # fmt: skip
    assert results.exists(), done.stdout + done.stderr
    cases = ElementTree.parse(results).getroot().iter("testcase")
    return {
        case.attrib["name"]: "".join(bad.get("message", "?") for bad in case if bad.tag in ("failure", "error"))
        for case in cases
        if case.find("skipped") is None
    }


def setups(config: pytest.Config) -> list[tuple[str, str]]:
    default = [("aio", "cgroup"), ("popen", "process-group")]
    return default + ([("aio", "process-group"), ("popen", "cgroup")] if config.getoption("--run-slow") else [])


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    metafunc.parametrize(("what", "backend"), setups(metafunc.config))


def test_trios_suite_passes(what: str, backend: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    if backend == "cgroup":
        request.getfixturevalue("cgroup_base")
    found = outcomes(what, backend, tmp_path)
    assert len(found) >= 30
    different = BY_DESIGN if what == "aio" else {}
    by_chance = BY_CHANCE if what == "aio" else {}
    assert {name: why for name, why in found.items() if why and name not in {**different, **by_chance}} == {}
    assert [name for name in different if found.get(name) == ""] == []  # then it is not different any more
