"""The interpreters that other people's suites are run with."""

from __future__ import annotations

import glob
import os
import shutil
import subprocess
from pathlib import Path


def other_pythons(all_of_them: bool) -> list[str]:
    """Interpreters besides the running one: those of ALLGONE_PYTHONS; with `all_of_them` one per version found."""
    told = [path for path in os.environ.get("ALLGONE_PYTHONS", "").split(":") if path]
    if not all_of_them:
        return told
    versions = [f"3.{minor}" for minor in range(10, 14)]
    found = [path for version in versions if (path := shutil.which(f"python{version}"))]
    pyenv = os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv"
    found += [path for version in versions for path in sorted(glob.glob(f"{pyenv}/versions/{version}.*/bin/python3"))]
    return told + found


def version_if_it_has(suite: str, python: str) -> str | None:
    """The version of an interpreter; None if it can't be run or has not got that module of the standard library's."""
    program = "import importlib, platform, sys; importlib.import_module(sys.argv[1]); print(platform.python_version())"
    try:
        answer = subprocess.run([python, "-I", "-c", program, suite], capture_output=True, text=True, timeout=60)
    except OSError:
        return None
    return answer.stdout.strip() if answer.returncode == 0 else None
