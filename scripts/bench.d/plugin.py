"""What the pytest plugin adds to a suite of 1,000 empty tests that uses nothing of it.

The target is in calls, which are the same each time: CPU times of such a run differ by a tenth on a busy machine.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from results import Row, Target, rows

TESTS = 1000
_WHAT = "empty tests"
_PLUGIN = ["-p", "allgone.pytest_plugin"]
_WAYS = {
    "pytest": [],
    "with the plugin": _PLUGIN,
    "with --allgone-leaks": [*_PLUGIN, "--allgone-leaks=fail"],
}
_OPTIONS = ["-q", "-p", "no:cacheprovider"]
_COUNTS = """
import sys, pytest
count = 0
def called(*_):
    global count
    count += 1
sys.setprofile(called)
status = pytest.main(sys.argv[1:])
sys.setprofile(None)
print("\\n", count, sep="")
sys.exit(status)
"""


def measure(rounds: int) -> tuple[list[Row], list[Target]]:
    samples: dict[str, list[int]] = {f"{_WHAT}/{name}": [] for name in _WAYS}
    with tempfile.TemporaryDirectory() as folder:
        tests = "".join(f"def test_{n}():\n    pass\n\n\n" for n in range(TESTS))
        Path(folder, "test_empty.py").write_text(tests, encoding="utf-8")
        for n in range(rounds + 1):
            for name, options in _WAYS.items():
                took = _cpu_time(folder, options)
                if n:  # the first round compiles the tests
                    samples[f"{_WHAT}/{name}"].append(took)
        more = _calls(folder, _PLUGIN) / _calls(folder, []) - 1
    found = rows(samples, "-", "pytest")
    return found, [Target(f"{TESTS} empty tests with the pytest plugin: % of calls above those without", 1, more * 100)]


def _environment(folder: str) -> dict[str, str]:
    """Only this plugin, and compiled, as where it is installed."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return kept | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONPYCACHEPREFIX": folder}


def _cpu_time(folder: str, options: list[str]) -> int:
    """Nanoseconds, user and system."""
    process = subprocess.Popen(
        [sys.executable, "-m", "pytest", *_OPTIONS, *options],
        cwd=folder, env=_environment(folder), stdout=subprocess.DEVNULL,
    )  # fmt: skip
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise RuntimeError(f"pytest ended with status {process.returncode}")
    return round((used.ru_utime + used.ru_stime) * 1e9)


def _calls(folder: str, options: list[str]) -> int:
    done = subprocess.run(
        [sys.executable, "-c", _COUNTS, *_OPTIONS, *options],
        cwd=folder, env=_environment(folder), stdout=subprocess.PIPE, check=True,
    )  # fmt: skip
    return int(done.stdout.split()[-1])
