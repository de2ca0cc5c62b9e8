"""The guard while systemd is asked to move it into a scope: it does not end before it was moved, or that is overdue.

Of the kernel: what has ended can be "moved" to a cgroup until it is reaped; that stays as empty as it was, and systemd,
which waits for it to become so, would keep the scope for good.
"""

from __future__ import annotations

import os
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest
from support import cgroups
from support.programs import PATIENCE
from support.tiers import missing

from allgone._linux import cgroupfs, launcher

SUPERVISOR = """
import sys
from allgone._linux.guard import Guard
from allgone._linux.register import Register
register = Register()
guard = Guard(register.fileno() if sys.argv[1] == "guard" else None, program=[sys.executable, "-c", "0"])
for seconds in sys.argv[2:]:
    guard.may_be_moved(float(seconds))
print(guard.pid, flush=True)
if sys.stdin.readline():
    guard.end()
"""
FOR_GOOD = 4 * PATIENCE  # seconds: longer than anybody here waits for its end


class Asked:
    """A supervisor whose guard is to be moved."""

    def __init__(self, stack: ExitStack, kind: str, role: str, *within: float, under: Sequence[str] = ()) -> None:
        words = [*under, sys.executable, "-c", SUPERVISOR, role, *map(str, within)]
        self._process = stack.enter_context(
            subprocess.Popen(
                words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                env={**os.environ, "ALLGONE_LAUNCHER": kind},
            )
        )  # fmt: skip
        stack.callback(self._process.kill)
        assert self._process.stdout is not None
        self.pid = int(self._process.stdout.readline())
        self._guard = os.pidfd_open(self.pid)
        stack.callback(os.close, self._guard)

    def outlives(self, end: str) -> float:
        """End the supervisor; returns for how many seconds the guard was there after that."""
        assert self._process.stdin is not None
        if end == "told":
            self._process.stdin.write("end\n")
            self._process.stdin.flush()
        else:
            self._process.kill()
        began = time.monotonic()
        assert select.select([self._guard], [], [], PATIENCE)[0]
        return time.monotonic() - began


@pytest.fixture(params=["compiled", "interpreted"])
def kind(request: pytest.FixtureRequest) -> str:
    if request.param == "compiled" and not os.access(launcher.COMPILED, os.X_OK):
        missing("the package was built without a compiler: no compiled guard")
    return str(request.param)


@pytest.fixture
def scope(cgroup_base: str) -> Iterator[Path]:
    folder = Path(cgroup_base) / "asked-for.scope"
    folder.mkdir()
    yield folder
    cgroups.remove_all(str(folder))


def test_what_has_ended_and_is_not_reaped_is_moved_without_effect(scope: Path) -> None:
    with subprocess.Popen(["true"]) as process:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        (scope / "cgroup.procs").write_text(str(process.pid))
        assert not cgroupfs.populated(str(scope))


@pytest.mark.parametrize("end", ["killed", "told"])
@pytest.mark.parametrize("role", ["guard", "anchor"])
@pytest.mark.parametrize("within", [0.5, 1.5])
def test_it_waits_to_be_moved_but_not_for_ever(kind: str, role: str, end: str, within: float) -> None:
    with ExitStack() as stack:
        assert Asked(stack, kind, role, within).outlives(end) >= within


@pytest.mark.parametrize("end", ["killed", "told"])
@pytest.mark.parametrize("role", ["guard", "anchor"])
def test_once_moved_it_ends_and_the_scope_becomes_empty(kind: str, role: str, end: str, scope: Path) -> None:
    with ExitStack() as stack:
        asked = Asked(stack, kind, role, FOR_GOOD)
        watch = stack.enter_context(cgroupfs.EmptiedWatch(str(scope)))
        (scope / "cgroup.procs").write_text(str(asked.pid))
        assert cgroupfs.populated(str(scope))
        asked.outlives(end)
        assert select.select([watch], [], [], PATIENCE)[0]
        assert not cgroupfs.populated(str(scope))


@pytest.mark.parametrize("role", ["guard", "anchor"])
def test_moved_before_it_has_done_anything_it_ends_at_once(kind: str, role: str, scope: Path) -> None:
    slow = ["strace", "-qq", "-f", "-o", os.devnull, "-e", "trace=chdir", "-e", "inject=chdir:delay_enter=500ms"]
    if shutil.which("strace") is None:
        missing("strace is not installed")
    with ExitStack() as stack:
        asked = Asked(stack, kind, role, FOR_GOOD, under=slow)
        (scope / "cgroup.procs").write_text(str(asked.pid))
        asked.outlives("told")


@pytest.mark.parametrize("role", ["guard", "anchor"])
def test_it_waits_for_nothing_where_systemd_has_refused(kind: str, role: str) -> None:
    with ExitStack() as stack:
        Asked(stack, kind, role, FOR_GOOD, 0).outlives("told")
