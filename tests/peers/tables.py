"""What is printed when all tests have run; a module of its own, for pytest imports conftest.py by another name."""

from __future__ import annotations

import pytest

TABLE = pytest.StashKey[list[tuple[str, ...]]]()
