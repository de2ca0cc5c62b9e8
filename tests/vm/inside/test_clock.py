"""A clock that jumps, as after a suspend or when NTP comes up, makes no stop shorter, longer, or wrong."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.machine import supervised

pytestmark = pytest.mark.root


@pytest.fixture
def _right_again() -> Iterator[None]:
    wall, steady = time.time(), time.monotonic()
    yield
    time.clock_settime(time.CLOCK_REALTIME, wall + time.monotonic() - steady)


@pytest.mark.usefixtures("_right_again")
@pytest.mark.parametrize("hours", [1000, -1000])
@pytest.mark.parametrize("backend", ["cgroup", "process-group"])
def test_a_stop_in_which_the_clock_jumps_takes_the_time_that_it_was_given(hours: int, backend: str) -> None:
    code = """
hours, backend = int(sys.argv[1]), sys.argv[2]
deaf = allgone.Popen(["sh", "-c", "trap '' TERM; echo; sleep 1000 & wait; sleep 1000"], stdout=subprocess.PIPE, backend=backend)
deaf.stdout.readline()
jump = threading.Timer(0.3, lambda: time.clock_settime(time.CLOCK_REALTIME, time.time() + 3600 * hours))
jump.start()
began = time.monotonic()
report = deaf.stop(allgone.StopPolicy(timeout_stop=1.5))
took = time.monotonic() - began
jump.join()
assert report.killed and not report.left_running
assert 1.5 <= took < 30, took
"""
    supervised(code, hours, backend)


@pytest.mark.usefixtures("_right_again")
def test_a_janitor_after_a_jump_knows_the_living_from_the_dead() -> None:
    code = """
lives = allgone.Popen(["sleep", "1000"])
time.clock_settime(time.CLOCK_REALTIME, time.time() - 3600 * 1000)
other = [sys.executable, "-c", "import allgone; allgone.run(['true'])"]
subprocess.run(other, check=True)
subprocess.run(["allgone", "gc"], check=True)
assert lives.poll() is None
listed = json.loads(subprocess.check_output(["allgone", "ps", "--json"]))
assert [each["state"] for each in listed if each["owner"] == os.getpid()] == ["live"], listed
lives.stop()
"""
    supervised(code)


def _can_suspend() -> bool:
    states = Path("/sys/power/state")
    return shutil.which("rtcwake") is not None and states.exists() and "mem" in states.read_text().split()


@pytest.mark.skipif(not _can_suspend(), reason="needs rtcwake and a kernel that can suspend to memory")
def test_after_a_sleep_of_the_machine_everybody_is_known_and_no_stop_is_shorter() -> None:
    """One for all, for QEMU's clock wakes a guest only once after it has booted."""
    code = """
def traced(backend):
    command = "sleep 1000 & echo $!; read line; setsid sleep 1000 & echo $!; sleep 1000"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    return allgone.Popen(["sh", "-c", command], backend=backend, trace=True, escapees="kill", **pipes)

def pidfd_of_next(shell):
    return os.pidfd_open(int(shell.stdout.readline()))

shells = [traced("cgroup"), traced("process-group")]
started = [pidfd_of_next(each) for each in shells]
deaf = allgone.Popen(["sh", "-c", "trap '' TERM; echo; sleep 1000 & wait; sleep 1000"], stdout=subprocess.PIPE)
deaf.stdout.readline()
took = []

def stop():
    began = time.monotonic()
    report = deaf.stop(allgone.StopPolicy(timeout_stop=15))
    took.append(time.monotonic() - began)
    assert report.killed and not report.left_running

stopping = threading.Thread(target=stop)
stopping.start()
before = time.clock_gettime(time.CLOCK_BOOTTIME) - time.monotonic()
subprocess.run(["rtcwake", "-m", "mem", "-s", "20"], check=True, stdout=subprocess.DEVNULL)
slept = time.clock_gettime(time.CLOCK_BOOTTIME) - time.monotonic() - before
assert slept > 1, slept

for each in shells:
    each.stdin.write(b"\\n")
    each.stdin.flush()
    started.append(pidfd_of_next(each))
lives = allgone.Popen(["sleep", "1000"])
subprocess.run(["allgone", "gc"], check=True)
listed = json.loads(subprocess.check_output(["allgone", "ps", "--json"]))
assert {each["state"] for each in listed if each["owner"] == os.getpid()} == {"live"}, listed
for each in shells:
    assert each.poll() is None
    each.stop()
all_end(started)
lives.stop()
stopping.join()
assert 15 <= took[0] < 60, took
"""
    supervised(code)
