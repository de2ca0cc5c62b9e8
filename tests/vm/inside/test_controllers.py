"""memory.max, pids.max and cpu.max of single containments in our delegated scope, and the kernel's OOM killer."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest
from support.machine import SERVICE, supervised
from support.programs import PROGRAMS

# A child that waits for a word on its stdin; by then its cgroup has these limits.
LIMITED = """
def limited(argv, limits):
    child = allgone.Popen(["sh", "-c", 'read word; exec "$@"', "-", *argv], stdin=subprocess.PIPE, backend="cgroup")
    folder = child._containment.where()
    put(os.path.dirname(folder) + "/cgroup.subtree_control", "+memory +pids +cpu")
    for name, value in limits.items():
        put(f"{folder}/{name}", value)
    return child, folder

def go(child):
    child.stdin.write(b"go\\n")
    child.stdin.close()

EATS = [sys.executable, "-c", "import time; hoard = [bytearray(1_000_000) for _ in range(400)]; time.sleep(1000)"]
LITTLE = {"memory.max": "40M", "memory.swap.max": "0"}
"""
TREE = """
process = allgone.Popen(["sh", "-c", "setsid sleep 1000 & sleep 1000 & sleep 1000"], backend="cgroup")
until(lambda: len(process.members()) == 4)
"""


@pytest.mark.smoke
def test_a_fork_bomb_below_pids_max_is_contained_and_ended() -> None:
    code = """
bomb, folder = limited([sys.executable, sys.argv[1]], {"pids.max": "60"})
go(bomb)
until(lambda: counts(folder + "/pids.events")["max"] > 0)
assert len(bomb.members()) <= 60
pidfds = held(bomb)
bomb.stop(allgone.StopPolicy(timeout_stop=0.1))
all_end(pidfds, 0)
"""
    supervised(LIMITED + code, PROGRAMS / "fork_bomb.py")


@pytest.mark.smoke
def test_a_child_that_the_oom_killer_takes_takes_nothing_else_along() -> None:
    code = """
child, folder = limited(["sh", "-c", 'sleep 1000 & "$@"; sleep 1000', "-", *EATS], LITTLE)
other = allgone.Popen(["sleep", "1000"], backend="cgroup")
go(child)
until(lambda: counts(folder + "/memory.events")["oom_kill"] == 1)
until(lambda: len(child.members()) == 3)
assert other.poll() is None
assert child.stop().ended_from_outside == ""
other.stop()
"""
    supervised(LIMITED + code)


def test_with_memory_oom_group_all_of_it_is_taken() -> None:
    code = """
limits = {**LITTLE, "memory.oom.group": "1"}
child, folder = limited(["sh", "-c", 'sleep 1000 & "$@"; sleep 1000', "-", *EATS], limits)
pidfds = held(child)
go(child)
assert child.wait(60) == -signal.SIGKILL
all_end(pidfds)
child.stop()
assert not os.path.exists(folder)
"""
    supervised(LIMITED + code)


def test_a_throttled_child_is_stopped_as_any() -> None:
    code = """
child, folder = limited([sys.executable, "-c", "while True: pass"], {"cpu.max": "2000 100000"})
go(child)
until(lambda: counts(folder + "/cpu.stat")["nr_throttled"] > 3)
pidfds = held(child)
child.stop()
all_end(pidfds, 0)
"""
    supervised(LIMITED + code)


@pytest.mark.root
def test_a_supervisor_that_the_oom_killer_takes_leaves_nothing() -> None:
    code = """
print(*process.members(), flush=True)
hoard = [bytearray(1_000_000) for _ in range(400)]
"""
    unit = ("--unit=hungry.service", "--property=MemoryMax=120M", "--property=MemorySwapMax=0")
    told = supervised(TREE + code, before=(*(word for word in SERVICE if word != "--collect"), *unit), status=1)
    assert subprocess.check_output(["systemctl", "show", "-p", "Result", "hungry.service"]) == b"Result=oom-kill\n"
    subprocess.run(["systemctl", "reset-failed", "hungry.service"], check=True)
    gone = """
for pid in sys.argv[1:]:
    until(lambda: not os.path.exists("/proc/" + pid))
"""
    assert len(told.split()) == 4
    supervised(gone, *told.split())


@pytest.fixture
def starved() -> Iterator[str]:
    """A slice that is short of memory."""
    limits = ("MemoryMax=150M", "MemorySwapMax=0")
    subprocess.run(["systemctl", "set-property", "--runtime", "starved.slice", *limits], check=True)
    yield "starved.slice"
    subprocess.run(["systemctl", "stop", "starved.slice"], check=True)
    subprocess.run(["systemctl", "revert", "starved.slice"], check=True)


@pytest.mark.root
def test_a_guard_that_the_oom_killer_takes_is_replaced(starved: str) -> None:
    code = (
        LIMITED
        + """
first = allgone.Popen(["sleep", "1000"], backend="cgroup")
with open(os.path.dirname(first._containment.where()) + "/guard/cgroup.procs") as f:
    guard, = f.read().split()
put(f"/proc/{guard}/oom_score_adj", "1000")  # it is taken before who eats
taken = os.pidfd_open(int(guard))
eats = allgone.Popen(EATS, backend="cgroup")
all_end([taken])
assert eats.wait(60) == -signal.SIGKILL
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    second = allgone.Popen(["sh", "-c", "sleep 1000 & sleep 1000"], backend="cgroup")
assert [each.category for each in caught] == [allgone.GuardLostWarning]
pidfds = [*held(first), *held(second)]
first.stop()
second.stop()
eats.stop()
all_end(pidfds, 0)
"""
    )
    supervised(code, before=(*SERVICE, f"--slice={starved}"))
