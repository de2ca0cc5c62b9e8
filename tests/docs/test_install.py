"""Installing from a checkout, as README.md says, gives a package that works."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from docs import pages

USE = "import allgone; print(allgone.run(['sh', '-c', 'sleep 1000 & echo hi'], capture_output=True).stdout)"


@pytest.mark.slow
def test_pip_install_from_a_checkout_works(tmp_path: Path) -> None:
    (commands,) = [b.text for b in pages.blocks(pages.ROOT / "README.md") if "pip install" in b.text]
    checkout = tmp_path / "checkout"
    for name in ("src", "scripts", "README.md", "CHANGELOG.md", "LICENSE", "pyproject.toml"):
        source, target = pages.ROOT / name, checkout / name
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("allgone-launch", "__pycache__"))
        else:
            target.parent.mkdir(exist_ok=True)
            shutil.copy(source, target)
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    environment = {**os.environ, "PATH": f"{tmp_path}/venv/bin:{os.environ['PATH']}"}
    for line in commands.splitlines():
        subprocess.run(["bash", "-c", line.removeprefix("$ ")], check=True, cwd=checkout, env=environment, timeout=150)
    done = subprocess.run(
        [tmp_path / "venv" / "bin" / "python", "-I", "-c", USE], capture_output=True, check=True, cwd=tmp_path
    )
    assert done.stdout == b"b'hi\\n'\n"
