"""Other people's test suites: from their sdists, which pip fetches, run with pytest and a plugin of ours."""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
from pathlib import Path

from peers.outcomes import Outcome
from support import programs
from support.tiers import missing

HERE = Path(__file__).parent


def fetched(name: str, folder: Path, version: str | None = None) -> Path:
    """The unpacked sdist of the version that is installed here, or of `version`."""
    wanted = f"{name}=={version or importlib.metadata.version(name)}"
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", name, "-d", folder, wanted]
    done = subprocess.run(command, capture_output=True, text=True, timeout=programs.TEST_WITHIN)
    if done.returncode:
        missing(f"pip can't fetch the sdist of {wanted}: {done.stderr[-500:]}")
    (archive,) = folder.glob("*.tar.gz")
    unpack(archive, folder)
    (root,) = (each for each in folder.iterdir() if each.is_dir())
    return root


def unpack(archive: Path, folder: Path) -> None:
    """By tar, for the tarfile of Python 3.11.2, which Debian 12 has, knows no filters; that of 3.12 warns without."""
    subprocess.run(["tar", "-xf", archive, "-C", folder, "--no-same-owner"], check=True)


def run_suite(
    root: Path, tests: list[str], plugins: list[str], *, timeout: float, **variables: str
) -> dict[str, Outcome]:
    """Run `tests` (files, or names as pytest has them) with our plugins; what became of each, by pytest's name."""
    results = root / "outcomes.json"
    env = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "ALLGONE_BACKEND"))}
    env |= {"PYTHONPATH": f"{HERE.parent}", "PEER_OUTCOMES": str(results), **variables}
    named = [word for plugin in ("peers.outcomes", *plugins) for word in ("-p", plugin)]
    command = [sys.executable, "-m", "pytest", "-q", "-c", "/dev/null", "--rootdir", "."]
    command += ["-p", "no:allgone", *named, "-W", "default", *tests]
    done = subprocess.run(
        command, cwd=root, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout
    )
    assert results.exists(), done.stdout[-3000:] + done.stderr[-3000:]
    return {name: Outcome(**each) for name, each in json.loads(results.read_text()).items()}
