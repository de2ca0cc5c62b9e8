"""A sealed command that is root tries every way out: it stays in, or is named. (Without a seal: test_escapes.py)"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest
from support.machine import SERVICE, supervised
from support.programs import PATIENCE

import allgone

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
        "'ssa(sv)a(sa(sv))' asked.service fail 2 CollectMode s inactive-or-failed "
        "ExecStart 'a(sasb)' 1 /bin/sleep 2 sleep 4711 false 0 >/dev/null",
        ["busctl (pid", "asked.service"],
    ),
    "at": ("echo exec sleep 4711 | at now", ["at (pid"]),
    "cron": ("echo '* * * * * exec sleep 4711' | crontab -", ["crontab (pid"]),
    "ssh": ("ssh -n -i /root/.ssh/asked -o StrictHostKeyChecking=no localhost 'exec sleep 4711' &", ["ssh (pid"]),
    "docker": (
        "docker run --detach --network=none --security-opt=apparmor=unconfined asked sleep 4711 >/dev/null",
        ["docker (pid"],
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
until(lambda: len(sleepers()) == 1, 120)  # cron looks once a minute
"""


def run(*words: object) -> None:
    subprocess.run(list(map(str, words)), check=True)


@contextmanager
def service(name: str) -> Iterator[None]:
    run("systemctl", "start", name)
    try:
        yield
    finally:
        run("systemctl", "stop", name)


@contextmanager
def at(_: Path) -> Iterator[None]:
    with service("atd"):
        yield


@contextmanager
def cron(_: Path) -> Iterator[None]:
    with service("cron"):
        try:
            yield
        finally:
            run("crontab", "-r")


@contextmanager
def ssh(_: Path) -> Iterator[None]:
    keys, key = Path("/root/.ssh/authorized_keys"), Path("/root/.ssh/asked")
    before = keys.read_bytes()
    run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key)
    keys.write_bytes(before + key.with_suffix(".pub").read_bytes())
    try:
        yield
    finally:
        keys.write_bytes(before)
        key.unlink()
        key.with_suffix(".pub").unlink()


@contextmanager
def docker(tmp_path: Path) -> Iterator[None]:
    """A daemon with an image in which busybox is all there is."""
    busybox = shutil.which("busybox")
    assert busybox
    (tmp_path / "root/bin").mkdir(parents=True)
    shutil.copy(busybox, tmp_path / "root/bin/sleep")
    books = (f"--data-root={tmp_path / 'data'}", f"--exec-root={tmp_path / 'exec'}", "--storage-driver=vfs")
    words = ["dockerd", "--bridge=none", "--iptables=false", "--ip6tables=false", *books]
    with allgone.process_fixture(words, ready=allgone.listening("/var/run/docker.sock"), ready_timeout=PATIENCE * 4):
        run("sh", "-c", f"tar --directory={tmp_path / 'root'} --create . | docker import - asked")
        try:
            yield
        finally:
            run("sh", "-c", "docker rm --force $(docker ps --all --quiet)")


ASKED = {"at": at, "cron": cron, "ssh": ssh, "docker": docker}


@pytest.fixture
def asked(way: str, tmp_path: Path) -> Iterator[None]:
    """Whoever starts it for others, as on a machine where that is in use."""
    with ASKED[way](tmp_path) if way in ASKED else nullcontext():
        yield


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
@pytest.mark.usefixtures("asked")
def test_what_others_may_have_started_is_named_and_left_alone(way: str) -> None:
    script, expected = ASKED_FOR[way]
    code = """
report = process.stop(allgone.StopPolicy(timeout_stop=5))
(alive,) = sleepers()
pidfd = os.pidfd_open(alive)
assert sleepers() == [alive]
signal.pidfd_send_signal(pidfd, signal.SIGKILL)
until(lambda: not sleepers())
for each in json.loads(sys.argv[2]):
    assert any(text.startswith(each) for text in report.may_have_started), (each, report.may_have_started)
"""
    supervised(RUN + code, script, json.dumps(expected), before=SERVICE)
