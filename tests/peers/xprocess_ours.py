"""A pytest plugin for pytest-xprocess's own suite: its starter is ours, also in the pytest that a test starts."""

from __future__ import annotations

import os

import pytest
import xprocess

from allgone.contrib.xprocess import ProcessStarter


def pytest_configure(config: pytest.Config) -> None:
    xprocess.ProcessStarter = ProcessStarter
    os.environ["PYTEST_ADDOPTS"] = "-p peers.xprocess_ours"
