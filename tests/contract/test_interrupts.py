"""Ctrl-C, by a real SIGINT to a supervisor of its own: whenever it comes, nothing is left."""

from __future__ import annotations

import dis
import functools
import itertools
import os
import select
import signal
import subprocess
import sys
import time
import types
import warnings

import pytest
from support import procfs
from support.actors import Actor, deaf
from support.backends import BackendUnderTest
from support.programs import command
from support.supervisors import Supervisor, say

import allgone

PRESSES = 8
HEEDS = command("actors", Actor("leader").to_json())
IGNORES = command("actors", deaf("leader").to_json())


def in_the_body(options: dict, args: list[str]) -> None:
    try:
        with allgone.Popen(args, policy=allgone.StopPolicy(timeout_stop=20), **options):
            say("in the block")
            signal.pause()
    finally:
        say("left the block")


def at_the_end_of_the_body(options: dict, args: list[str]) -> None:
    with allgone.Popen(args, policy=allgone.StopPolicy(timeout_stop=20), **options):
        say("in the block")  # at its end it waits for the leader


def in_run(options: dict, args: list[str]) -> None:
    exchange = allgone.Popen.exchange  # what it does in its block

    def announced(*arguments: object) -> object:
        say("in the block")
        return exchange(*arguments)

    allgone.Popen.exchange = announced
    allgone.run(args, capture_output=False, policy=allgone.StopPolicy(timeout_stop=20), **options)


def in_a_group(options: dict, args: list[str]) -> None:
    with allgone.Group(policy=allgone.StopPolicy(timeout_stop=20), **options) as group:
        group.Popen(args)
        say("in the block")
        signal.pause()


EVERYWHERE = pytest.mark.parametrize(
    "where", [in_the_body, at_the_end_of_the_body, in_run, in_a_group], ids=lambda each: each.__name__
)


def wait_until_up(supervisor: Supervisor) -> None:
    """The leader, and the supervisor too: a Ctrl-C while it is starting the leader kills without asking."""
    supervisor.lines.wait_for("ready")
    supervisor.lines.wait_for("in", "the", "block")


@EVERYWHERE
def test_ctrl_c_stops_everything_politely(backend: BackendUnderTest, where: object) -> None:
    with Supervisor(where, backend, HEEDS) as supervisor:
        wait_until_up(supervisor)
        supervisor.interrupt()
        supervisor.lines.wait_for("leader", "SIGTERM")
        assert supervisor.ends() == -signal.SIGINT
        assert supervisor.lines.are_over()
        assert supervisor.errors().endswith("KeyboardInterrupt\n")


@EVERYWHERE
def test_a_second_ctrl_c_while_it_waits_kills_at_once(backend: BackendUnderTest, where: object) -> None:
    with Supervisor(where, backend, IGNORES) as supervisor:
        wait_until_up(supervisor)
        supervisor.interrupt()
        supervisor.lines.wait_for("leader", "SIGTERM")
        began = time.monotonic()
        supervisor.interrupt()
        assert supervisor.ends() == -signal.SIGINT
        assert supervisor.lines.are_over()
        assert time.monotonic() - began < 15  # and not after timeout_stop


@EVERYWHERE
def test_a_burst_of_ctrl_c_leaves_nothing(backend: BackendUnderTest, where: object) -> None:
    with Supervisor(where, backend, IGNORES) as supervisor:
        wait_until_up(supervisor)
        for _ in range(PRESSES):
            supervisor.interrupt()
            procfs.ends_within(supervisor.process.pid, 0.003)  # about as fast as a key repeats at its fastest
        assert supervisor.ends() != 0
        assert supervisor.lines.are_over()


def just_as_its_end_begins(options: dict, args: list[str]) -> None:
    def interrupt(frame: object, event: str, argument: object) -> None:
        if frame.f_code.co_name == "stop_everything":  # by this it is traced no more
            raise KeyboardInterrupt

    allgone.Popen(args, guard=False, **options)
    sys.settrace(interrupt)


def test_a_ctrl_c_just_as_its_end_begins_leaves_nothing(backend: BackendUnderTest) -> None:
    with Supervisor(just_as_its_end_begins, backend, IGNORES) as supervisor:
        assert supervisor.ends() == 0
        assert supervisor.lines.are_over()
        assert "KeyboardInterrupt" in supervisor.errors()


def in_a_wait_with_a_timeout(options: dict, args: list[str]) -> None:
    with allgone.Popen(args, policy=allgone.StopPolicy(timeout_stop=20), **options) as process:
        say("in the block")
        process.wait(1000)


# The main thread, which acts on it, is not woken then. The same happens to one that is about to wait.
LEFT_TO_ANOTHER_THREAD = """
then = say
def say(*words):
    if words == ("in the block",):
        threading.Thread(target=threading.Event().wait, daemon=True).start()
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    then(*words)
"""


@pytest.mark.parametrize(
    "where", [at_the_end_of_the_body, in_run, in_a_wait_with_a_timeout], ids=lambda each: each.__name__
)
def test_ctrl_c_that_the_kernel_gives_to_another_thread_ends_the_wait(backend: BackendUnderTest, where: object) -> None:
    with Supervisor(where, backend, HEEDS, before=LEFT_TO_ANOTHER_THREAD) as supervisor:
        wait_until_up(supervisor)
        supervisor.interrupt()
        supervisor.lines.wait_for("leader", "SIGTERM")
        # CPython ends itself with kill(2), which the other thread gets, and with exit(130) right behind it.
        assert supervisor.ends() in (-signal.SIGINT, 128 + signal.SIGINT)
        assert supervisor.lines.are_over()


def catches_both(options: dict, args: list[str]) -> None:
    try:
        with allgone.Popen(args, policy=allgone.StopPolicy(timeout_stop=20), **options) as process:
            say("in the block")
            signal.pause()
    except KeyboardInterrupt:
        say("stopped", process.poll(), len(process.members()))


def test_who_catches_the_second_ctrl_c_finds_everything_gone(backend: BackendUnderTest) -> None:
    with Supervisor(catches_both, backend, IGNORES) as supervisor:
        wait_until_up(supervisor)
        supervisor.interrupt()
        supervisor.lines.wait_for("leader", "SIGTERM")
        supervisor.interrupt()
        assert supervisor.lines.wait_for("stopped") == "stopped -9 0"
        supervisor.succeeds()


def leaves_two_to_the_exit(options: dict, args: list[str], pressed: str) -> None:
    global left  # until the interpreter has ended
    left = [allgone.Popen(args, **options) for _ in range(2)]
    warnings.simplefilter("ignore", ResourceWarning)
    containment = type(left[0]._containment)
    owner, name = {"in the kill": (containment, "kill"), "just before": (signal, "signal")}[pressed]
    then = getattr(owner, name)

    def interrupted(*arguments: object) -> object:
        setattr(owner, name, then)
        say("interrupted")
        os.kill(os.getpid(), signal.SIGINT)
        return then(*arguments)

    setattr(owner, name, interrupted)


@pytest.mark.parametrize("pressed", ["in the kill", "just before"])
def test_ctrl_c_at_the_exit_does_not_keep_the_rest_alive(backend: BackendUnderTest, pressed: str) -> None:
    with Supervisor(leaves_two_to_the_exit, backend, IGNORES, pressed) as supervisor:
        supervisor.succeeds()
        assert supervisor.lines.are_over()
        supervisor.lines.wait_for("interrupted")
        assert supervisor.errors() == ""


def catches_what_came_in_the_kill(options: dict, args: list[str]) -> None:
    try:
        with allgone.Popen(args, policy=allgone.StopPolicy(timeout_stop=20), **options) as process:
            containment = type(process._containment)
            then = containment.kill

            def interrupted(self: object) -> None:
                containment.kill = then
                say("interrupted")
                os.kill(os.getpid(), signal.SIGINT)
                then(self)

            containment.kill = interrupted
            say("in the block")
            signal.pause()
    except KeyboardInterrupt:
        say("stopped", process.poll(), len(process.members()))


def test_a_third_ctrl_c_in_the_kill_does_not_leave_it_half_done(backend: BackendUnderTest) -> None:
    with Supervisor(catches_what_came_in_the_kill, backend, IGNORES) as supervisor:
        wait_until_up(supervisor)
        supervisor.interrupt()
        supervisor.lines.wait_for("leader", "SIGTERM")
        supervisor.interrupt()
        supervisor.lines.wait_for("interrupted")
        assert supervisor.lines.wait_for("stopped") == "stopped -9 0"
        supervisor.succeeds()


def at_every_step_of_a_start(options: dict, args: list[str]) -> None:
    """Ctrl-C wherever CPython acts on one, once there is a child: when a call returns, and when a function begins.

    Not before the command has children of its own: a busy machine may well let the supervisor wait for so long.
    """
    calls = ("CALL", "CALL_KW", "CALL_METHOD", "CALL_FUNCTION", "CALL_FUNCTION_KW", "CALL_FUNCTION_EX")
    watched = (os.path.dirname(allgone.__file__), subprocess.__file__)
    owner, name = (subprocess, "_fork_exec")
    if sys.version_info < (3, 11):
        owner, name = (subprocess._posixsubprocess, "fork_exec")
    fork_exec = getattr(owner, name)
    # An ordinary user's command in a scope does not go on before we have had systemd move it.
    is_held_back = os.environ.get("ALLGONE_TEST_SCOPE") and os.geteuid() != 0

    @functools.cache
    def returns(code: types.CodeType) -> set[int]:
        steps = list(dis.get_instructions(code))
        return {after.offset for step, after in itertools.pairwise(steps) if step.opname in calls}

    class Start:
        """One that is interrupted at its Nth step."""

        def __init__(self, nth: int) -> None:
            self.left = nth
            self.has_forked = False
            self.reader, self.writer = os.pipe()

        def fork_exec(self, *arguments: object) -> int:
            pid = fork_exec(*arguments)
            self.has_forked = True
            return pid

        def traced(self, frame: types.FrameType, event: str, argument: object) -> object:
            if not frame.f_code.co_filename.startswith(watched):
                return None
            frame.f_trace_opcodes = True
            is_step = event == "call" or (event == "opcode" and frame.f_lasti in returns(frame.f_code))
            self.left -= is_step and self.has_forked
            if self.left < 0:
                sys.settrace(None)
                self.where = f"{frame.f_code.co_filename}:{frame.f_lineno}"
                is_up = select.select([self.reader], [], [], 0.1 if is_held_back else 10)[0]
                assert is_up or is_held_back, self.where
                raise KeyboardInterrupt
            return self.traced

        def go_through(self) -> None:
            setattr(owner, name, self.fork_exec)
            sys.settrace(self.traced)
            try:
                process = allgone.Popen(args, stdout=self.writer, **options)
            except KeyboardInterrupt:
                pass
            else:
                sys.settrace(None)
                process.stop()  # there were fewer steps, or it came in a __del__(), which it does not leave
            finally:
                sys.settrace(None)
                os.close(self.writer)

        def leaves_nothing(self) -> bool:
            while select.select([self.reader], [], [], 10)[0]:
                if not os.read(self.reader, 100):
                    return True
            return False

    allgone.run(["true"], **options)  # the guard is there, and where cgroups can be made is known
    for nth in itertools.count():
        start = Start(nth)
        start.go_through()
        if start.left >= 0:
            break
        assert start.leaves_nothing(), start.where
        os.close(start.reader)
    say("steps", nth)


def test_a_ctrl_c_at_any_step_of_a_start_leaves_nothing(backend: BackendUnderTest) -> None:
    args = ["sh", "-c", "sleep 100 & sleep 100 & echo up; wait"]
    with Supervisor(
        at_every_step_of_a_start, backend, args, before="import dis, functools, itertools, select, types"
    ) as it:
        it.succeeds()
        assert int(it.lines.wait_for("steps").split()[1]) > 30
