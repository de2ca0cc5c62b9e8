"""A reboot, a power-off and a change to rescue.target in the middle of a run: nothing is held up, nothing is left."""

from __future__ import annotations

import json
import time
from collections.abc import Callable

import pytest
from vm.outside.conftest import Guest

# A supervisor that would run for ever, as a service: three trees, a daemon that ignores SIGTERM in each.
JOB = """
import allgone, signal
daemon = "trap '' TERM HUP INT; setsid sh -c 'trap \\"\\" TERM; sleep 1000 & wait; sleep 1000' & sleep 1000"
held = [allgone.Popen(["sh", "-c", daemon]) for _ in range(3)]
print("started", flush=True)
signal.pause()
"""


def start_job(guest: Guest) -> None:
    guest.run("cat >/root/job.py <<'E'\n" + JOB + "\nE")
    guest.run("systemd-run --quiet --unit=job /opt/allgone/bin/python -W error /root/job.py")
    guest.run("until journalctl -b -u job | grep -q started; do sleep 0.1; done")
    assert len(containments(guest)) == 3


def containments(guest: Guest) -> list[dict[str, object]]:
    found: list[dict[str, object]] = json.loads(guest.run("allgone ps --json"))
    return found


def nothing_is_left(guest: Guest) -> None:
    assert containments(guest) == []
    assert guest.run("systemctl list-units --all --plain --no-legend 'allgone-*'") == ""
    assert guest.run("find /sys/fs/cgroup -name 'allgone-*'") == ""
    assert guest.run("systemctl --failed --plain --no-legend") == ""


def reboot(guest: Guest) -> float:
    """How long it took to shut down."""
    downs, ups = guest.said("Restarting system"), guest.said("BOX IS UP")
    began = time.monotonic()
    guest.run("systemctl reboot --no-block", check=False)
    took = guest.says("Restarting system", downs) - began
    guest.says("BOX IS UP", ups)
    return took


def power_off(guest: Guest) -> float:
    import subprocess

    downs, ups = guest.said("Power down"), guest.said("BOX IS UP")
    began = time.monotonic()
    guest.run("systemctl poweroff --no-block", check=False)
    took = guest.says("Power down", downs) - began
    subprocess.run(guest.on, check=True)
    guest.says("BOX IS UP", ups)
    return took


@pytest.mark.timeout(900)
@pytest.mark.parametrize("down", [reboot, power_off])
def test_shutdown_is_not_held_up_and_nothing_is_left_at_the_next_boot(
    guest: Guest, down: Callable[[Guest], float]
) -> None:
    without = down(guest)
    start_job(guest)
    with_us = down(guest)
    print(f"{down.__name__}: {without:.1f} s without, {with_us:.1f} s with three containments")
    nothing_is_left(guest)
    # What systemd says of what it has to wait for and to kill.
    ended_by_force = guest.run("journalctl -b -1 --no-pager | grep -iE 'timed out|Killing process' || true")
    assert "allgone" not in ended_by_force, ended_by_force


@pytest.mark.timeout(600)
def test_a_change_to_rescue_target_ends_all_of_it(guest: Guest) -> None:
    start_job(guest)
    look = (
        "systemctl isolate rescue.target; sleep 1; "
        "{ systemctl is-active rescue.target job.service; find /sys/fs/cgroup -name 'allgone-*'; pgrep -x sleep; } >/root/seen; "
        "systemctl isolate multi-user.target"
    )
    ups = guest.said("BOX IS UP")
    guest.run(
        "systemd-run --quiet --unit=looks --property=DefaultDependencies=no --property=IgnoreOnIsolate=yes "
        f'--description=looks sh -c "{look}"'
    )
    guest.says("BOX IS UP", ups)
    seen = guest.run("cat /root/seen").split()
    assert seen[:2] == ["active", "inactive"]
    assert len(seen) == 3, seen  # our own "sleep" is over: pgrep finds nothing...
    nothing_is_left(guest)
