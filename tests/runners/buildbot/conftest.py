"""A Buildbot of PyPI's, under a real systemd, for all tests here."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

import pytest
from support import buildbot
from support.buildbot import WORKER, SiteInside
from support.systemd_env import CHECKOUT, Environment
from support.tiers import missing

import allgone


@pytest.fixture(scope="session")
def site(request: pytest.FixtureRequest) -> Iterator[SiteInside]:
    """Master and worker, both up."""
    if not request.config.getoption("--run-slow"):
        pytest.skip("takes long: --run-slow")
    if os.getuid() != 0:
        missing("an environment with systemd needs root")
    buildbot.install()
    bound = {str(CHECKOUT), *(each for each in (sys.prefix, sys.base_prefix) if not each.startswith("/usr"))}
    try:
        inside = Environment.up(
            f"test-{os.getpid()}-buildbot",
            *(word for each in sorted(bound) for word in ("--bind-ro", each)),
            variables={"PYTHONDONTWRITEBYTECODE": "1"},
        )
    except RuntimeError as e:
        missing(f"no systemd could be booted: {e}")
    try:
        with allgone.reserved_port() as worker_port, allgone.reserved_port() as www_port:
            made = SiteInside(inside, worker_port, www_port)
            made.set_up()
            yield made
    finally:
        inside.down()


@pytest.fixture
def undelegated(site: SiteInside) -> Iterator[SiteInside]:
    """The worker's service without Delegate=yes, for a while."""
    site.sh(f"systemctl stop {WORKER}; mkdir -p /run/systemd/system/{WORKER}.d")
    site.sh(f"printf '[Service]\\nDelegate=no\\n' >/run/systemd/system/{WORKER}.d/no.conf; systemctl daemon-reload")
    site.start()
    yield site
    site.sh(f"systemctl stop {WORKER}; rm -r /run/systemd/system/{WORKER}.d; systemctl daemon-reload")
    site.start()


@pytest.fixture(autouse=True)
def _leaks_nothing(site: SiteInside) -> Iterator[None]:
    """In place of the check for all other tests: what is to be looked at runs inside, and is the worker's."""
    yield
    site.is_clean()
