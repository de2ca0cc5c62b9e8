"""Logged in by ssh, and out again: what an ordinary user's supervisor has started ends with his manager, or goes on."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from vm.outside.conftest import Guest

_STAYS = """
import allgone, signal
signal.signal(signal.SIGHUP, signal.SIG_IGN)
process = allgone.Popen(["sh", "-c", "setsid sleep 4712 & sleep 4712"])
print(process.backend, flush=True)
signal.pause()
"""


@pytest.fixture(autouse=True)
def _alone(guest: Guest) -> Iterator[None]:
    yield
    guest.run(
        "loginctl disable-linger vagrant; systemctl stop user@1000.service; loginctl terminate-user vagrant",
        check=False,
    )


def start(guest: Guest) -> None:
    """And log out."""
    guest.run("cat >/tmp/stays.py <<'E'\n" + _STAYS + "\nE", user=True)
    script = (
        "setsid /opt/allgone/bin/python /tmp/stays.py </dev/null >/tmp/stays.log 2>&1 & "
        "until [ -s /tmp/stays.log ]; do sleep 0.1; done; cat /tmp/stays.log"
    )
    assert guest.run(script, user=True) == "cgroup\n"


def sleepers(guest: Guest) -> int:
    return int(guest.run("pgrep -cf '^sleep 4712' || true"))


def test_after_the_last_logout_the_users_manager_ends_all_of_it(guest: Guest) -> None:
    guest.run("loginctl disable-linger vagrant")
    start(guest)
    until = time.monotonic() + 60  # systemd-logind gives the manager 10 seconds (UserStopDelaySec=)
    while sleepers(guest):
        assert time.monotonic() < until
        time.sleep(1)
    assert guest.run("find /sys/fs/cgroup -name 'allgone-*'") == ""


def test_of_a_user_who_lingers_it_goes_on_and_ends_with_its_supervisor(guest: Guest) -> None:
    guest.run("loginctl enable-linger vagrant")
    start(guest)
    time.sleep(15)
    assert sleepers(guest) == 2
    guest.run("pkill -KILL -f '^/opt/allgone/bin/python /tmp/stays.py'")
    until = time.monotonic() + 30
    while sleepers(guest):
        assert time.monotonic() < until
    assert guest.run("find /sys/fs/cgroup -name 'allgone-*'") == ""
