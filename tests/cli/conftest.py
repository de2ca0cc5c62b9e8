"""Fixtures for the command's tests."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest
from support.tiers import missing

from cli.command import Allgone
from cli.screen import Pty, Tmux


@pytest.fixture(params=["cgroup", "process-group"])
def allgone(request: pytest.FixtureRequest) -> Allgone:
    """`allgone run` with each backend in turn."""
    if request.param == "cgroup":
        request.getfixturevalue("cgroup_base")
    return Allgone(request.param)


@pytest.fixture
def terminal() -> Iterator[Pty]:
    """A pseudo-terminal with an interactive bash, at its prompt."""
    if shutil.which("setsid") is None or shutil.which("bash") is None:
        missing("bash or setsid(1) is not installed")
    with Pty() as pty:
        yield pty


@pytest.fixture
def tmux() -> Iterator[Tmux]:
    """A window of a tmux server of our own with an interactive bash, at its prompt."""
    if shutil.which("tmux") is None:
        missing("tmux is not installed")
    with Tmux() as server:
        yield server
