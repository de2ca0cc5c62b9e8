"""/proc is read right, whatever a process calls itself."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from allgone._linux import processes
from allgone._linux.processes import Stat

RENAME = "import ctypes, sys; ctypes.CDLL(None).prctl(15, {name!r}, 0, 0, 0); print('ready', flush=True); input()"


@pytest.mark.parametrize("name", [b") Z 1 (x", b"a b", b"\xff\xfe", b"((", b"\n0 Z", b""])
def test_a_name_made_to_confuse_does_not(name: bytes) -> None:
    with subprocess.Popen(
        [sys.executable, "-I", "-c", RENAME.format(name=name)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        found = processes.stat(process.pid)
        assert found is not None
        assert (found.ppid, found.threads, found.alive) == (os.getpid(), 1, True)
        assert found.comm == name.decode("utf-8", "replace")
        process.communicate(b"\n")


@pytest.mark.parametrize(
    ("state", "threads", "alive"),
    [("S", 1, True), ("R", 9, True), ("T", 1, True), ("D", 1, True), ("Z", 1, False), ("X", 1, False), ("Z", 2, True)],
)
def test_a_zombie_is_dead_unless_other_threads_of_it_run(state: str, threads: int, alive: bool) -> None:
    assert Stat("x", state, 1, threads).alive is alive


def test_children_of_self_are_the_direct_ones_of_every_thread_zombies_included() -> None:
    process = subprocess.Popen(["true"])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert process.pid in processes.children_of_self()
    process.wait()
    assert process.pid not in processes.children_of_self()


def test_descriptions_are_in_words_for_the_first_and_in_numbers_for_the_rest() -> None:
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as process:
        words, number = processes.describe([process.pid, 1 << 30], most=1)
        assert (words.pid, words.name, words.command) == (process.pid, "cat", "cat")
        assert number == processes.Process(1 << 30)
        assert processes.describe([1 << 30]) == (number,)


def test_a_zombie_can_be_described() -> None:
    process = subprocess.Popen(["cat"], stdin=subprocess.PIPE)
    os.kill(process.pid, signal.SIGKILL)
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    try:
        assert processes.describe([process.pid])[0].name in ("cat", "?")
    finally:
        process.communicate()
