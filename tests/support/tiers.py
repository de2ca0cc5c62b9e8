"""What to do about a test for which this machine has not what it takes."""

from __future__ import annotations

import os
from typing import NoReturn

import pytest


def missing(reason: str) -> NoReturn:
    """Skip, saying why; or fail, where ALLGONE_REQUIRE_ALL_TIERS=1 says that the machine has everything."""
    if os.environ.get("ALLGONE_REQUIRE_ALL_TIERS") == "1":
        pytest.fail(f"ALLGONE_REQUIRE_ALL_TIERS=1, and {reason}")
    pytest.skip(reason)
