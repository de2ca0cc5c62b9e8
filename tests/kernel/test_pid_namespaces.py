"""A supervisor in a pid namespace, and a member that it can't see: cgroup.procs lists it as 0."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
from support import procfs
from support.cgroupv2 import write

import allgone
from allgone._linux import cgroupfs

SUPERVISOR = """
import allgone, sys
from allgone._core import stop
from allgone._linux import cgroupfs
{before}
process = allgone.Popen(["sleep", "1000"], backend="cgroup")
folder = process._containment.where()
print(folder, flush=True)
sys.stdin.readline()
listed = sorted(map(int, open(folder + "/cgroup.procs")))
print(listed == [0, process.pid], process.members() == {{process.pid}}, flush=True)
{after}
"""


class Namespaced:
    """A supervisor in a pid namespace of its own; `stranger` is a process outside, moved into its containment."""

    def __init__(self, after: str, before: str = "") -> None:
        code = SUPERVISOR.format(before=before, after=after)
        command = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", sys.executable, "-c", code]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        self.folder = self.process.stdout.readline().rstrip()
        self.stranger = subprocess.Popen(["sleep", "1000"])
        write(self.folder, "cgroup.procs", str(self.stranger.pid))

    def lines(self) -> list[str]:
        """What it prints from here on; that it ended well is asserted."""
        output, errors = self.process.communicate("\n", timeout=60)
        assert self.process.returncode == 0, (self.process.returncode, output, errors)
        return output.splitlines()

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()
        self.stranger.kill()
        self.stranger.wait()


@pytest.fixture
def namespaced() -> Iterator[type[Namespaced]]:
    made = []

    class Closed(Namespaced):
        def __init__(self, *words: str, **options: str) -> None:
            made.append(self)
            super().__init__(*words, **options)

    yield Closed
    for each in made:
        each.close()


def test_the_member_is_listed_as_0_and_left_out_and_nobody_signals_the_supervisors_own_group(
    namespaced: type[Namespaced],
) -> None:
    # kill(0, …) is one's own process group, unshare and the supervisor: SIGKILL to it would end both.
    lines = namespaced(
        "for n in (15, 9): process._containment.signal(n)\nprint('alive')\nprocess.stop(allgone.StopPolicy(timeout_stop=0))"
    ).lines()
    assert lines == ["True True", "alive"]


def test_the_member_is_stopped_with_the_others_by_cgroup_kill(namespaced: type[Namespaced]) -> None:
    one = namespaced("print(process.stop(allgone.StopPolicy(timeout_stop=0.1)).returncode)")
    assert one.lines() == ["True True", "-15"]
    assert one.stranger.wait(10) == -9
    assert not os.path.exists(one.folder)


def test_without_cgroup_kill_it_is_a_stop_timeout_that_says_so(namespaced: type[Namespaced]) -> None:
    before = """
def no_kill(folder):
    raise FileNotFoundError(2, "No such file or directory", folder)
cgroupfs.kill = no_kill
stop.KILL_TIMEOUT = 0.3
"""
    after = """
try:
    process.stop(allgone.StopPolicy(timeout_stop=0.1))
except allgone.StopTimeout as e:
    print(sorted(e.survivors), "in another pid namespace" in str(e), process.poll(), cgroupfs.populated(folder))
import os
allgone._process.driver._live.clear()
"""
    one = namespaced(after, before)
    assert one.lines() == ["True True", "[] True -15 True"]
    assert procfs.is_alive(one.stranger.pid)
    one.stranger.kill()
    one.stranger.wait()
    assert cgroupfs.remove_soon(os.path.dirname(one.folder))


def test_a_member_with_a_pid_namespace_of_its_own_is_a_member_and_stopped() -> None:
    command = ["unshare", "--pid", "--fork", "sh", "-c", "sleep 1000 & sleep 1000 & echo $$; wait"]
    with allgone.Popen(command, stdout=subprocess.PIPE, backend="cgroup") as process:
        assert process.stdout.readline() == b"1\n"
        assert len(process.members()) == 4  # unshare, sh and two sleeps, by their numbers here
        assert 0 not in process.members()
        process.stop(allgone.StopPolicy(timeout_stop=0.05))
    assert process.members() == frozenset()
