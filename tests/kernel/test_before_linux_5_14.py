"""Stopping without cgroup.kill, as on kernels before 5.14: freeze, kill one by one, thaw.

Here the kernel has cgroup.kill; what allgone sees of it is mocked away. A kernel 5.10 is what the real proof takes.
"""

from __future__ import annotations

import errno
import os
import signal

import pytest
from support.cgroupv2 import Start, folder_of, freeze, read
from support.programs import Started, command

import allgone
from allgone import CgroupBackend, StopPolicy
from allgone._backends.cgroup_containment import CgroupContainment
from allgone._linux import cgroupfs

AT_ONCE = StopPolicy(timeout_stop=0)


@pytest.fixture(autouse=True)
def _no_cgroup_kill(monkeypatch: pytest.MonkeyPatch) -> None:
    def kill(folder: str) -> None:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), folder + "/cgroup.kill")

    monkeypatch.setattr(cgroupfs, "kill", kill)
    monkeypatch.setattr(cgroupfs, "has_kill", lambda _: False)


@pytest.mark.parametrize(
    "program",
    ["hopper", "fork_bomb", "double_fork_daemon", "ignores_sigterm", "zombie_leader", "stops_itself", "respawns"],
)
@pytest.mark.parametrize("policy", [AT_ONCE, StopPolicy(timeout_stop=0.05)], ids=["at once", "asked first"])
def test_an_unruly_program_is_stopped(cgroups: CgroupBackend, program: str, policy: StopPolicy) -> None:
    with Started(allgone.Popen, command(program), backend=cgroups) as started:
        started.stop(policy)
        assert started.all_gone()


NESTED = """
import os, signal
from unruly import *
deaf(signal.SIGTERM)
def work(folder):
    open(folder + '/cgroup.procs', 'w').write('0')
    here(os.path.basename(folder))
    sleep_on()
folder = own_cgroup()
here('leader')
for name in ('a', 'b', 'c'):
    folder += '/' + name
    os.mkdir(folder)
    fork() or work(folder)
while sum(1 for _ in open(folder + '/cgroup.procs')) == 0:
    pass
ready()
sleep_on()
"""


@pytest.mark.parametrize("frozen", ["", "/a", "/a/b/c"])
def test_frozen_and_nested_members_are_killed(start: Start, frozen: str) -> None:
    started = start(NESTED)
    folder = folder_of(started)
    freeze(folder + frozen)
    started.stop(AT_ONCE)
    assert started.all_gone()
    assert not os.path.exists(folder)


def test_the_cgroup_is_thawed_also_when_killing_fails(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    started = start(NESTED)
    folder = folder_of(started)

    def fails(_: CgroupContainment) -> None:
        assert read(folder, "cgroup.freeze") == "1\n"
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with monkeypatch.context() as patch:
        patch.setattr(CgroupContainment, "kill_each", fails)
        with pytest.raises(OSError, match="Too many open files"):
            started.process.kill()
    assert read(folder, "cgroup.freeze") == "0\n"


def test_kill_leaves_nothing_frozen_and_nobody_alive(start: Start) -> None:
    started = start(NESTED)
    folder = folder_of(started)
    started.process.kill()
    assert started.lines.are_over(within=10)
    assert read(folder, "cgroup.freeze") == "0\n"
    assert started.process.wait() == -signal.SIGKILL


def test_a_kill_of_a_vanished_cgroup_is_no_error(cgroups: CgroupBackend) -> None:
    containment = cgroups.create("gone", "x")
    os.rmdir(containment.where())
    containment.kill()
    assert containment.remove()


def test_the_kill_is_not_said_to_be_atomic(cgroups: CgroupBackend) -> None:
    containment = cgroups.create("x", "x")
    assert containment.guarantees == allgone.Guarantees(escape_proof=True, atomic_kill=False)
    containment.remove()
