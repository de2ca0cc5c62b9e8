"""The scripts that make guests: what they say, before anything is made."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
BUILD = CHECKOUT / "vagrant/box/build"
TEST_VM = CHECKOUT / "scripts/test-vm"


def said(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*map(str, words)], capture_output=True, text=True, check=False)


def test_the_guests_that_can_be_built_are_those_of_the_documentation() -> None:
    page = (CHECKOUT / "docs/vm.md").read_text(encoding="utf-8")
    assert said(BUILD, "--list").stdout.split() == re.findall(r"^\| `([\w.-]+)` \| [\d.]+", page, re.M)


def test_a_guest_that_there_is_not_is_refused_with_those_that_there_are() -> None:
    done = said(BUILD, "plan9")
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("box/build: no guest plan9. There are: debian-12 ")


def test_help_says_what_the_options_are_and_an_unknown_one_is_refused() -> None:
    assert "--plain-qemu" in said(TEST_VM, "--help").stdout
    assert said(TEST_VM, "--fast").returncode == 2
