"""Frozen members: what a signal does to them, and that a stop is never held up by them."""

from __future__ import annotations

import os
import signal
import time

import pytest
from support.cgroupv2 import Start, folder_of, freeze, read, says, wait_until, write

from allgone import StopPolicy

AT_ONCE = StopPolicy(timeout_stop=0)
POLITE = StopPolicy(timeout_stop=20)
ASKED_FIRST = StopPolicy(timeout_stop=0.05)
HEEDS = """
import os, signal
from unruly import *
signal.signal(signal.SIGTERM, lambda *_: os._exit(7))
here('leader')
"""
PLAIN = HEEDS + "ready()\nsleep_on()"
# The worker is in a cgroup of its own, inside ours.
NESTED = (
    HEEDS
    + """
def work():
    open(own_cgroup() + '/nested/deeper/cgroup.procs', 'w').write('0')
    here('worker')
    ready()
    sleep_on()
os.makedirs(own_cgroup() + '/nested/deeper')
fork() or work()
sleep_on()
"""
)


def test_a_handled_sigterm_waits_until_the_thaw(start: Start) -> None:
    started = start(PLAIN)
    folder = folder_of(started)
    freeze(folder)
    os.kill(started.process.pid, signal.SIGTERM)
    assert not started["leader"].ends_within(0.05)
    write(folder, "cgroup.freeze", "0")
    assert started["leader"].ends_within(10)


def test_a_frozen_member_is_thawed_and_heeds_sigterm(start: Start) -> None:
    started = start(PLAIN)
    freeze(folder_of(started))
    assert started.stop(POLITE).returncode == 7


def test_members_frozen_in_cgroups_of_their_own_are_thawed_and_heed_sigterm(start: Start) -> None:
    started = start(NESTED)
    folder = folder_of(started)
    for each in ("/nested/deeper", "/nested", ""):
        freeze(folder + each)
    report = started.stop(POLITE)
    assert report.returncode == 7
    assert report.killed == ()
    assert started.all_gone()


@pytest.mark.parametrize("policy", [AT_ONCE, ASKED_FIRST], ids=["at once", "asked first"])
def test_frozen_and_nested_and_locked_is_killed_and_removed(start: Start, policy: StopPolicy) -> None:
    started = start(NESTED)
    folder = folder_of(started)
    freeze(folder + "/nested")
    os.chmod(folder + "/nested/deeper", 0)
    os.chmod(folder + "/nested", 0)
    started.stop(policy)
    assert started.all_gone()
    assert not os.path.exists(folder)


def test_a_frozen_child_cgroup_without_members_does_not_matter(start: Start) -> None:
    started = start(PLAIN)
    os.mkdir(folder_of(started) + "/empty")
    write(folder_of(started) + "/empty", "cgroup.freeze", "1")
    assert started.stop(POLITE).returncode == 7


def test_a_cgroup_kill_reaches_frozen_members_without_a_thaw(start: Start) -> None:
    started = start(NESTED)
    folder = folder_of(started)
    freeze(folder)
    write(folder, "cgroup.kill", "1")
    assert started.lines.are_over(within=10)
    assert read(folder, "cgroup.freeze") == "1\n"


def test_a_member_that_freezes_itself_again_and_again_is_stopped(start: Start) -> None:
    started = start("""
import signal
from unruly import *
deaf(signal.SIGTERM)
here('leader')
ready()
fork()
while True:
    open(own_cgroup() + '/cgroup.freeze', 'w').write('1')
""")
    folder = folder_of(started)
    wait_until(folder, lambda: says(folder, "frozen"))
    began = time.monotonic()
    started.stop(ASKED_FIRST)
    assert started.all_gone()
    assert time.monotonic() - began < 10


def test_killing_a_frozen_popen_does_not_take_a_stop(start: Start) -> None:
    started = start(PLAIN)
    freeze(folder_of(started))
    started.process.kill()
    assert started.process.wait(10) == -signal.SIGKILL


def test_a_frozen_process_is_frozen_and_populated(start: Start) -> None:
    folder = folder_of(start(PLAIN))
    freeze(folder)
    assert says(folder, "populated")
