"""The kernel's OOM killer, which takes a child, the supervisor or the guard; and a child that has hardly any CPU time."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest
from support.machine import SERVICE, supervised

EATS = """
from allgone import Limits
EATS = [sys.executable, "-c", "import time; hoard = [bytearray(1_000_000) for _ in range(400)]; time.sleep(1000)"]
"""
TREE = """
process = allgone.Popen(["sh", "-c", "setsid sleep 1000 & sleep 1000 & sleep 1000"], backend="cgroup")
until(lambda: len(process.members()) == 4)
"""


@pytest.mark.smoke
def test_a_child_that_the_oom_killer_takes_takes_nothing_else_along() -> None:
    code = """
little = Limits(memory_max="40M", memory_swap_max=0)
child = allgone.Popen(["sh", "-c", 'sleep 1000 & "$@"; sleep 1000', "-", *EATS], limits=little, backend="cgroup")
other = allgone.Popen(["sleep", "1000"], backend="cgroup")
until(lambda: child.usage().oom_kills == 1)
until(lambda: len(child.members()) == 3)
assert other.poll() is None
assert child.stop().ended_from_outside == ""
other.stop()
"""
    supervised(EATS + code)


def test_a_throttled_child_is_stopped_as_any() -> None:
    code = """
child = allgone.Popen([sys.executable, "-c", "while True: pass"], limits=Limits(cpu_quota="2%"), backend="cgroup")
until(lambda: counts(child._containment.where() + "/cpu.stat")["nr_throttled"] > 3)
pidfds = held(child)
child.stop()
all_end(pidfds, 0)
"""
    supervised(EATS + code)


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
        EATS
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
