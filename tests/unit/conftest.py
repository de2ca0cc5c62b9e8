"""Fixtures of the tests that need no privileges."""

from __future__ import annotations

import pytest
from support import launchers
from support.launchers import Launcher


@pytest.fixture(params=launchers.KINDS)
def launcher(request: pytest.FixtureRequest) -> Launcher:
    """Each launcher in turn."""
    return launchers.get(request.param, request)


@pytest.fixture(params=[kind for kind in launchers.KINDS if kind != "aarch64"])
def native_launcher(request: pytest.FixtureRequest) -> Launcher:
    """Each launcher but the emulated one, for what qemu itself changes on the way (ignored signals, doubles)."""
    return launchers.get(request.param, request)
