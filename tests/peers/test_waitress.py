"""The pytest plugin under waitress's own tests, which start a server each by multiprocessing: nobody is named who tidies
up, and everybody who does not."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from peers.sdists import unpack
from support.programs import PATIENCE
from support.tiers import missing

RELEASE = "waitress==3.0.2"
TIDIES_UP = "    def stop_subprocess(self):\n"
DOES_NOT = TIDIES_UP + "        return\n"


@pytest.fixture(scope="module")
def source(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not request.config.getoption("--run-slow"):
        pytest.skip("takes long: --run-slow")
    folder = tmp_path_factory.mktemp("waitress")
    pip = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "-q",
        "--no-deps",
        "--no-binary",
        ":all:",
        "-d",
        str(folder),
        RELEASE,
    ]
    done = subprocess.run(pip, capture_output=True, text=True, timeout=PATIENCE * 4, check=False)
    if done.returncode != 0:
        missing(f"waitress could not be fetched: {done.stderr}")
    unpack(next(folder.glob("waitress-*.tar.gz")), folder)
    return next(path for path in folder.iterdir() if path.is_dir())


def outcomes(source: Path, *options: str) -> tuple[dict[str, int], str]:
    done = subprocess.run(
        [
            sys.executable, "-m", "pytest", "-q", "-o", "addopts=", "-p", "no:cacheprovider", "-p", "no:asyncio",
            "--allgone-leaks=fail", "tests/test_functional.py", *options,
        ],
        cwd=source, env=os.environ | {"PYTHONPATH": str(source / "src")},
        stdout=subprocess.PIPE, text=True, timeout=PATIENCE * 5, check=False,
    )  # fmt: skip
    counts = re.findall(r"(\d+) (passed|failed|errors?)", done.stdout.splitlines()[-1])
    return {what.rstrip("s"): int(count) for count, what in counts}, done.stdout


@pytest.mark.parametrize("workers", ["0", "2"])
def test_who_tidies_up_is_not_named(source: Path, workers: str) -> None:
    found, text = outcomes(source, f"-n{workers}")
    assert found.keys() == {"passed"}, text
    assert found["passed"] > 100


def test_who_does_not_is(source: Path) -> None:
    tests = source / "tests/test_functional.py"
    as_it_was = tests.read_text()
    assert TIDIES_UP in as_it_was
    tests.write_text(as_it_was.replace(TIDIES_UP, DOES_NOT, 1))
    try:
        found, text = outcomes(source, "-k", "TcpEchoTests and broken")
    finally:
        tests.write_text(as_it_was)
    assert found["passed"] == found["error"] == text.count("has left 1 process behind:\n  a fork of this process") > 3
