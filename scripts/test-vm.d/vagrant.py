"""A guest by Vagrant, libvirt and QEMU; where this machine has no systemd, in a systemd environment."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import qemu
from guest import Guest, NotUp, say

NEEDS = [("vagrant", "vagrant"), ("virsh", "libvirt-clients"), ("libvirtd", "libvirt-daemon-system"),
         ("dnsmasq", "dnsmasq-base"), ("rsync", "rsync")]  # fmt: skip
_UP_WITHIN = 600.0  # seconds
_FOR_LIBVIRT = "mkdir -p /dev/net; [ -e /dev/net/tun ] || mknod /dev/net/tun c 10 200; systemctl start libvirtd"


def missing() -> list[str]:
    """Packages, besides those of NEEDS. Debian's plugins are no files on a path."""
    command = ["vagrant", "plugin", "list"]
    has_vagrant = shutil.which("vagrant") is not None
    listed = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout if has_vagrant else ""
    return [] if "vagrant-libvirt" in listed else ["vagrant-libvirt"]


@contextmanager
def up(top: Path, box: Path, results: Path, took: dict[str, float]) -> Iterator[Guest]:
    began = time.monotonic()
    driver = "kvm" if qemu.hardware_runs(box) else "qemu"
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="test-vm-", dir="/var/tmp")))
        folder.chmod(0o711)  # libvirt's QEMU is another user
        before = [] if os.path.isdir("/run/systemd/system") else stack.enter_context(_environment(top, folder))
        console = folder / "console.log"
        stack.callback(_keep, console, results)
        env = {"ALLGONE_BOX_DIR": str(box), "ALLGONE_DRIVER": driver, "ALLGONE_CONSOLE": str(console),
               "VAGRANT_CWD": str(top / "vagrant"), "VAGRANT_DOTFILE_PATH": str(folder / "dotfile"),
               "VAGRANT_HOME": str(folder / "home"), "VAGRANT_CHECKPOINT_DISABLE": "1", "HOME": "/root"}  # fmt: skip
        run = [*before, "env", *(f"{name}={value}" for name, value in env.items())]
        say(f"vagrant up, {driver}")
        stack.callback(
            subprocess.run, [*run, "vagrant", "destroy", "-f"], stdin=subprocess.DEVNULL, start_new_session=True
        )
        done = subprocess.run(
            [*run, "vagrant", "up", "--provider=libvirt"], stdin=subprocess.DEVNULL, timeout=_UP_WITHIN
        )
        if done.returncode != 0:
            raise NotUp(f"vagrant up ended with {done.returncode}")
        took["vagrant up"] = time.monotonic() - began
        yield _entered(run, before, box, console)


def _entered(run: list[str], before: list[str], box: Path, console: Path) -> Guest:
    listed = subprocess.run(
        [*run, "vagrant", "ssh-config"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, check=True
    )
    words = dict(line.split(None, 1) for line in listed.stdout.splitlines() if line.strip())
    on = [*run, "vagrant", "up", "--no-provision"]
    return Guest(words["HostName"], int(words["Port"]), box / "id_rsa", console, before, on)


def _keep(console: Path, results: Path) -> None:
    if console.exists():
        shutil.copy(console, results)


@contextmanager
def _environment(top: Path, folder: Path) -> Iterator[list[str]]:
    """A systemd of its own with a network of its own, and libvirtd in it. What a killed run left is removed first."""
    tool = str(top / "scripts/systemd-env")
    _remove_stale(tool)
    name = f"guests-{os.getpid()}"  # of this run
    with open(f"/run/{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            subprocess.run([tool, "up", name, "--private-network", "--bind", folder], check=True)
            try:
                subprocess.run([tool, "run", name, "--", "sh", "-euc", _FOR_LIBVIRT], check=True)
                yield [tool, "sh", name, "--"]
            finally:
                subprocess.run([tool, "down", name], check=True, start_new_session=True)
        finally:
            Path(lock.name).unlink(missing_ok=True)


def _remove_stale(tool: str) -> None:
    for path in Path("/run").glob("guests-*.lock"):
        try:
            lock = path.open()
        except FileNotFoundError:
            continue  # has just ended
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue  # that one runs
            subprocess.run([tool, "down", path.stem], check=False)
            path.unlink(missing_ok=True)
