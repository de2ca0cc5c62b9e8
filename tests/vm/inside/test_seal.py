"""A sealed command that is root tries every way out: it stays in, or is named. (Without a seal: test_escapes.py)"""

from __future__ import annotations

import json

import pytest
from support.machine import SERVICE, supervised

pytestmark = pytest.mark.root

# Each runs "sleep 4711", if it can somewhere else, and goes on here.
_INTO = "sh -c 'echo 0 >{}/cgroup.procs; exec sleep 4711' &"
PREVENTED = {
    "another cgroup": "mkdir /sys/fs/cgroup/elsewhere; " + _INTO.format("/sys/fs/cgroup/elsewhere"),
    "the root cgroup": _INTO.format("/sys/fs/cgroup"),
    "by init's root directory": _INTO.format("/proc/1/root/sys/fs/cgroup"),
    "a mount of its own": "umount /sys/fs/cgroup; mkdir -p /tmp/own; mount -t cgroup2 none /tmp/own; "
    + _INTO.format("/tmp/own"),
    "init's mounts": "nsenter --target 1 --mount sh -c 'echo 0 >/sys/fs/cgroup/cgroup.procs; exec sleep 4711' &",
    "a cgroup namespace of its own": "unshare --cgroup --mount sh -c "
    "'mount -t cgroup2 none /sys/fs/cgroup; echo 0 >/sys/fs/cgroup/cgroup.procs; exec sleep 4711' &",
}
ESCAPED = {
    "init's cgroup namespace": "nsenter --target 1 --mount --cgroup sh -c 'echo 0 >/sys/fs/cgroup/cgroup.procs; exec sleep 4711' &",
    "a scope": "systemd-run --quiet --collect --scope sleep 4711 &",
    "AttachProcessesToUnit": (
        "systemd-run --quiet --collect --unit=elsewhere --property=Delegate=yes sleep 4000; sleep 4711 & "
        "busctl call org.freedesktop.systemd1 /org/freedesktop/systemd1 org.freedesktop.systemd1.Manager AttachProcessesToUnit "
        "ssau elsewhere.service '' 1 $! >/dev/null"
    ),
    "a PAM session": "su --login --command 'exec sleep 4711' vagrant &",
}
ASKED_FOR = {
    "a service": ("systemd-run --quiet --collect --unit=asked sleep 4711", ["systemd-run (pid", "asked.service"]),
    "D-Bus": (
        "busctl call org.freedesktop.systemd1 /org/freedesktop/systemd1 org.freedesktop.systemd1.Manager StartTransientUnit "
        "'ssa(sv)a(sa(sv))' asked.service fail 1 ExecStart 'a(sasb)' 1 /bin/sleep 2 sleep 4711 false 0 >/dev/null",
        ["busctl (pid", "asked.service"],
    ),
}

RUN = """
def sleepers():
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cmdline") as f:
                if f.read().endswith("sleep\\0004711\\0"):
                    found.append(int(pid))
        except (FileNotFoundError, ProcessLookupError):
            pass
    return found

script = sys.argv[1] + "\\necho asked; setsid sleep 1000 & sleep 1000"
quiet = dict(stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
process = allgone.Popen(["sh", "-c", script], backend="cgroup", seal=True, trace=True, escapees="kill", **quiet)
assert process.stdout.readline() == b"asked\\n"
until(lambda: len(sleepers()) == 1)
"""


@pytest.mark.parametrize("way", PREVENTED)
def test_prevented(way: str) -> None:
    code = """
until(lambda: len(process.members()) >= 4)
assert set(sleepers()) <= process.members()
pidfds = held(process)
report = process.stop(allgone.StopPolicy(timeout_stop=5))
assert report.escapees == (), report
assert sleepers() == []
all_end(pidfds, 0)
"""
    supervised(RUN + code, PREVENTED[way], before=SERVICE)


@pytest.mark.parametrize("way", ESCAPED)
def test_what_a_seal_can_t_prevent_is_named_and_ended(way: str) -> None:
    code = """
until(lambda: not process.members() & set(sleepers()))
left, = sleepers()
assert left in process.escapees()
report = process.stop(allgone.StopPolicy(timeout_stop=5))
subprocess.run(["systemctl", "stop", "elsewhere.service"], stderr=subprocess.DEVNULL)  # where there is one
found, = [each for each in report.escapees if each.pid == left]
assert found.how.startswith("in cgroup /"), found
assert sleepers() == []
"""
    supervised(RUN + code, ESCAPED[way], before=SERVICE)


@pytest.mark.parametrize("way", ASKED_FOR)
def test_what_others_may_have_started_is_named_and_left_alone(way: str) -> None:
    script, expected = ASKED_FOR[way]
    code = """
report = process.stop(allgone.StopPolicy(timeout_stop=5))
alive = sleepers()
subprocess.run(["systemctl", "stop", "asked.service"], check=True)
assert len(alive) == 1
for each in json.loads(sys.argv[2]):
    assert any(text.startswith(each) for text in report.may_have_started), (each, report.may_have_started)
"""
    supervised(RUN + code, script, json.dumps(expected), before=SERVICE)
