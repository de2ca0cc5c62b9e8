"""Fixtures of the tests that take root and a real cgroup v2: what the kernel does, and what allgone makes of it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from support import launchers
from support.cgroupv2 import OWN_CGROUP, Start
from support.launchers import Launcher
from support.programs import PROGRAMS, Started
from support.tiers import missing

import allgone
from allgone import CgroupBackend


@pytest.fixture(autouse=True)
def _root_and_cgroup(cgroup_base: str) -> None:
    if os.geteuid() != 0:
        missing("these tests take root")


@pytest.fixture
def cgroups(cgroup_base: str) -> Iterator[CgroupBackend]:
    """A cgroup backend of the test's own; all that is in its directory is to be gone by the end of the test."""
    backend = CgroupBackend(cgroup_base)
    yield backend
    backend.close()


@pytest.fixture
def start(cgroups: CgroupBackend) -> Iterator[Start]:
    """Starts a Python text and waits until it says that it is ready. There ``from unruly import *`` works, and
    `own_cgroup()` is the directory of its cgroup."""
    with ExitStack() as stack:

        def start_text(text: str, *words: str, **options: object) -> Started:
            environment = {**os.environ, "PYTHONPATH": str(PROGRAMS), "CGROUP2": cgroups._base.mount.point}
            command = [sys.executable, "-S", "-B", "-c", OWN_CGROUP + text, *words]
            options = {"backend": cgroups, "env": environment, **options}
            return stack.enter_context(Started(allgone.Popen, command, **options))

        yield start_text


@pytest.fixture(params=[kind for kind in launchers.KINDS if kind != "aarch64"])
def launcher(request: pytest.FixtureRequest) -> Launcher:
    """Each launcher that is of this machine's own architecture."""
    return launchers.get(request.param, request)
