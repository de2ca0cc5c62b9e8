"""docs/ci/buildkite.md: the bootstrap started as buildkite-agent does it (agent/job_runner.go, internal/process)."""

from __future__ import annotations

import os
import shlex
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.ci import JOB, Run, Site
from support.programs import PATIENCE


@pytest.fixture
def site(tmp_path: Path, cgroup_base: str, port: int) -> Site:
    made = Site(tmp_path, "buildkite.md", port)
    made.place("/job.sh", JOB)
    # The bootstrap, which passes SIGTERM on to the command's process group, and has a hook to run then.
    made.place(
        "/usr/bin/buildkite-agent",
        f"""#!/bin/bash
[ "$1" = bootstrap ] || exit 2
set -m
bash -e {made.root}/job.sh &
trap 'kill -TERM -- -$!' TERM
wait $!
status=$?
trap - TERM
echo "pre-exit hook"
exit $status
""",
    )
    return made


@contextmanager
def job(site: Site) -> Iterator[Run]:
    settings = dict(
        line.split("=", 1) for line in (site.root / "etc/ci/buildkite/buildkite-agent.cfg").read_text().splitlines()
    )
    words = shlex.split(shlex.split(settings["bootstrap-script"])[0])
    with site.start(*words, process_group=0) as run:
        yield run


def test_what_a_job_leaves_behind_is_stopped_and_named(site: Site) -> None:
    with job(site) as run:
        run.wait_for_job()
        run.let_go()
        assert run.process.wait(PATIENCE) == 0
        run.assert_nothing_is_left()
        assert "pre-exit hook" in run.text()
        assert "that the command left behind" in run.text()


def test_a_cancelled_job_runs_its_hooks_and_leaves_nothing(site: Site) -> None:
    with job(site) as run:
        run.wait_for_job()
        os.killpg(run.process.pid, signal.SIGTERM)
        assert run.process.wait(PATIENCE) == 128 + signal.SIGTERM
        run.assert_nothing_is_left()
        assert "pre-exit hook" in run.text()


def test_a_job_that_is_killed_leaves_nothing(site: Site) -> None:
    with job(site) as run:
        run.wait_for_job()
        os.killpg(run.process.pid, signal.SIGKILL)
        run.assert_nothing_is_left(PATIENCE)


def test_the_exit_status_is_that_of_the_job(site: Site) -> None:
    site.place("/job.sh", "exit 5")
    with job(site) as run:
        assert run.process.wait(PATIENCE) == 5
