"""Why descent is marked by a limit and not by an environment variable: programs overwrite their environment.

nginx, redis and PostgreSQL do so for the title that ps shows (tests/daemons has them for real); here is one that does
the same and nothing else.
"""

from __future__ import annotations

import subprocess
import sys

from allgone._linux import processes
from allgone._linux.processes import RLIMIT_LOCKS, Tag

TAG = Tag(1 << 62 | 99, 1 << 62 | 99)
START = f"""\
import os, resource, sys
resource.setrlimit({RLIMIT_LOCKS}, {tuple(TAG)})
os.execve(sys.executable, [sys.executable, "-c", sys.argv[1]], {{"A_MARK": "yes"}})
"""
OVERWRITE = """\
import ctypes, os
fields = open("/proc/self/stat").read().rsplit(")", 1)[1].split()
first, end = int(fields[47]), int(fields[48])  # env_start and env_end, proc_pid_stat(5)
print("ready", flush=True); input()
ctypes.memset(first, 0, end - first)
print("overwritten", flush=True); input()
"""


def test_a_program_that_overwrites_its_environment_loses_the_variable_and_keeps_the_tag() -> None:
    command = [sys.executable, "-c", START, OVERWRITE]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        assert environment_of(process.pid) == b"A_MARK=yes\0"
        assert processes.limits(process.pid) == TAG
        process.stdin.write(b"\n")
        assert process.stdout.readline() == b"overwritten\n"
        assert b"A_MARK" not in environment_of(process.pid)
        found = processes.limits(process.pid)
        assert found is not None
        assert TAG.marks(found)
        process.stdin.write(b"\n")
    assert process.returncode == 0


def test_a_program_started_with_an_empty_environment_keeps_the_tag() -> None:
    command = [sys.executable, "-c", START, "import os; os.execve('/bin/cat', ['cat'], {})"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"x\n")
        assert process.stdout.readline() == b"x\n"  # it is cat by now
        assert environment_of(process.pid) == b""
        assert processes.limits(process.pid) == TAG


def environment_of(pid: int) -> bytes:
    with open(f"/proc/{pid}/environ", "rb") as f:
        return f.read()
