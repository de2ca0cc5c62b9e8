"""Why the launcher of last resort is a Python program: what a POSIX shell can't do, shown with dash.

Each test shows a shell failing at something that test_launcher.py demands of every launcher.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess

import pytest
from support.tiers import missing

from allgone._linux import fds


@pytest.fixture
def dash() -> str:
    return shutil.which("dash") or missing("dash is not installed")


def run(dash: str, script: str, *words: str | bytes, **how: object) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([dash, "-c", script, *words], capture_output=True, **how)  # type: ignore[call-overload]


def test_it_takes_no_fd_above_9(dash: str) -> None:
    with open("/dev/null", "wb") as null:
        fd = fcntl.fcntl(null, fcntl.F_DUPFD_CLOEXEC, 10)
        try:
            done = run(dash, f"echo 0 >&{fd}", pass_fds=(fd,))
        finally:
            os.close(fd)
    assert done.returncode != 0
    assert done.stderr


def test_it_hands_the_fds_that_it_was_given_on_to_the_command(dash: str) -> None:
    # Status and wait fds must be close-on-exec: end-of-file on the one is how success is reported.
    reader, writer = fds.pipe()
    low = fcntl.fcntl(writer, fcntl.F_DUPFD_CLOEXEC, 3)
    try:
        plain = run(dash, "exec readlink /proc/self/fd/$0", str(low), pass_fds=(low,))
        assert plain.stdout == os.fsencode(os.readlink(f"/proc/self/fd/{low}")) + b"\n"
    finally:
        for fd in (reader, writer, low):
            os.close(fd)


def test_it_adds_a_variable_to_an_empty_environment(dash: str) -> None:
    assert run(dash, "exec cat /proc/self/environ", env={}, cwd="/").stdout == b"PWD=/\0"


def test_it_drops_variables_with_odd_names(dash: str) -> None:
    odd = {"with.dot": "1", "BASH_FUNC_f%%": "() { :; }", "1ST": "2", "GOOD": "3"}
    arrived = run(dash, "exec cat /proc/self/environ", env=odd).stdout.split(b"\0")
    assert b"GOOD=3" in arrived
    assert not [entry for entry in arrived if entry.startswith((b"with.dot", b"BASH_FUNC", b"1ST"))]


def test_it_reports_no_errno(dash: str) -> None:
    # A missing command, a missing interpreter and a path through a file are all "not found" or "not executable".
    assert run(dash, "exec /nonexistent").returncode == run(dash, "exec /dev/null/x").returncode == 127


def test_it_runs_a_script_without_shebang_that_execve_refuses(dash: str, tmp_path: os.PathLike[str]) -> None:
    script = os.path.join(tmp_path, "script")
    with open(script, "w", encoding="ascii", opener=lambda path, flags: os.open(path, flags, 0o755)) as f:
        f.write("echo ran")
    assert run(dash, 'exec "$0"', script).stdout == b"ran\n"
    with pytest.raises(OSError, match="Exec format error"):
        subprocess.run([script])


def test_it_cannot_set_argv0(dash: str) -> None:
    assert run(dash, "exec -a other sh -c 'echo $0'").returncode != 0
