"""The worker is killed or restarted, the master goes away: what the builds have started is gone all the same."""

from __future__ import annotations

import sys

import pytest
from support.buildbot import FILES, HOME, MASTER, SUCCESS, WORKER, SiteInside

JOB = [sys.executable, str(FILES / "job.py")]
SHORT = ["--timeout-stop", "1s"]
PROGRAMS = ("ignores_sigterm", "double_fork_daemon", "hopper", "respawns")
OUTAGES = {
    "worker-killed": ("kill", "--kill-whom=main", "--signal=KILL", WORKER),
    "worker-killed-with-its-jobs": ("kill", "--signal=KILL", WORKER),
    "worker-restarted": ("restart", WORKER),
    "master-killed": ("kill", "--signal=KILL", MASTER),
}


@pytest.mark.parametrize("outage", OUTAGES)
def test_what_was_lost_is_gone_and_done_again(site: SiteInside, outage: str) -> None:
    builds = [site.force([*JOB, "stay", program], run_options=SHORT) for program in PROGRAMS]
    for build in builds:
        build.is_ready()
    assert len(site.running()) > len(builds)
    site.inside.systemctl(*OUTAGES[outage])
    assert [build.result() for build in builds] == [SUCCESS] * len(builds)
    assert {len(build.tries()) for build in builds} == {2}
    assert all("odone before" in build.log() for build in builds)
    site.is_clean()


@pytest.mark.parametrize(
    ("unit", "gone_at_once"), [(WORKER, True), (MASTER, False)], ids=["worker-stopped", "master-stopped"]
)
def test_nothing_runs_on_while_one_of_both_is_away(site: SiteInside, unit: str, gone_at_once: bool) -> None:
    builds = [site.force([*JOB, "stay", program], run_options=SHORT) for program in PROGRAMS]
    for build in builds:
        build.is_ready()
    site.inside.systemctl("stop", unit)
    if gone_at_once:
        assert site.leftovers() == []
    else:
        site.is_clean()
    site.start()
    for build in builds:
        build.result()


def test_a_worker_starts_although_a_killed_one_has_left_its_number(site: SiteInside) -> None:
    site.inside.systemctl("stop", WORKER)
    site.sh(f"echo 1 >{HOME}/worker/twistd.pid")
    site.start()
    assert site.force(["true"]).result() == SUCCESS
