"""Installing from a checkout, as README.md says, gives a package that works."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support import programs

from docs import pages

USE = "import allgone; print(allgone.run(['sh', '-c', 'sleep 1000 & echo hi'], capture_output=True).stdout)"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of what is installed, with nothing built."""
    copy = tmp_path / "checkout"
    for name in ("src", "scripts", "README.md", "CHANGELOG.md", "LICENSE", "pyproject.toml"):
        source, target = pages.ROOT / name, copy / name
        if source.is_dir():
            shutil.copytree(
                source, target, ignore=shutil.ignore_patterns("allgone-launch", "allgone-guard", "__pycache__")
            )
        else:
            target.parent.mkdir(exist_ok=True)
            shutil.copy(source, target)
    return copy


def commands(word: str) -> list[str]:
    """The commands with `word` in them that README.md shows and test_examples.py does not run."""
    shown = [b for b in pages.blocks(pages.ROOT / "README.md") if b.mark("not run") is not None]
    found = [line for block in shown for line in block.text.splitlines() if word in line]
    assert found
    return [line.removeprefix("$ ") for line in found]


def run(command: str, checkout: Path, **environment: str) -> str:
    """What it prints; fails unless it succeeds."""
    done = subprocess.run(
        ["bash", "-c", command], cwd=checkout, env={**os.environ, **environment}, timeout=programs.TEST_WITHIN, text=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_pip_install_from_a_checkout_works(checkout: Path, tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    for command in commands("pip install"):
        run(command, checkout, PATH=f"{tmp_path}/venv/bin:{os.environ['PATH']}")
    done = subprocess.run(
        [tmp_path / "venv" / "bin" / "python", "-I", "-c", USE], capture_output=True, check=True, cwd=tmp_path
    )
    assert done.stdout == b"b'hi\\n'\n"


def test_the_demo_runs_from_a_checkout_where_nothing_is_installed(checkout: Path) -> None:
    for command in commands("scripts/demo"):
        told = run(command, checkout, PYTHON=sys.executable)
        assert "making .venv" in told
        assert "What survived was ended by the demo itself" in told
        assert not run(command, checkout).startswith("\n==")  # the second time it is there
