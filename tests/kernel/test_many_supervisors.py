"""Supervisors by the hundred, killed in any phase of their lives; and where the numbers of processes come again."""

from __future__ import annotations

import os
import random
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
from support import cgroups, every_point
from support.backends import BACKENDS, BackendUnderTest
from support.every_point import PATIENCE, Bystanders, Trial
from support.programs import poll
from support.tiers import missing

AT_A_TIME = 8
TESTS = Path(__file__).resolve().parent.parent


class Running:
    """A supervisor that is to be killed when its time has come, and then what becomes of what it had started."""

    def __init__(self, backend: BackendUnderTest, base: str, stack: ExitStack, most: float) -> None:
        self.trial = stack.enter_context(closing(Trial(backend, base if backend.name == "cgroup" else None)))
        self.pid = every_point.fork()
        if self.pid == 0:
            every_point.exits_with(self.trial.live)
        self.trial.close_writer()
        self._fd: int | None = os.pidfd_open(self.pid)
        stack.callback(self.end)
        self.deadline = time.monotonic() + random.uniform(0, most)
        self.killed = False

    @property
    def fd(self) -> int:
        """Readable at its end; then, when what it had started tells something or is gone."""
        return self.trial.lines._fd if self._fd is None else self._fd

    def go_on(self) -> bool:
        """Something has come: its time, or its end, or that of all; whether it is over."""
        if self._fd is not None:
            self.killed = not poll(self._fd, 0)
            self.end()
            self.deadline = time.monotonic() + PATIENCE
        elif not self.trial.lines.are_over():
            assert time.monotonic() < self.deadline, f"survivors of supervisor {self.pid}: {self.trial.lines.read}"
            return False
        return self.trial.lines.are_over()

    def end(self) -> None:
        fd, self._fd = self._fd, None
        if fd is not None:
            os.kill(self.pid, signal.SIGKILL)  # a child of ours, not reaped
            os.waitpid(self.pid, 0)
            os.close(fd)


@pytest.fixture
def bystanders(cgroup_base: str) -> Iterator[Bystanders]:
    with closing(Bystanders(cgroup_base)) as made:
        yield made


@pytest.mark.timeout(1800)
def test_nothing_is_left_of_supervisors_killed_eight_at_a_time(
    cgroup_base: str, bystanders: Bystanders, request: pytest.FixtureRequest
) -> None:
    """2,000 with --run-slow."""
    many = 2000 if request.config.getoption("--run-slow") else 100
    began = time.monotonic()
    for backend in BACKENDS:
        with closing(Trial(backend, cgroup_base)) as trial:
            every_point.warm_up(trial.live)
    life = (time.monotonic() - began) / len(BACKENDS)
    killed = 0
    running: dict[Running, ExitStack] = {}
    with ExitStack() as everything:
        for n in range(many):
            stack = everything.enter_context(ExitStack())
            running[Running(BACKENDS[n % len(BACKENDS)], cgroup_base, stack, life)] = stack
            while len(running) == AT_A_TIME or (n == many - 1 and running):
                killed += end_some(running)
    print(f"{killed} of {many} killed before their end, within {time.monotonic() - began:.1f} s")
    assert killed > many / 4, "most have ended before"
    assert not every_point.directories_left(cgroup_base)
    assert bystanders.are_all_there()


def end_some(running: dict[Running, ExitStack]) -> int:
    """Wait for what comes first; how many were killed by it."""
    poller = select.poll()
    for each in running:
        poller.register(each.fd, select.POLLIN)
    soonest = min(each.deadline for each in running)
    ready = {fd for fd, _ in poller.poll(max(0.0, soonest - time.monotonic()) * 1000)}
    killed = 0
    for each in [each for each in running if each.fd in ready or each.deadline <= time.monotonic()]:
        was_killed = each.killed
        if each.go_on():
            running.pop(each).close()
        killed += each.killed and not was_killed
    return killed


# Runs as PID 1 of a pid namespace, where numbers are given out from 301 on, again and again.
IN_A_NAMESPACE = """
import os, random, select, signal, sys, time
from contextlib import closing
from support import every_point
from support.backends import BACKENDS
from support.every_point import PATIENCE, Trial

rounds, base = int(sys.argv[1]), os.environ["ALLGONE_CGROUP"]
bystanders, reused = set(), 0

def number_from_301_on():
    with open("/proc/sys/kernel/ns_last_pid", "w") as f:
        f.write("300")

def reap():
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        assert pid not in bystanders, f"a bystander was ended: {pid}, {status}"

def fill():
    number_from_301_on()
    for _ in range(4):
        bystanders.add(os.posix_spawn("/bin/sleep", ["sleep", "1000"], {}, setsid=True))

def release(some):
    for pid in some:
        bystanders.discard(pid)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)

for n in range(rounds):
    backend = BACKENDS[n % 3]
    with closing(Trial(backend, base if backend.name == "cgroup" else None)) as trial:
        number_from_301_on()
        supervisor = os.fork()
        if supervisor == 0:
            every_point.exits_with(trial.live_on)
        trial.close_writer()
        if n % 2:
            trial.lines.wait_for("started")
        trial.lines.are_over(random.uniform(0, 0.1))
        numbers = {int(name) for name in os.listdir("/proc") if name.isdigit()} - bystanders - {1}
        os.kill(supervisor, signal.SIGKILL)
        os.waitpid(supervisor, 0)
        deadline = time.monotonic() + PATIENCE
        while True:  # whatever ends makes room for a bystander with its number at once
            reap()
            fill()
            if trial.lines.are_over(0.001) and not every_point.guards_of(supervisor):
                break
            assert time.monotonic() < deadline, f"left of {backend.label}"
            if len(bystanders) > 200:
                release(random.sample(sorted(bystanders), 100))
        reap()
        reused += len(numbers & bystanders)
        release(random.sample(sorted(bystanders), len(bystanders) // 2))
assert not every_point.directories_left(base)
release(list(bystanders))
print(reused)
"""


@pytest.mark.timeout(600)
def test_no_bystander_is_hit_where_numbers_come_again_at_once(cgroup_base: str, request: pytest.FixtureRequest) -> None:
    if not os.path.exists("/proc/sys/kernel/ns_last_pid"):
        missing("the kernel has no /proc/sys/kernel/ns_last_pid (CONFIG_CHECKPOINT_RESTORE)")
    rounds = 300 if request.config.getoption("--run-slow") else 15
    base = f"{cgroup_base}/numbers"
    os.mkdir(base)
    try:
        command = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", sys.executable, "-c", IN_A_NAMESPACE]
        done = subprocess.run(
            [*command, str(rounds)], capture_output=True, text=True, timeout=500,
            env={**os.environ, "ALLGONE_CGROUP": base, "PYTHONPATH": str(TESTS)},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        print(f"{done.stdout.strip()} numbers came again in {rounds} rounds")
        assert int(done.stdout) > rounds
        assert cgroups.tree(base) == [base]
    finally:
        cgroups.remove_all(base)
