"""What root can do to get out. The promise is about what stayed: that is gone, a stop neither fails nor waits for what left,
and what left is not touched, for it is somebody else's now."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.machine import SERVICE, supervised

pytestmark = pytest.mark.root

# Each runs "sleep 4711" somewhere else, and goes on here.
WAYS = {
    "another cgroup": "mkdir /sys/fs/cgroup/elsewhere; sh -c 'echo 0 >/sys/fs/cgroup/elsewhere/cgroup.procs; exec sleep 4711' &",
    "the root cgroup": "sh -c 'echo 0 >/sys/fs/cgroup/cgroup.procs; exec sleep 4711' &",
    "a service": "systemd-run --quiet --collect sleep 4711",
    "a scope": "systemd-run --quiet --collect --scope sleep 4711 &",
    "AttachProcessesToUnit": (
        "systemd-run --quiet --collect --unit=elsewhere --property=Delegate=yes sleep 4000; sleep 4711 & "
        "busctl call org.freedesktop.systemd1 /org/freedesktop/systemd1 org.freedesktop.systemd1.Manager AttachProcessesToUnit "
        "ssau elsewhere.service '' 1 $!"
    ),
    "a PAM session": "su --login --command 'exec sleep 4711' vagrant &",
}


@pytest.fixture(autouse=True)
def _elsewhere_is_ended() -> Iterator[None]:
    yield
    code = """
left = allgone_sleepers()
for pid in left:
    signal.pidfd_send_signal(os.pidfd_open(pid), signal.SIGKILL)
subprocess.run(["systemctl", "stop", "elsewhere.service"], stderr=subprocess.DEVNULL)
def removed():
    try:
        os.rmdir("/sys/fs/cgroup/elsewhere")
    except FileNotFoundError:
        return True
    except OSError as e:
        assert e.errno == errno.EBUSY
    return False
until(removed)
"""
    supervised(SLEEPERS + code)


SLEEPERS = """
def allgone_sleepers():
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cmdline") as f:
                program, *words = f.read().split("\\0")  # not who has it run, and has its words at the end of its own
            if program.endswith("sleep") and words == ["4711", ""]:
                found.append(int(pid))
        except (FileNotFoundError, ProcessLookupError):
            pass
    return found
"""


@pytest.mark.parametrize("way", WAYS)
def test_what_stayed_is_gone_and_what_left_is_not_touched(way: str) -> None:
    code = (
        SLEEPERS
        + """
script = sys.argv[1] + "\\nsetsid sleep 1000 & sleep 1000"
quiet = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
process = allgone.Popen(["sh", "-c", script], backend="cgroup", **quiet)
def outside():
    return set(allgone_sleepers()) - process.members()
until(lambda: outside() and outside() == set(allgone_sleepers()))
left, = allgone_sleepers()
until(lambda: len(process.members()) >= 3)
pidfds = held(process)
process.stop(allgone.StopPolicy(timeout_stop=5))
all_end(pidfds, 0)
assert allgone_sleepers() == [left]
"""
    )
    supervised(code, WAYS[way], before=SERVICE)  # as a CI runner is: a login session has no other in it
