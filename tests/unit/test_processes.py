"""/proc is read right, whatever a process calls itself."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from allgone import Process
from allgone._linux import processes
from allgone._linux.processes import Stat

Look = Callable[[list[int]], tuple[Process, ...]]
LOOKS: list[Look] = [processes.named, processes.described]

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


@contextmanager
def shell(*words: str) -> Iterator[subprocess.Popen[bytes]]:
    """A shell that has started, with these words in its command line; it ends with the block."""
    argv = ["sh", "-c", "echo ready; read end", *words]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        yield process
        process.communicate(b"\n")


@pytest.mark.parametrize("look", LOOKS)
def test_a_process_is_described_in_words_and_one_that_is_gone_by_its_pid(look: Look) -> None:
    with shell("a b") as process:
        found, gone = look([1 << 30, process.pid])
        assert (found.pid, found.name, found.command) == (process.pid, "sh", "sh -c echo ready; read end a b")
        assert gone == Process(1 << 30)


def test_of_a_crowd_the_first_are_named_and_the_rest_counted() -> None:
    with shell() as process:
        words, number = processes.named([process.pid, 1 << 30], most=1)
        assert words.name == "sh"
        assert number == Process(1 << 30)


@pytest.mark.parametrize("look", LOOKS)
def test_a_zombie_can_be_described(look: Look) -> None:
    with shell() as process:
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert look([process.pid])[0].name == "sh"


@pytest.mark.parametrize("look", LOOKS)
def test_a_command_line_of_100_kb_is_cut_short(look: Look) -> None:
    with shell("x" * 100_000) as process:
        assert len(look([process.pid])[0].command) == 200


def test_who_was_started_while_others_were_looked_at_is_seen_too_the_newest_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    started: list[subprocess.Popen[bytes]] = []
    list_ = os.listdir

    def listdir_then_start(path: str) -> list[str]:
        names = list_(path)
        started.extend(subprocess.Popen(["cat"], stdin=subprocess.PIPE) for _ in range(3))
        return names

    monkeypatch.setattr(os, "listdir", listdir_then_start)
    pids = list(processes.all_pids())
    monkeypatch.undo()
    for each in started:
        each.communicate()
    assert [pid for pid in pids if pid in {each.pid for each in started}] == [each.pid for each in reversed(started)]


def test_threads_are_no_processes() -> None:
    begun, end = threading.Event(), threading.Event()
    thread = threading.Thread(target=lambda: (begun.set(), end.wait()))
    thread.start()
    begun.wait()
    assert thread.native_id is not None
    assert not processes._is_process(thread.native_id)
    assert processes._is_process(os.getpid())
    end.set()
    thread.join()


def test_a_line_of_descent_ends_with_this_process() -> None:
    parent = os.getppid()
    found = processes.stat(parent)
    assert found is not None
    assert processes.line_from(os.getpid()) == [os.getpid()]
    assert processes.line_from(parent) == [parent, os.getpid()]
    assert processes.line_from(found.ppid)[-2:] == [parent, os.getpid()]


def test_who_is_no_ancestor_has_no_line_of_descent() -> None:
    with subprocess.Popen(["sleep", "100"]) as child:
        assert processes.line_from(child.pid) == []
        child.kill()
    assert processes.line_from(0) == []
    assert processes.line_from(1 << 22) == []
