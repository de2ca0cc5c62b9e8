"""What tests of a release share."""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MACHINES = {"x86_64": 62, "aarch64": 183, "riscv64": 243}  # e_machine, elf.h


def clean_environment() -> dict[str, str]:
    """For another Python: nothing that points to this one, and what it has not may be left out there."""
    unwanted = ("PYTHON", "VIRTUAL_ENV", "PIP_REQUIRE", "ALLGONE_REQUIRE_ALL_TIERS", "ALLGONE_TEST_SCOPE", "PYTEST_")
    return {name: value for name, value in os.environ.items() if not name.startswith(unwanted)}
