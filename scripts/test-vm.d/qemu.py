"""A guest by QEMU alone."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import suite
from guest import Guest, NotUp, say

NEEDS: list[tuple[str, str]] = []
_UP_WITHIN = 240.0  # seconds: one boot takes 6 to 20 without hardware virtualisation, on an idle machine
_LINUX_RUNS_WITHIN = 8.0  # seconds, with hardware virtualisation: less than one
_COMMAND_LINE = (
    "console=ttyS0 quiet loglevel=3 mitigations=off random.trust_cpu=on no_timer_check audit=0 systemd.show_status=0 "
    "net.ifnames=0 panic=-1"
)
HARDWARE = ["-accel", "kvm", "-cpu", "host"]
SOFTWARE = ["-accel", "tcg,thread=multi,tb-size=512", "-cpu", "max"]


def missing() -> list[str]:
    """Packages, besides those of NEEDS."""
    return []


@contextmanager
def up(top: Path, box: Path, results: Path, took: dict[str, float]) -> Iterator[Guest]:
    began = time.monotonic()
    accelerated = hardware_runs(box)
    with tempfile.TemporaryDirectory(prefix="test-vm-", dir="/var/tmp") as name:
        folder, console = Path(name), results / "console.log"
        disk = folder / "disk.img"
        subprocess.run(
            ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", box / "box.img", disk], check=True
        )
        say(f"boot {box.name} by QEMU, {'accelerated' if accelerated else 'emulated: /dev/kvm is of no use here'}")
        control = folder / "control"
        machine = subprocess.Popen(
            [*_command(box, HARDWARE if accelerated else SOFTWARE, console),
             "-drive", f"file={disk},format=qcow2,if=none,id=disk,cache=unsafe", "-device", "virtio-blk-pci,drive=disk",
             "-netdev", "user,id=net,hostfwd=tcp:127.0.0.1:0-:22", "-device", "virtio-net-pci,netdev=net,romfile=",
             "-qmp", f"unix:{control},server=on,wait=off", "-action", "shutdown=pause"],
            stdin=subprocess.DEVNULL, start_new_session=True,  # a Ctrl-C is for us
        )  # fmt: skip
        try:
            wait_for_console(console, "BOX IS UP", _UP_WITHIN, machine)
            took["boot"] = time.monotonic() - began
            on = [sys.executable, __file__, str(control)]
            guest = Guest("127.0.0.1", _forwarded(control), box / "id_rsa", console, on=on)
            suite.provision(guest, top, took)
            yield guest
        finally:
            machine.kill()
            machine.wait()


def hardware_runs(box: Path) -> bool:
    """Whether Linux runs with hardware virtualisation here; some machines have a /dev/kvm, and it does not."""
    with tempfile.TemporaryDirectory(prefix="test-vm-") as folder:
        console = Path(folder) / "console"
        try:
            command = _command(box, HARDWARE, console)
            machine = subprocess.Popen([*command, "-no-reboot"], stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        except OSError:
            return False
        try:
            wait_for_console(console, "box: Linux runs", _LINUX_RUNS_WITHIN, machine)
        except NotUp:
            return False
        finally:
            machine.kill()
            machine.wait()
    return True


def wait_for_console(console: Path, words: str, within: float, machine: subprocess.Popen | None = None) -> None:
    """Until the guest has said that. A console is a file, which has no event for it. Raises NotUp."""
    until = time.monotonic() + within
    while True:
        has_ended = machine is not None and machine.poll() is not None
        said = console.read_text(errors="replace") if console.exists() else ""
        if words in said:
            return
        if has_ended or time.monotonic() > until:
            what = f"QEMU ended with {machine.returncode}" if machine and has_ended else f"not up within {within:.0f} s"
            raise NotUp(f"{what}. The end of its console, {console}:\n{said[-2000:]}")
        time.sleep(0.05)


def _command(box: Path, how: list[str], console: Path) -> list[str]:
    # It dies with us, whatever we die of.
    return ["setpriv", "--pdeathsig", "KILL", "qemu-system-x86_64", *how, "-machine", "q35", "-smp", "2", "-m", "2048",
            "-nodefaults", "-no-user-config", "-display", "none", "-device", "virtio-rng-pci",
            "-serial", f"file:{console}",
            "-kernel", str(box / "vmlinuz"), "-initrd", str(box / "initrd"), "-append", _COMMAND_LINE]  # fmt: skip


class Control:
    """QEMU's control socket (QMP)."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(30)
        self._socket.connect(str(path))
        self._lines = self._socket.makefile("rw")
        self._lines.readline()  # its greeting
        self.ask("qmp_capabilities")

    def ask(self, command: str, **arguments: object) -> object:
        self._lines.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
        self._lines.flush()
        while True:  # events come in between
            answer: Mapping[str, object] = json.loads(self._lines.readline())
            if "error" in answer:
                raise NotUp(f"QEMU refused {command}: {answer['error']}")
            if "return" in answer:
                return answer["return"]


def _forwarded(control: Path) -> int:
    """The port that QEMU took for the guest's 22."""
    text = str(Control(control).ask("human-monitor-command", **{"command-line": "info usernet"}))
    found = re.search(r"TCP\[HOST_FORWARD\]\s+\d+\s+127\.0\.0\.1\s+(\d+)", text)
    if found is None:
        raise NotUp(f"QEMU forwards no port: {text}")
    return int(found[1])


if __name__ == "__main__":  # switch on one that has switched itself off
    machine = Control(Path(sys.argv[1]))
    machine.ask("system_reset")
    machine.ask("cont")
