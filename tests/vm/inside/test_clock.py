"""A clock that jumps, as after a suspend or when NTP comes up, makes no stop shorter, longer, or wrong."""

from __future__ import annotations

import time
from collections.abc import Iterator

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
