"""systemd-oomd, which kills whole cgroups of a slice in which memory is short: it takes a child, and the report says so."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.machine import SERVICE, supervised

pytestmark = pytest.mark.root
_SWAP = Path("/var/tmp/allgone-swap")
_SOON = Path("/run/systemd/oomd.conf.d/soon.conf")


@pytest.fixture
def _swap() -> Iterator[None]:
    """Without any nothing is reclaimed, and where nothing is systemd-oomd does nothing."""
    make = f"fallocate --length 512M {_SWAP} && chmod 600 {_SWAP} && mkswap {_SWAP} && swapon {_SWAP}"
    subprocess.run(["sh", "-c", make], check=True, stdout=subprocess.DEVNULL)
    yield
    subprocess.run(["swapoff", _SWAP], check=True)
    _SWAP.unlink()


@pytest.fixture
def pressed(_swap: None) -> Iterator[str]:
    """A slice that is under pressure as soon as somebody wants memory in it, and that systemd-oomd looks after."""
    _SOON.parent.mkdir(parents=True, exist_ok=True)
    _SOON.write_text("[OOM]\nDefaultMemoryPressureDurationSec=1s\n")
    subprocess.run(["systemctl", "restart", "systemd-oomd.service"], check=True)
    limits = ("MemoryHigh=80M", "ManagedOOMMemoryPressure=kill", "ManagedOOMMemoryPressureLimit=1%")
    subprocess.run(["systemctl", "set-property", "--runtime", "pressed.slice", *limits], check=True)
    yield "pressed.slice"
    subprocess.run(["systemctl", "stop", "pressed.slice"], check=True)
    subprocess.run(["systemctl", "revert", "pressed.slice"], check=True)
    _SOON.unlink()
    subprocess.run(["systemctl", "restart", "systemd-oomd.service"], check=True)


def test_what_systemd_oomd_has_killed_is_reported_as_such(pressed: str) -> None:
    code = """
other = allgone.Popen(["sleep", "1000"], backend="cgroup")
eats = "import time; hoard = bytearray(200_000_000)\\nwhile True:\\n for n in range(0, len(hoard), 4096): hoard[n] = n & 255"
child = allgone.Popen(["sh", "-c", '"$@" & sleep 1000', "-", sys.executable, "-c", eats], backend="cgroup")
put(os.path.dirname(child._containment.where()) + "/cgroup.subtree_control", "+memory")  # it looks at memory.* of leaves
pidfds = held(child)
assert child.wait(90) == -signal.SIGKILL
all_end(pidfds)
report = child.stop()
print(report.ended_from_outside)
assert other.poll() is None
other.stop()
"""
    assert "systemd-oomd" in supervised(
        code, before=(*SERVICE, f"--slice={pressed}", "--property=ManagedOOMPreference=omit")
    )
