"""Cgroups that children make inside ours: deep, locked, many, and more while they are being removed."""

from __future__ import annotations

import os
import sys
import time

import pytest
from support.cgroupv2 import Start, folder_of, wait_until

import allgone
from allgone import CgroupBackend, StopPolicy
from allgone._linux import cgroupfs

AT_ONCE = StopPolicy(timeout_stop=0)
POLITE = StopPolicy(timeout_stop=20)
POLICIES = pytest.mark.parametrize("policy", [AT_ONCE, POLITE], ids=["at once", "asked"])
# Makes DEPTH cgroups in each other, with a process in the last; the first argument is their names, the second DEPTH.
DEEP = """
import os, sys
from unruly import *
here('leader')
os.chdir(own_cgroup())
for _ in range(int(sys.argv[2])):
    os.mkdir(sys.argv[1])
    os.chdir(sys.argv[1])
if fork() == 0:
    open('cgroup.procs', 'w').write('0')
    here('deepest')
    ready()
sleep_on()
"""


@POLICIES
@pytest.mark.parametrize(
    ("name", "depth"), [("x", 50), ("x" * 250, 50), ("0", 300), (" (deleted)", 5), ("allgone-1", 3)]
)
def test_deeply_nested_cgroups_are_emptied_and_removed(start: Start, policy: StopPolicy, name: str, depth: int) -> None:
    started = start(DEEP, name, str(depth))
    folder = folder_of(started)
    assert started.process.members() == {started[role].pid for role in ("leader", "deepest")}
    started.stop(policy)
    assert started.all_gone()
    assert not os.path.exists(folder)


@POLICIES
def test_locked_directories_are_removed_too(start: Start, policy: StopPolicy) -> None:
    started = start("""
import os
from unruly import *
here('leader')
os.makedirs(own_cgroup() + '/a/b/c')
for each in ('/a/b/c', '/a/b', '/a', ''):
    os.chmod(own_cgroup() + each, 0)
ready()
sleep_on()
""")
    folder = folder_of(started)
    started.stop(policy)
    assert not os.path.exists(folder)


def test_while_more_are_being_made_it_is_stopped(start: Start) -> None:
    started = start("""
import itertools, os, signal
from unruly import *
deaf(signal.SIGTERM)
here('leader')
for n in itertools.count():
    folder = f'{own_cgroup()}/{os.getpid()}-{n}/x'
    os.makedirs(folder)
    if n == 10:
        ready()
    if fork() == 0:
        open(folder + '/cgroup.procs', 'w').write('0')
        os._exit(0)
    os.wait()
    if n > 300:
        sleep_on()
""")
    folder = folder_of(started)
    began = time.monotonic()
    started.stop(StopPolicy(timeout_stop=0.05))
    assert started.all_gone()
    assert not os.path.exists(folder)
    assert time.monotonic() - began < 10


def test_a_cgroup_that_an_outsider_keeps_busy_is_a_stop_timeout_that_says_where(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("allgone._core.stop.KILL_TIMEOUT", 0.3)
    started = start("from unruly import *\nhere('leader')\nready()\nsleep_on()")
    monkeypatch.setattr(cgroupfs, "remove", lambda _: False)
    with pytest.raises(allgone.StopTimeout, match=folder_of(started)):
        started.stop(AT_ONCE)
    monkeypatch.undo()
    started.stop(AT_ONCE)


def test_busy_directories_are_tried_again_until_they_are_free(cgroups: CgroupBackend, start: Start) -> None:
    # A member in a cgroup of its own that takes a moment to end: rmdir says EBUSY until it has.
    started = start(DEEP, "x", "3")
    folder = folder_of(started)
    started.process.send_signal(9)
    assert not cgroupfs.remove(folder)
    os.kill(started["deepest"].pid, 9)
    wait_until(folder, lambda: not cgroupfs.populated(folder))
    assert cgroupfs.remove_soon(folder)


def test_who_has_made_room_for_controllers_works_beside_the_room(cgroups: CgroupBackend) -> None:
    """As after the first limits of a supervisor inside, whose own cgroup may have no processes in it then."""
    code = """
import os
from allgone._backends import cgroup_base
before = cgroup_base.find()
os.mkdir(before.folder + "/allgone.supervisors")
with open(before.folder + "/allgone.supervisors/cgroup.procs", "w") as f:
    f.write("0")
with open("/proc/self/cgroup") as f:
    assert "/allgone.supervisors\\n" in f.read()
assert cgroup_base.find() == before
assert (before.how, before.may_empty) == ("nested", before.folder)
assert before.folder.startswith(before.top + "/allgone-"), before.top
"""
    environment = {name: value for name, value in os.environ.items() if name != "ALLGONE_CGROUP"}
    done = allgone.run([sys.executable, "-c", code], backend=cgroups, env=environment, check=True)
    assert not done.report.members


def test_what_is_below_is_listed_parents_first_whatever_vanishes(cgroups: CgroupBackend) -> None:
    containment = cgroups.create("tree", "x")
    os.makedirs(containment.where() + "/a/b")
    os.mkdir(containment.where() + "/c")
    with cgroupfs.below(containment.where()) as found:
        assert {os.path.relpath(each, containment.where()) for each in found} == {".", "a", "a/b", "c"}
        assert all(os.path.dirname(each) in found[:n] for n, each in enumerate(found) if n)
    assert containment.remove()
    with cgroupfs.below(containment.where()) as found:
        assert found == []
