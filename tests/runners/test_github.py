"""docs/ci/github-actions.md: hooks and an ephemeral runner, called as GitHub's runner does it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import procfs
from support.ci import JOB, Run, Site
from support.programs import PATIENCE

RUNNER = Path(__file__).with_name("github.py")


@pytest.fixture
def site(tmp_path: Path, cgroup_base: str, port: int) -> Site:
    made = Site(tmp_path, "github-actions.md", port)
    made.place("/job.sh", JOB)
    made.place("/var/lib/ci/github/run.sh", f'#!/bin/sh\necho "run.sh $*"\nexec {sys.executable} {RUNNER}\n')
    made.place("/run/ci/github/jitconfig", "once")
    return made


@pytest.fixture
def runner(site: Site) -> Iterator[Run]:
    """A runner that stays, with the hooks; its job has started."""
    unit = (site.root / "etc/systemd/system/ci-runner@github.service.d/hooks.conf").read_text()
    site.environment |= dict(line.split("=")[1:] for line in unit.splitlines() if line.startswith("Environment="))
    with site.start(sys.executable, str(RUNNER)) as running:
        running.say(str(site.root / "job.sh"))
        running.wait_for_job()
        yield running


def jobs(site: Site) -> list[dict[str, Any]]:
    """Those that `allgone ps` knows, of this test."""
    done = subprocess.run(["allgone", "ps", "--json"], env=site.environment, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    return [each for each in found if each["where"].startswith(site.environment["ALLGONE_CGROUP"])]


def cgroup_of_worker(running: Run) -> str:
    return procfs.cgroup(int(Path(f"/proc/{running.process.pid}/task/{running.process.pid}/children").read_text()))


def test_hooks_end_what_the_job_has_left_behind_and_say_so(site: Site, runner: Run) -> None:
    [job] = jobs(site)
    assert (job["name"], job["state"], job["backend"]) == ("run-42", "live", "cgroup")
    assert {held.pid for held in runner.job.values()} < {each["pid"] for each in job["members"]}
    assert cgroup_of_worker(runner).endswith("/run-42")
    runner.let_go()
    assert runner.lines.wait_for("job", "succeeded")
    runner.assert_nothing_is_left()
    assert jobs(site) == []
    said = runner.lines.wait_for("::warning", "title=allgone::stopped")
    for held in runner.job.values():
        assert f"%0A  pid {held.pid}" in said
    assert f"pid {runner.job['child'].pid} (had to be killed): " in said
    assert "ignores_sigterm.py" in said
    assert not [line for line in runner.lines.read if line.startswith("Terminate orphan")]


def test_without_hooks_the_runner_leaves_what_has_no_environment(site: Site) -> None:
    with site.start(sys.executable, str(RUNNER)) as running:
        running.say(str(site.root / "job.sh"))
        running.wait_for_job()
        running.let_go()
        assert running.lines.wait_for("job", "succeeded")
        assert running.job["bare"].is_alive()


def test_a_cancelled_job_leaves_nothing(site: Site, runner: Run) -> None:
    runner.say("cancel")
    assert runner.lines.wait_for("job", "failed")
    runner.assert_nothing_is_left()
    assert jobs(site) == []


def test_when_the_worker_is_killed_the_guard_ends_its_job(site: Site, runner: Run) -> None:
    runner.say("kill")
    assert runner.lines.wait_for("job", "failed")
    runner.assert_nothing_is_left(PATIENCE)


def test_when_the_runner_is_killed_its_job_ends(site: Site, runner: Run) -> None:
    runner.process.kill()
    runner.assert_nothing_is_left(PATIENCE)


def test_one_job_after_the_other(site: Site, runner: Run) -> None:
    runner.let_go()
    assert runner.lines.wait_for("job", "succeeded")
    runner.lines.read.clear()
    site.place("/next.sh", 'cat /proc/self/cgroup; echo "mine $$"')
    runner.say(str(site.root / "next.sh"))
    assert runner.lines.wait_for("job", "succeeded")
    assert any(line.startswith("0::") and line.endswith("/run-42") for line in runner.lines.read)
    assert any("nothing was left in it" in line for line in runner.lines.read)
    assert jobs(site) == []


def test_where_there_can_be_no_cgroup_the_job_does_not_run(site: Site, tmp_path: Path) -> None:
    site.environment |= {
        "ALLGONE_CGROUP": str(tmp_path),
        "ACTIONS_RUNNER_HOOK_JOB_STARTED": str(site.root / "etc/ci/github/job-started.sh"),
    }
    with site.start(sys.executable, str(RUNNER)) as running:
        running.say(str(site.root / "job.sh"))
        assert running.lines.wait_for("job", "failed")
        assert not any(line.startswith("started all") for line in running.lines.read)
        assert any("not in a cgroup2 file system" in line for line in running.lines.read)


def test_an_ephemeral_runner_ends_with_all_of_its_job(site: Site) -> None:
    with site.start(str(site.root / "etc/ci/github/start"), cwd=site.root / "var/lib/ci/github") as running:
        assert running.lines.wait_for("run.sh", "--jitconfig", "once")
        running.say(str(site.root / "job.sh"))
        running.wait_for_job()
        running.let_go()
        assert running.lines.wait_for("job", "succeeded")
        assert running.ended() == 0
        running.assert_nothing_is_left()
        assert "that the command left behind" in running.text()


def test_an_ephemeral_runner_that_is_killed_leaves_nothing(site: Site) -> None:
    with site.start(str(site.root / "etc/ci/github/start"), cwd=site.root / "var/lib/ci/github") as running:
        running.say(str(site.root / "job.sh"))
        running.wait_for_job()
        running.process.kill()
        running.assert_nothing_is_left(PATIENCE)
