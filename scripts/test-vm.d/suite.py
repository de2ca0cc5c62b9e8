"""What is run in a guest, as whom, and what is brought out."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from argparse import Namespace
from pathlib import Path
from time import monotonic

from guest import Guest, NotProvisioned, say

WHO = ("root", "user", "linger", "outside")
# What only a machine of one's own shows, and what survives for nobody else.
_SUITE = ["tests/vm/inside", "tests/contract/test_unruly_programs.py"]
_WHOLE = {"root": ["tests/vm/inside", "tests/contract", "tests/cli", "tests/kernel", "tests/daemons"],
          "user": ["tests/vm/inside", "tests/contract", "tests/cli"]}  # fmt: skip
_SMOKE = ["tests/vm/inside", "-m", "smoke"]
# A guest that is emulated boots in half a minute, and is as slow in all else.
_PYTEST = ["-m", "pytest", "-q", "-ra", "-o", "faulthandler_timeout=0"]
_SECONDS = "900"  # that a test may take
_PASSED_ON = ("ALLGONE_SOAK_MINUTES",)  # variables, into the guest
_OUT = "/var/tmp/test-vm"  # in the guest, where results are put


def run(guest: Guest, top: Path, results: Path, asked: Namespace, took: dict[str, float]) -> int:
    """Returns pytest's exit status; of several runs the first that is not 0."""
    whoms = asked.who or (WHO[:1] if asked.smoke else WHO[:3] if asked.tests else WHO)
    statuses = []
    try:
        for who in whoms:
            say(f"tests, {_AS[who]}")
            began = monotonic()
            if who == "outside":
                statuses.append(_outside(guest, top, results))
            else:
                default = _WHOLE["root" if who == "root" else "user"] if asked.whole else _SUITE
                statuses.append(_inside(guest, who, asked.tests or (_SMOKE if asked.smoke else default)))
            took[who] = monotonic() - began
    finally:
        bring_out(guest, results)
    return next(filter(None, statuses), 0)


_AS = {
    "root": "as root",
    "user": "as an ordinary user, logged in by ssh",
    "linger": "as an ordinary user who lingers",
    "outside": "from outside",
}


def provision(guest: Guest, top: Path, took: dict[str, float]) -> None:
    """Send the working tree, committed or not, and install it, as Vagrant does with vagrant/Vagrantfile."""
    began = monotonic()
    listed = subprocess.run(
        ["git", "ls-files", "-z", "-co", "--exclude-standard"], cwd=top, stdout=subprocess.PIPE, check=True
    )
    names = [name for name in listed.stdout.split(b"\0") if name and os.path.lexists(os.fsencode(top) + b"/" + name)]
    tree = subprocess.run(
        ["tar", "--null", "-T", "-", "-cf", "-"], cwd=top, input=b"\0".join(names), stdout=subprocess.PIPE, check=True
    ).stdout
    command = "mkdir -p /allgone && tar -xf - -C /allgone --no-same-owner && /allgone/vagrant/provision"
    if guest.run(command, input=tree).returncode != 0:
        raise NotProvisioned("vagrant/provision failed")
    took["provision"] = monotonic() - began


def _inside(guest: Guest, who: str, tests: list[str]) -> int:
    verb = "enable" if who == "linger" else "disable"
    guest.run(f"loginctl {verb}-linger vagrant; mkdir -p -m 1777 {_OUT}", check=True)
    words = ["/opt/allgone/bin/python", *_PYTEST, f"--junitxml={_OUT}/{who}.xml", *tests]
    # A login session's processes can't make cgroups where they are: the tests have theirs in a scope, as its users do.
    scope = "" if who == "root" else "ALLGONE_TEST_SCOPE=1 "
    told = "".join(f"{name}={shlex.quote(os.environ[name])} " for name in _PASSED_ON if name in os.environ)
    command = f"cd /allgone && ALLGONE_REAL_MACHINE=1 PYTEST_TIMEOUT={_SECONDS} {told}{scope}{shlex.join(words)}"
    return guest.run(command, user="root" if who == "root" else "vagrant", timeout=4 * 3600).returncode


def _outside(guest: Guest, top: Path, results: Path) -> int:
    told = {
        "root": guest.shell("root"),
        "user": guest.shell("vagrant"),
        "console": str(guest.console),
        "on": list(guest.on),
    }
    return subprocess.run(
        [_python(top), *_PYTEST, f"--junitxml={results}/outside.xml", "tests/vm/outside"],
        cwd=top, env={**os.environ, "ALLGONE_VM": json.dumps(told), "PYTEST_TIMEOUT": _SECONDS},
    ).returncode  # fmt: skip


def _python(top: Path) -> Path:
    """That of the checkout's own environment, which scripts/test makes as well."""
    subprocess.run(["bash", "-euc", ". scripts/common.sh; venv '[test]'"], cwd=top, check=True)
    return top / ".venv/bin/python"


def bring_out(guest: Guest, results: Path) -> None:
    """junit files, the journal, and what the kernel said."""
    collect = (
        f"mkdir -p {_OUT} && cd {_OUT} || exit; journalctl --no-pager -o short-precise >journal.txt; dmesg >dmesg.txt; "
        "tar -cf - ."
    )
    try:
        archive = guest.run(collect, timeout=120, stdout=subprocess.PIPE).stdout
        if archive:
            subprocess.run(["tar", "-xf", "-", "-C", results], input=archive, check=True)
    except (OSError, subprocess.SubprocessError) as e:  # the tests' own status counts
        print(f"test-vm: nothing brought out: {e}", file=sys.stderr)
