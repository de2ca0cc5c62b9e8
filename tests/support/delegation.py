"""An ordinary user with a cgroup of its own, as systemd's Delegate=yes gives it, and a program it may not signal."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import allgone
from support import cgroups
from support.tiers import missing

NOBODY = 65534
DELEGATED = ("cgroup.procs", "cgroup.threads", "cgroup.subtree_control")  # cgroups(7); cgroup.kill is not among them


@contextmanager
def delegated(base: str) -> Iterator[str]:
    """A cgroup below `base` that belongs to nobody, with a ``supervisor`` in it."""
    folder = f"{base}/delegated"
    os.mkdir(folder)
    try:
        os.mkdir(f"{folder}/supervisor")
        for each in (folder, f"{folder}/supervisor"):
            for path in (each, *(f"{each}/{name}" for name in DELEGATED)):
                os.chown(path, NOBODY, NOBODY)
        yield folder
    finally:
        cgroups.remove_all(folder)


def as_nobody(code: str, cgroup: str, **environment: str) -> str:
    """Run Python code as nobody, started in that cgroup; what it printed. AssertionError with stderr if it failed."""
    environment = {**os.environ, "PYTHONPATH": str(Path(allgone.__file__).parent.parent), **environment}
    enter = 'echo $$ > "$0/cgroup.procs" && exec setpriv --reuid 65534 --regid 65534 --clear-groups "$@"'

    def run(python: str, text: str) -> subprocess.CompletedProcess[str]:
        command = ["sh", "-c", enter, cgroup, python, "-W", "error", "-c", text]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)

    # Ours may be in a place that is closed to others, such as root's home.
    for python in (sys.executable, "/usr/bin/python3"):
        if run(python, "import allgone._process.popen").returncode == 0:
            done = run(python, code)
            assert done.returncode == 0, done.stderr
            return done.stdout
    missing("there is no Python that nobody can execute and that can import allgone")


def setuid_program(folder: Path) -> list[str]:
    """A command line that whoever runs it becomes root by, and that says ready and sleeps then."""
    setpriv = shutil.which("setpriv") or missing("setpriv is not installed")
    if os.statvfs(folder).f_flag & os.ST_NOSUID:
        missing(f"{folder} is mounted nosuid")
    copy = folder / "setpriv"
    shutil.copy(setpriv, copy)
    copy.chmod(0o4755)
    for each in (folder, *folder.parents):
        if not os.stat(each).st_mode & 0o001:
            each.chmod(0o755)
    return [str(copy), "--reuid", "0", "--regid", "0", "--clear-groups", "sh", "-c", "echo ready; exec sleep 1000"]
