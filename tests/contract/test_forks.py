"""Supervisors that fork: os.fork(), multiprocessing. A fork neither stops nor holds what its parent has started."""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import signal
import sys

import pytest
from support import cgroups
from support.backends import BackendUnderTest
from support.programs import command
from support.supervisors import Supervisor, say

import allgone

SLEEPS = ["sh", "-c", "sleep 1000 & echo ready; wait"]


def forks_and_the_child_leaves(options: dict, args: list[str], how: str) -> None:
    with allgone.Popen(args, **options) as process, allgone.Group(**options) as group:
        group.Popen(["sleep", "1000"])
        pid = os.fork()
        if pid == 0:
            if how == "exit":
                sys.exit(0)  # through both blocks, then atexit
            if how == "raise":
                raise ZeroDivisionError
        else:
            os.waitpid(pid, 0)
            say("after the fork", len(process.members()), len(group.members()), process.poll())
            process.stop()
    if pid == 0:
        del process, group
        say("child is out")
        sys.exit(0)


@pytest.mark.parametrize("how", ["exit", "raise", "leave"])
def test_a_fork_that_leaves_the_block_stops_nothing(backend: BackendUnderTest, how: str) -> None:
    with Supervisor(forks_and_the_child_leaves, backend, SLEEPS, how) as supervisor:
        supervisor.succeeds()
        assert supervisor.lines.are_over()
        assert supervisor.lines.wait_for("after") == "after the fork 2 1 None"
        if how == "leave":
            supervisor.lines.wait_for("child")


def forks_and_the_child_calls(options: dict, args: list[str]) -> None:
    process = allgone.Popen(args, **options)
    group = allgone.Group(**options)
    group.Popen(["sleep", "1000"])
    pid = os.fork()
    if pid == 0:
        for call in (
            process.stop, process.terminate, process.kill, lambda: process.signal_all(15),
            group.stop, lambda: group.signal_all(15), lambda: group.Popen(["true"]),
        ):  # fmt: skip
            try:
                call()
            except allgone.WrongProcess as e:
                say("refused", e)
        os._exit(0)
    os.waitpid(pid, 0)
    say("after the fork", len(process.members()), len(group.members()))
    process.stop()
    group.stop()


def test_a_fork_that_would_stop_or_signal_what_is_its_parents_is_refused(backend: BackendUnderTest) -> None:
    with Supervisor(forks_and_the_child_calls, backend, SLEEPS) as supervisor:
        supervisor.succeeds()
        assert supervisor.lines.are_over()
        assert len([line for line in supervisor.lines.read if line.startswith("refused")]) == 7
        assert supervisor.lines.wait_for("after") == "after the fork 2 1"


def forks_and_the_child_starts_its_own(options: dict, args: list[str]) -> None:
    with allgone.Popen(args, **options) as process:
        pid = os.fork()
        if pid == 0:
            done = allgone.run(["sh", "-c", "sleep 1000 & echo hi"], capture_output=True, **options)
            with allgone.Popen(args, **options) as own:
                say("child", done.stdout, len(own.members()) > 0, own.members().isdisjoint(process.members()))
                own.stop()
            sys.exit(0)
        _, status = os.waitpid(pid, 0)
        say("after the fork", len(process.members()), status)
        process.stop()


def test_a_fork_may_start_and_stop_its_own(backend: BackendUnderTest) -> None:
    with Supervisor(forks_and_the_child_starts_its_own, backend, SLEEPS) as supervisor:
        supervisor.succeeds()
        assert supervisor.lines.are_over()
        assert supervisor.lines.wait_for("child") == r"child b'hi\n' True True"
        assert supervisor.lines.wait_for("after") == "after the fork 2 0"


def forks_and_the_parent_goes_first(options: dict, args: list[str]) -> None:
    process = allgone.Popen(args, **options)
    where = process._containment.where()
    if os.fork() == 0:
        signal.alarm(120)
        say("fork", os.getpid())
        signal.pause()
    say("where", where)
    signal.pause()


def test_a_fork_does_not_hold_the_lock_of_a_parent_that_was_killed(cgroup_base: str) -> None:
    backend = BackendUnderTest("cgroup", sweep=False)
    with Supervisor(forks_and_the_parent_goes_first, backend, command("ignores_sigterm")) as supervisor:
        supervisor.lines.wait_for("ready")
        fork = int(supervisor.lines.wait_for("fork").split()[1])
        where = supervisor.lines.wait_for("where").split()[1]
        home = os.path.dirname(where)
        fd = os.open(home, os.O_RDONLY)
        try:
            with pytest.raises(BlockingIOError):
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            supervisor.process.kill()
            supervisor.ends()
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        finally:
            os.close(fd)
            os.kill(fork, signal.SIGKILL)
            cgroups.remove_all(where if home.endswith(".scope") else home)  # a scope's is systemd's to remove
        assert supervisor.lines.are_over(10)


def in_children(options: dict, method: str) -> None:
    import concurrent.futures

    run = {"capture_output": True, **options}
    context = multiprocessing.get_context(method)
    with allgone.Popen(["sleep", "1000"], **options) as outer:
        child = context.Process(target=allgone.run, args=(["sh", "-c", "sleep 1000 & exit 3"],), kwargs=run)
        child.start()
        child.join()
        with concurrent.futures.ProcessPoolExecutor(2, mp_context=context) as pool:
            for done in [pool.submit(allgone.run, ["sh", "-c", "sleep 1000 & echo hi"], **run) for _ in range(4)]:
                say("pool", done.result().stdout, done.result().report.returncode)
            try:
                pool.submit(allgone.run, ["no-such-command"], **run).result()
            except FileNotFoundError as e:
                say("error", e.filename)
        say("child", child.exitcode, len(outer.members()))
        outer.stop()


@pytest.mark.usefixtures("searchable_path")
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_in_a_multiprocessing_child(backend: BackendUnderTest, method: str) -> None:
    with Supervisor(in_children, backend, method) as supervisor:
        supervisor.succeeds()
        assert supervisor.lines.are_over(10)
        assert supervisor.lines.read == [r"pool b'hi\n' 0"] * 4 + ["error no-such-command", "child 0 1"]
