"""`Limits` where there are controllers: each is shown by what it does to a process, not by what its file says."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence

import pytest
from support.machine import SERVICE, environment, supervised
from support.programs import PROGRAMS

from docs import pages

DELEGATED = (*SERVICE, "--property=Delegate=yes")
PLACES = [
    pytest.param((), id="login"),
    pytest.param(SERVICE, id="service", marks=[pytest.mark.root, pytest.mark.smoke]),
    pytest.param(DELEGATED, id="delegated", marks=pytest.mark.root),
]
# EATS takes 100 MB, and says so if it can.
HUNGRY = """
from allgone import Limits
EATS = [sys.executable, "-c", "hoard = bytearray(100_000_000); print('full', flush=True)"]
LITTLE = Limits(memory_max="40M", memory_swap_max=0)
KILLED = [sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"]

def cpu_of(process, seconds):
    process.usage()
    before, began = process.usage(), time.monotonic()
    time.sleep(seconds)
    after, took = process.usage(), time.monotonic() - began
    return (after.cpu_user + after.cpu_system - before.cpu_user - before.cpu_system) / took
"""


@pytest.mark.parametrize("before", PLACES)
def test_who_needs_more_memory_is_killed_and_that_is_told_from_another_sigkill(before: Sequence[str]) -> None:
    code = """
try:
    allgone.run(EATS, limits=LITTLE, check=True, backend="cgroup", capture_output=True)
except allgone.OutOfMemory as e:
    assert (e.returncode, e.oom_kills, e.output) == (-9, 1, b""), e
    assert "want of memory" in str(e)
else:
    raise AssertionError("no error")

done = allgone.run(["sh", "-c", '"$@"; exit 3', "-", *EATS], limits=LITTLE, backend="cgroup")
assert (done.returncode, done.report.oom_kills) == (3, 1)
assert "want of memory: 1 process" in str(done.report)

done = allgone.run(KILLED, limits=LITTLE, backend="cgroup")
assert (done.returncode, done.report.oom_kills) == (-9, 0)
assert "memory" not in str(done.report)

try:
    allgone.check_call(KILLED, limits=LITTLE, backend="cgroup")
except subprocess.CalledProcessError as e:
    assert not isinstance(e, allgone.OutOfMemory)
for check in allgone.check_call, allgone.check_output:
    try:
        check(EATS, limits=LITTLE, backend="cgroup")
    except allgone.OutOfMemory as e:
        assert e.oom_kills == 1
    else:
        raise AssertionError("no error")
try:
    with allgone.process_fixture(EATS, limits=LITTLE, backend="cgroup", ready=allgone.log_line("full")):
        raise AssertionError("it is ready")
except allgone.ExitedBeforeReady as e:
    assert e.__cause__.oom_kills == 1
assert allgone.run(EATS, limits=Limits(memory_max="400M"), backend="cgroup", capture_output=True).stdout == b"full\\n"
"""
    supervised(HUNGRY + code, before=before)


def test_with_oom_group_all_of_it_dies_together() -> None:
    code = """
words = ["sh", "-c", 'sleep 1000 & "$@"; echo went on; sleep 1000', "-", *EATS]
alone = allgone.Popen(["sh", "-c", 'sleep 1000 & "$@"; sleep 1000', "-", *EATS], limits=LITTLE, backend="cgroup")
until(lambda: alone.usage().oom_kills == 1)
until(lambda: len(alone.members()) == 3)
assert alone.stop().oom_kills == 1
together = Limits(memory_max="40M", memory_swap_max=0, memory_oom_group=True)
done = allgone.run(words, limits=together, backend="cgroup", capture_output=True, timeout=60)
assert (done.returncode, done.stdout) == (-9, b""), done
assert done.report.oom_kills >= 3  # Linux counts the one that it has chosen twice
"""
    supervised(HUNGRY + code)


@pytest.fixture
def swap() -> Iterator[None]:
    with tempfile.NamedTemporaryFile(dir="/var/tmp") as file:  # not in a tmpfs, as /tmp may be
        os.posix_fallocate(file.fileno(), 0, 200 << 20)
        subprocess.run(["mkswap", "--quiet", file.name], check=True)
        subprocess.run(["swapon", file.name], check=True)
        yield
        subprocess.run(["swapoff", file.name], check=True)


@pytest.mark.root
def test_swap_is_limited_apart_from_memory(swap: None) -> None:
    code = """
limits = Limits(memory_max="40M", memory_swap_max="infinity")
assert allgone.run(EATS, limits=limits, backend="cgroup", capture_output=True).stdout == b"full\\n"
try:
    allgone.run(EATS, limits=LITTLE, check=True, backend="cgroup")
except allgone.OutOfMemory:
    pass
else:
    raise AssertionError("it was swapped out")
"""
    supervised(HUNGRY + code)


def test_above_memory_high_it_is_slowed_down_and_not_killed() -> None:
    code = """
process = allgone.Popen(EATS, limits=Limits(memory_high="30M", memory_swap_max=0), backend="cgroup")
folder = process._containment.where()
until(lambda: counts(folder + "/memory.events")["high"] > 10)
assert process.poll() is None
assert process.usage().memory < 100_000_000
assert process.stop(allgone.StopPolicy(timeout_stop=0)).oom_kills == 0
"""
    supervised(HUNGRY + code)


@pytest.mark.smoke
def test_a_fork_bomb_has_no_more_tasks_than_it_may() -> None:
    code = """
bomb = allgone.Popen([sys.executable, sys.argv[1]], limits=Limits(tasks_max=60), backend="cgroup")
until(lambda: counts(bomb._containment.where() + "/pids.events")["max"] > 0)
assert len(bomb.members()) <= 60
other = allgone.run(["sh", "-c", "true & wait"], backend="cgroup")
assert other.returncode == 0
pidfds = held(bomb)
report = bomb.stop(allgone.StopPolicy(timeout_stop=0.1))
all_end(pidfds, 0)
assert report.usage.tasks_peak is None or report.usage.tasks_peak <= 60
"""
    supervised(HUNGRY + code, PROGRAMS / "fork_bomb.py")


@pytest.mark.root
def test_cpu_quota_is_held_within_a_tenth_over_five_seconds() -> None:
    code = """
for quota in 20, 50:
    process = allgone.Popen(["sh", "-c", "while :; do :; done & while :; do :; done"],
                            limits=Limits(cpu_quota=f"{quota}%"), backend="cgroup")
    share = cpu_of(process, 5)
    process.stop()
    assert 0.9 * quota / 100 <= share <= 1.1 * quota / 100, share
"""
    supervised(HUNGRY + code)


@pytest.mark.root
def test_cpu_weight_shares_a_cpu_that_two_want() -> None:
    code = """
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
spins = ["sh", "-c", "while :; do :; done"]
light, heavy = (allgone.Popen(spins, limits=Limits(cpu_weight=weight), backend="cgroup") for weight in (100, 400))
before = light.usage().cpu_user, heavy.usage().cpu_user
time.sleep(5)
after = light.usage().cpu_user, heavy.usage().cpu_user
ratio = (after[1] - before[1]) / (after[0] - before[0])
light.stop(), heavy.stop()
assert 3 < ratio < 5.3, ratio
"""
    supervised(HUNGRY + code)


@pytest.mark.root
def test_io_weight_is_taken_or_said_not_to_be_there() -> None:
    code = """
with allgone.Popen(["sleep", "1000"], backend="cgroup") as first:
    try:
        process = allgone.Popen(["true"], limits=Limits(io_weight=50), backend="cgroup")
    except allgone.LimitUnavailable as e:
        assert e.what == "io_weight" and "no such file" in str(e), e
    else:
        with open(process._containment.where() + "/io.weight") as f:
            assert f.read() == "default 50\\n"
        assert process.wait() == 0
    first.stop()
"""
    supervised(HUNGRY + code)


@pytest.mark.root
def test_a_unit_has_them_as_properties() -> None:
    code = """
limits = Limits(memory_max="40M", memory_swap_max=0, tasks_max=50, cpu_quota="150%", memory_oom_group=True)
process = allgone.Popen(["sh", "-c", 'read word; "$@"; sleep 1000', "-", *EATS], stdin=subprocess.PIPE,
                        unit="limited.scope", limits=limits)
shown = subprocess.check_output(["systemctl", "show", "limited.scope", "-p", "MemoryMax,MemorySwapMax,TasksMax,CPUQuotaPerSecUSec"], text=True)
assert set(shown.split()) == {"MemoryMax=41943040", "MemorySwapMax=0", "TasksMax=50", "CPUQuotaPerSecUSec=1.500000s"} - (
    set() if "MemorySwapMax" in shown else {"MemorySwapMax=0"}), shown
process.stdin.write(b"go\\n")
process.stdin.close()
assert process.wait(60) == -9
assert process.stop().oom_kills >= 2
"""
    supervised(HUNGRY + code)


@pytest.mark.root
def test_a_group_has_limits_and_its_members_have_their_own() -> None:
    code = """
with allgone.group(limits=Limits(tasks_max=40), backend="cgroup") as group:
    bombs = [group.Popen([sys.executable, sys.argv[1]]) for _ in range(2)]
    until(lambda: counts(group._containment.where() + "/pids.events")["max"] > 0)
    assert len(group.members()) <= 40
    for each in bombs:
        each.stop(allgone.StopPolicy(timeout_stop=0))
    eats = group.Popen(EATS, limits=LITTLE)
    assert eats.wait(60) == -9
    assert eats.usage().oom_kills == 1
    idle = group.Popen(["sleep", "1000"])
assert group.stop().oom_kills == 1

with allgone.group(limits=LITTLE, backend="cgroup") as group:
    eats = group.Popen(EATS, limits=Limits(memory_max="1G"))  # the group's is met, and its own is not
    assert eats.wait(60) == -9
    assert eats.usage().oom_kills == 1
"""
    supervised(HUNGRY + code, PROGRAMS / "fork_bomb.py")


@pytest.mark.smoke
@pytest.mark.root
def test_in_a_delegated_service_who_runs_in_it_makes_room_and_is_found_again() -> None:
    """Controllers are handed down only where no process is: all that the service runs moves one cgroup down."""
    code = """
def own():
    with open("/proc/self/cgroup") as f:
        return f.read().strip().removeprefix("0::")

service = own()
before = subprocess.Popen(["sleep", "1000"])  # of the service, and none of ours
free = allgone.Popen(["sleep", "1000"], backend="cgroup")
assert own() == service  # who has no limits moves nobody
limited = allgone.Popen(EATS, limits=LITTLE, backend="cgroup")
assert limited.wait(60) == -9
assert own() == service + "/allgone.supervisors"
with open(f"/proc/{before.pid}/cgroup") as f:
    assert f.read().strip() == f"0::{service}/allgone.supervisors"
second = '''
import allgone, sys
limits = allgone.Limits(tasks_max=30)
with allgone.Popen(["sleep", "1000"], limits=limits, backend="cgroup") as process:
    print(process._containment.where())
    process.stop()
'''
for _ in range(2):
    where = subprocess.check_output([sys.executable, "-c", second], text=True)
    assert where.startswith(f"/sys/fs/cgroup{service}/allgone-"), where
nested = subprocess.check_output([sys.executable, "-m", "allgone", "run", "--backend=cgroup", "--name=outer", "--",
                                  sys.executable, "-c", second], text=True)
assert "/outer/allgone-" in nested, nested
free.stop()
before.kill()
before.wait()
allgone._backends.choose.backend("cgroup").close()
left = [name for name in os.listdir("/sys/fs/cgroup" + service) if name.startswith("allgone-")]
assert left == [], left
"""
    supervised("import allgone._backends.choose\n" + HUNGRY + code, before=DELEGATED)


@pytest.mark.parametrize("before", PLACES)
def test_a_supervisor_that_is_killed_leaves_nothing_of_what_it_had_limited(before: Sequence[str]) -> None:
    code = """
victim = '''
import allgone, time
limits = allgone.Limits(memory_max="100M", tasks_max=50)
process = allgone.Popen(["sh", "-c", "setsid sleep 1000 & sleep 1000"], limits=limits, backend="cgroup")
while len(process.members()) < 3: time.sleep(0.01)
print(process._containment.where(), *process.members(), flush=True)
time.sleep(1000)
'''
supervisor = subprocess.Popen([sys.executable, "-c", victim], stdout=subprocess.PIPE, text=True)
where, *pids = supervisor.stdout.readline().split()
assert len(pids) == 3
pidfds = [os.pidfd_open(int(pid)) for pid in pids]
supervisor.kill()
supervisor.communicate()
all_end(pidfds)
until(lambda: not os.path.exists(os.path.dirname(where)))
"""
    supervised(HUNGRY + code, before=before)


def test_of_a_user_what_is_not_handed_down_is_named_with_its_remedy() -> None:
    if os.getuid() == 0:
        pytest.skip("as an ordinary user")
    code = """
child = allgone.Popen(["sleep", "1000"], backend="cgroup")
limits = child.guarantees.limits
child.stop()
assert {"memory", "pids"} <= limits, limits
if "io" not in limits:
    try:
        allgone.Popen(["true"], limits=Limits(io_weight=50), backend="cgroup")
    except allgone.LimitUnavailable as e:
        assert e.what == "io" and "systemctl edit user@.service" in str(e), e
    else:
        raise AssertionError("no error")
"""
    supervised(HUNGRY + code)


def test_who_has_no_limits_hands_nothing_down() -> None:
    code = """
process = allgone.Popen(["sleep", "1000"], backend="cgroup")
with open(os.path.dirname(process._containment.where()) + "/cgroup.subtree_control") as f:
    assert f.read() == "\\n" or f.read() == ""
process.stop()
"""
    supervised(HUNGRY + code)


@pytest.mark.root
def test_the_command_has_them_as_options() -> None:
    allgone = [sys.executable, "-m", "allgone", "run", "--backend=cgroup"]
    eats = [sys.executable, "-c", "hoard = bytearray(100_000_000)"]

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*allgone, *words], env=environment(), capture_output=True, text=True, check=False)

    killed = run("--memory-max", "40M", "--memory-swap-max", "0", "--", *eats)
    assert killed.returncode == -9
    assert "the kernel killed a process of it for want of memory" in killed.stderr
    assert (
        run(
            "--memory-max", "400M", "--tasks-max", "50", "--cpu-quota", "150%", "--cpu-weight", "50", "--", *eats
        ).returncode
        == 0
    )
    refused = run("--memory-max", "lots", "--", "true")
    assert refused.returncode == 125
    assert "memory_max" in refused.stderr
    told = run("--unit", "told.scope", "--memory-max", "40M", "--memory-swap-max", "0", "--usage", "--", *eats)
    assert told.returncode == -9
    assert "Killed for want of memory: 1" in told.stderr


@pytest.mark.parametrize("block", pages.blocks(pages.ROOT / "docs/limits.md"), ids=str)
def test_example_of_the_page_runs(block: pages.Block) -> None:
    assert block.language == "python"
    assert supervised(block.text) == "-9 1\n"


@pytest.mark.root
def test_in_a_container_whose_own_cgroup_is_full_the_remedy_is_named() -> None:
    """A cgroup namespace without systemd: its top holds processes that are not ours to move."""
    code = """
try:
    allgone.Popen(["true"], limits=Limits(tasks_max=50), backend="cgroup")
except allgone.LimitUnavailable as e:
    assert "processes are in it" in str(e), e
else:
    raise AssertionError("no error")
"""
    inside = 'umount -l /sys/fs/cgroup; mount -t cgroup2 none /sys/fs/cgroup; mount -t tmpfs none /run; exec "$@"'
    before = (*SERVICE, "unshare", "--cgroup", "--mount", "sh", "-c", inside, "-")
    supervised(HUNGRY + code, before=before)
