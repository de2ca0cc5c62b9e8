"""scripts/soak on a machine of its own: with controllers, a systemd and a bus to be restarted, and memory to be used up."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.machine import environment

SCRIPT = str(Path(__file__).parents[3] / "scripts/soak")
MINUTES = float(os.environ.get("ALLGONE_SOAK_MINUTES", "10"))
RESULTS = Path("/var/tmp/test-vm")  # which scripts/test-vm brings out
MEMORY_LEFT = 300  # MB, which the supervisors and what they start take


@pytest.mark.root
@pytest.mark.timeout(MINUTES * 60 + 900)
def test_nothing_survives_and_nothing_leaks(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    if not request.config.getoption("--run-slow"):
        pytest.skip("takes long: --run-slow")
    with open("/proc/meminfo", encoding="ascii") as f:
        available = next(int(line.split()[1]) for line in f if line.startswith("MemAvailable")) >> 10
    log = (RESULTS if RESULTS.is_dir() else tmp_path) / "soak.txt"
    soak = subprocess.run(
        [sys.executable, SCRIPT, "--minutes", str(MINUTES), "--round", "30", "--disturb", "--log", log,
         "--memory", str(max(64, available - MEMORY_LEFT))],
        env=environment(), stdout=subprocess.DEVNULL,
    )  # fmt: skip
    assert soak.returncode == 0, log.read_text()
