"""A reboot, a power-off and a change to rescue.target in the middle of a run: nothing is held up, nothing is left."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable

import pytest
from vm.outside.conftest import Guest

# A supervisor that would run for ever, as a service: three trees with a daemon in each.
JOB = """
import allgone, signal, sys
daemons = {"heed": "setsid sleep 1000 & sleep 1000", "ignore": "trap '' TERM; setsid sleep 1000 & sleep 1000"}
held = [allgone.Popen(["sh", "-c", daemons[sys.argv[1]]]) for _ in range(3)]
print("started", flush=True)
signal.pause()
"""


def start_job(guest: Guest, how: str) -> None:
    """`how`: whether its daemons heed or ignore SIGTERM."""
    guest.run("cat >/root/job.py <<'E'\n" + JOB + "\nE")
    guest.run(f"systemd-run --quiet --unit=job /opt/allgone/bin/python -W error /root/job.py {how}")
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
    downs, ups, before = guest.said("Restarting system"), guest.said("BOX IS UP"), guest.boot()
    began = time.monotonic()
    guest.run("systemctl reboot --no-block", check=False)
    took = guest.says("Restarting system", downs) - began
    guest.says("BOX IS UP", ups)
    guest.is_up_again(before)  # sshd may take longer
    return took


def power_off(guest: Guest) -> float:
    downs, before = guest.said("Power down"), guest.boot()
    began = time.monotonic()
    guest.run("systemctl poweroff --no-block", check=False)
    took = guest.says("Power down", downs) - began
    subprocess.run(guest.on, check=True)
    guest.is_up_again(before)
    return took


@pytest.mark.timeout(900)
@pytest.mark.parametrize("down", [reboot, power_off])
def test_shutdown_is_not_held_up_and_nothing_is_left_at_the_next_boot(
    guest: Guest, down: Callable[[Guest], float]
) -> None:
    without = down(guest)
    start_job(guest, "heed")
    with_us = down(guest)
    print(f"{down.__name__}: {without:.1f} s without, {with_us:.1f} s with three containments")
    assert by_force(guest) == ""
    nothing_is_left(guest)


@pytest.mark.timeout(900)
def test_who_ignores_sigterm_holds_shutdown_up_for_as_long_as_his_scope_grants_him(guest: Guest) -> None:
    """10 seconds, for all of the scope at once. Of a plain service's it would be systemd's 90."""
    start_job(guest, "ignore")
    print(f"reboot: {reboot(guest):.1f} s with daemons that ignore SIGTERM")
    said = by_force(guest).splitlines()
    assert len([line for line in said if "timed out" in line]) == 1, said
    nothing_is_left(guest)


def by_force(guest: Guest) -> str:
    """What systemd says of that which it had to wait for and to kill when it shut down."""
    return guest.run("journalctl -b -1 --no-pager | grep -E 'timed out|Killing process' || true")


@pytest.mark.timeout(600)
def test_a_change_to_rescue_target_ends_all_of_it(guest: Guest) -> None:
    start_job(guest, "heed")
    look = (
        "systemctl isolate rescue.target; "
        "{ systemctl is-active rescue.target job.service; find /sys/fs/cgroup -name 'allgone-*'; pgrep -x sleep; } >/root/seen; "
        "systemctl isolate multi-user.target"
    )
    ups = guest.said("BOX IS UP")
    guest.run(
        "systemd-run --quiet --unit=looks --property=DefaultDependencies=no --property=IgnoreOnIsolate=yes "
        f'sh -c "{look}"',
        check=False,
    )
    guest.says("BOX IS UP", ups)
    assert guest.run("cat /root/seen").split() == ["active", "inactive"]
    nothing_is_left(guest)
    reboot(
        guest
    )  # dbus was started anew, and a lingering user's manager, which was not, asks systemd for nothing any more
