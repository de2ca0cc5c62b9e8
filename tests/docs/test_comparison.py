"""docs/comparison.md says what scripts/compare finds: of what leaves nothing each time, of all with --run-slow."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from support.tiers import missing

from docs import pages

PAGE = pages.ROOT / "docs" / "comparison.md"
CI = ("--only", "allgone: the same, `sweep", "--only", 'allgone: `backend="cgroup"`')
MILLISECONDS = 3  # the column that differs each time


def table(text: str) -> dict[str, list[str]]:
    """Its rows by what is in their first cell, without the time it took."""
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    rows = [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in lines]
    return {row[0]: row[1:MILLISECONDS] + row[MILLISECONDS + 1 :] for row in rows[2:]}


@pytest.fixture
def everything(request: pytest.FixtureRequest) -> bool:
    return bool(request.config.getoption("--run-slow"))


@pytest.mark.timeout(600)
def test_the_page_says_what_is_found(everything: bool, cgroup_base: str) -> None:
    if os.geteuid() != 0:
        missing("not root")
    # Who leaves something is waited for all that time.
    options = ["--settle", "5"] if everything else ["--settle", "60", *CI]
    done = subprocess.run(
        [sys.executable, pages.ROOT / "scripts" / "compare.py", "--markdown", "--rounds", "1", *options],
        stdout=subprocess.PIPE, text=True, check=True, timeout=600,
    )  # fmt: skip
    shown, found = table(pages.sections(PAGE)["As root"]), table(done.stdout)
    assert len(found) >= (9 if everything else 2)
    assert found == {way: shown[way] for way in found}


def test_both_tables_have_the_same_ways() -> None:
    root, user = (table(pages.sections(PAGE)[heading]) for heading in ("As root", "As an ordinary user"))
    assert root.keys() == user.keys()
    assert len(root) == 10
