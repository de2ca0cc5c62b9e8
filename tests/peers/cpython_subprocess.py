"""Runs CPython's own test.test_subprocess with the names of `subprocess` replaced by allgone's, and prints JSON.

    cpython_subprocess.py [--backend cgroup|process-group] [--launcher compiled|interpreted] [NAME...]
    cpython_subprocess.py --baseline [NAME...]

NAME is a test as unittest names it (``ProcessTestCase.test_io_buffered_by_default``); default: all. The suite is that
of the interpreter that runs this file.

Two processes. The inner one replaces, imports the suite and runs it. The outer one is a child subreaper, so that what
the suite leaves behind comes to it and can be counted and ended; and it makes the cgroup that the cgroup backend works
below, and looks at what is left in it.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import unittest
from typing import Any

REPLACED = ("Popen", "run", "call", "check_call", "check_output")
SUITE = "test.test_subprocess"
_PR_SET_CHILD_SUBREAPER = 36


def parsed(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--backend", choices=("cgroup", "process-group"), default="process-group")
    parser.add_argument("--launcher", choices=("compiled", "interpreted"), default="compiled")
    parser.add_argument("--baseline", action="store_true", help="leave subprocess as it is")
    parser.add_argument("--skip", action="append", default=[], metavar="NAME", help="leave this test out")
    parser.add_argument("--path", action="append", default=[], metavar="DIR", help="look for allgone here first")
    parser.add_argument("--timeout", type=float, default=300.0, help="seconds after which all is killed (default 300)")
    parser.add_argument("--inner", metavar="FILE", help=argparse.SUPPRESS)
    parser.add_argument("names", nargs="*", metavar="NAME")
    return parser.parse_args(argv)


# The inner process


class Recorder(unittest.TextTestResult):
    """Keeps a status and the reason for each test. Subtests count for the test that they are in."""

    def __init__(self, *args: Any, **keywords: Any) -> None:
        super().__init__(*args, **keywords)
        self.outcomes: dict[str, dict[str, str]] = {}
        self.left_containments: dict[str, int] = {}
        self._containments = 0

    def _note(self, test: Any, status: str, why: str = "") -> None:
        name = short_name(getattr(test, "test_case", test))  # a subtest has the test that it is of
        if status != "passed" or name not in self.outcomes:
            self.outcomes[name] = {"status": status, "why": why}

    def addSuccess(self, test: Any) -> None:
        super().addSuccess(test)
        self._note(test, "passed")

    def addFailure(self, test: Any, err: Any) -> None:
        super().addFailure(test, err)
        self._note(test, "failed", self.failures[-1][1])

    def addError(self, test: Any, err: Any) -> None:
        super().addError(test, err)
        self._note(test, "error", self.errors[-1][1])

    def addSubTest(self, test: Any, subtest: Any, err: Any) -> None:
        super().addSubTest(test, subtest, err)
        if err is not None:
            self._note(test, "failed", (self.failures + self.errors)[-1][1])

    def addSkip(self, test: Any, reason: str) -> None:
        super().addSkip(test, reason)
        self._note(test, "skipped", reason)

    def addExpectedFailure(self, test: Any, err: Any) -> None:
        super().addExpectedFailure(test, err)
        self._note(test, "passed")

    def addUnexpectedSuccess(self, test: Any) -> None:
        super().addUnexpectedSuccess(test)
        self._note(test, "failed", "unexpected success")

    def stopTest(self, test: Any) -> None:
        super().stopTest(test)
        if "allgone._process.driver" in sys.modules:
            now = len(sys.modules["allgone._process.driver"]._live)
            if now > self._containments:
                self.left_containments[short_name(test)] = now - self._containments
            self._containments = now


def short_name(test: unittest.TestCase) -> str:
    return test.id().removeprefix(SUITE + ".")


def replace_subprocess(backend: str) -> None:
    """From here on, whoever says ``subprocess.Popen`` in this process says ``allgone.Popen``.

    The processes that tests start with ``-c`` code of their own are other processes: theirs is the real one.
    """
    import allgone
    from allgone._backends import choose

    assert choose.backend().name == backend  # it has tried itself out now, with the real subprocess.Popen
    for name in REPLACED:
        setattr(subprocess, name, getattr(allgone, name))
    subprocess.call(["true"])  # from now on there is a guard, and what tells it


def chosen(names: list[str], skipped: list[str]) -> unittest.TestSuite:
    loaded = unittest.defaultTestLoader.loadTestsFromNames([f"{SUITE}.{name}" for name in names] or [SUITE])
    kept = unittest.TestSuite()
    for test in every(loaded):
        if short_name(test) not in skipped:
            kept.addTest(test)
    return kept


def every(suite: unittest.TestSuite | unittest.TestCase) -> list[unittest.TestCase]:
    if isinstance(suite, unittest.TestCase):
        return [suite]
    return [test for part in suite for test in every(part)]


def inner(options: argparse.Namespace) -> None:
    sys.path[:0] = options.path
    if not options.baseline:
        replace_subprocess(options.backend)
    # The suite is imported only now: it makes subclasses of subprocess.Popen, and patches of its attributes.
    tests = chosen(options.names, options.skip)
    runner = unittest.TextTestRunner(resultclass=Recorder, verbosity=2, warnings="default")
    fds = open_fds()
    began = time.monotonic()
    result = runner.run(tests)
    assert isinstance(result, Recorder)
    found = {
        "seconds": round(time.monotonic() - began, 1),
        "tests": result.outcomes,
        "containments_left": result.left_containments,
        "children_left": children(),
        "fds_left": fds_left(fds),
    }
    with open(options.inner, "w", encoding="utf-8") as f:
        json.dump(found, f)


def open_fds() -> dict[int, str]:
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:
            continue  # the directory that we are listing
    return found


def fds_left(before: dict[int, str]) -> list[str]:
    """Fds that are open and were not, but for the one that the cgroup backend holds until the process ends."""
    gc.collect()
    new = [target for fd, target in open_fds().items() if fd not in before]
    return [target for target in new if f"/allgone-{os.getpid()}-" not in target]


# The outer process


def children() -> list[int]:
    """Direct children of this process, zombies included."""
    found: list[int] = []
    for thread in os.listdir("/proc/self/task"):
        with open(f"/proc/self/task/{thread}/children", encoding="ascii") as f:
            found += map(int, f.read().split())
    return found


def end_children() -> list[str]:
    """Reap what has ended, kill and reap what has not; returns the command lines of the latter."""
    alive = []
    while pids := children():
        for pid in pids:
            if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG) is None:
                with open(f"/proc/{pid}/cmdline", "rb") as f:
                    alive.append(f.read().replace(b"\0", b" ").decode("utf-8", "replace").strip()[:200])
                os.kill(pid, signal.SIGKILL)  # an unreaped child of ours: its number is nobody else's
                os.waitid(os.P_PID, pid, os.WEXITED)
    return alive


def outer(options: argparse.Namespace) -> dict[str, object]:
    """Run the inner process and judge what it left."""
    if ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, ctypes.c_ulong(1), 0, 0, 0) != 0:
        raise SystemExit("this process can't be a child subreaper")
    base = make_cgroup() if options.backend == "cgroup" and not options.baseline else None
    try:
        found = run_inner(options, environment(options, base))
    finally:
        processes = end_children()
        cgroups = remove_cgroup(base) if base is not None else []
    return {
        "python": ".".join(map(str, sys.version_info[:3])),
        "setup": "subprocess" if options.baseline else f"{options.backend}, {options.launcher}",
        **found,
        "processes_left": processes,
        "cgroups_left": cgroups,
    }


def environment(options: argparse.Namespace, base: str | None) -> dict[str, str]:
    ours = ("ALLGONE_", "PYTHON", "PYTEST")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    if not options.baseline:
        kept |= {"ALLGONE_BACKEND": options.backend, "ALLGONE_LAUNCHER": options.launcher}
    return kept | ({"ALLGONE_CGROUP": base} if base is not None else {})


def make_cgroup() -> str:
    from support import cgroups

    try:
        return cgroups.make_base(os.getpid())
    except LookupError as e:
        raise SystemExit(f"no cgroup to work below: {e}") from None


def remove_cgroup(base: str) -> list[str]:
    """Remove it; returns the cgroups that were left in it."""
    from support import cgroups

    left = cgroups.tree(base)[1:]
    cgroups.remove_all(base)
    return left


def run_inner(options: argparse.Namespace, env: dict[str, str]) -> dict[str, object]:
    with tempfile.TemporaryDirectory(prefix="allgone-peer-") as folder:
        results = os.path.join(folder, "results.json")
        work = os.path.join(folder, "work")
        os.mkdir(work)  # the suite makes files in its working directory
        command = [sys.executable, os.path.abspath(__file__), *sys.argv[1:], "--inner", results]
        with subprocess.Popen(command, cwd=work, env=env, stdin=subprocess.DEVNULL, stdout=sys.stderr) as child:
            try:
                code = child.wait(options.timeout)
            except subprocess.TimeoutExpired:
                child.kill()
                raise SystemExit(f"not finished after {options.timeout:g} s") from None
        if code:
            raise SystemExit(f"the suite's process ended with {code}")
        with open(results, encoding="utf-8") as f:
            found: dict[str, object] = json.load(f)
        return found


if __name__ == "__main__":
    asked = parsed()
    if asked.inner:
        inner(asked)
    else:
        sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
        json.dump(outer(asked), sys.stdout, indent=1)
