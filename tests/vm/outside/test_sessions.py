"""Logged in by ssh, and out again, or cut off: what an ordinary user's supervisor has started ends with it, not before."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator

import pytest
from vm.outside.conftest import Guest

import allgone

_CODE = """
import allgone, signal, sys
if "stays" in sys.argv:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
process = allgone.Popen(["sh", "-c", "trap '' HUP; setsid sleep 4712 & sleep 4712 & wait"], backend="cgroup")
print(process.backend, flush=True)
signal.pause()
"""


@pytest.fixture(autouse=True)
def _alone(guest: Guest) -> Iterator[None]:
    guest.run("cat >/tmp/supervisor.py <<'E'\n" + _CODE + "\nE", user=True)
    yield
    guest.run("loginctl disable-linger vagrant; loginctl terminate-user vagrant; rm /tmp/supervisor.*", check=False)


def are_there(guest: Guest) -> bool:
    return guest.run("pgrep -f '^sleep 4712' || true") != ""


def are_gone(guest: Guest) -> None:
    until = time.monotonic() + 60
    while are_there(guest):
        assert time.monotonic() < until
        time.sleep(0.5)
    guest.run("! find /sys/fs/cgroup -name 'allgone-*' | grep .")


@pytest.mark.parametrize("linger", ["enable", "disable"])
def test_it_goes_on_with_a_supervisor_that_stays_after_logout_and_ends_with_the_user(guest: Guest, linger: str) -> None:
    guest.run(f"loginctl {linger}-linger vagrant")
    script = (
        "setsid /opt/allgone/bin/python /tmp/supervisor.py stays </dev/null >/tmp/supervisor.log 2>&1 & "
        "until [ -s /tmp/supervisor.log ]; do sleep 0.1; done; cat /tmp/supervisor.log"
    )
    assert guest.run(script, user=True) == "cgroup\n"
    time.sleep(15)  # longer than what systemd-logind gives a user who has logged out (UserStopDelaySec=)
    assert are_there(guest)
    guest.run("loginctl disable-linger vagrant; loginctl terminate-user vagrant")
    are_gone(guest)


def test_a_connection_that_breaks_leaves_nothing(guest: Guest) -> None:
    words = [*guest.user[:-1], "-tt", guest.user[-1], "/opt/allgone/bin/python /tmp/supervisor.py"]
    # Through Vagrant there is more between us and ssh than one process, and it moves to another cgroup.
    with allgone.Popen(
        words, backend="process-group", stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as connection:
        assert connection.stdout is not None
        assert connection.stdout.readline().strip() == "cgroup"
        assert are_there(guest)
        connection.kill()
    are_gone(guest)
