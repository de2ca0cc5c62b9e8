"""Two hundred builds, four at a time: fifteen unruly programs, each ended in ten ways. None leaves anything."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from itertools import cycle, islice

import pytest
from support.buildbot import CANCELLED, FAILURE, FILES, MASTER, SUCCESS, WORKER, Build, SiteInside

JOBS, AT_A_TIME = 20, 4  # of each ending
PROGRAMS = (
    ("double_fork_daemon",), ("daemon_whose_parent_exits_first",), ("setsid_child",), ("ignores_sigterm",),
    ("leader_exits_first",), ("listens", "--daemon", "tcp", "127.0.0.1", "PORT"), ("forking_server",), ("hopper",),
    ("hopper", "setsid"), ("own_process_group",), ("respawns",), ("wipes_its_traces",), ("zombie_leader",),
    ("stops_itself",), ("fork_bomb",),
)  # fmt: skip
KILL = ("kill", "--kill-whom=main", "--signal=KILL")
# Arguments of the step, the build's result; what is done to it when it is ready: by the master, or by systemctl.
ENDINGS: dict[str, tuple[dict[str, object], int, tuple[str, ...]]] = {
    "ended": ({}, SUCCESS, ()),
    "failed": ({}, FAILURE, ()),
    "stopped": ({}, CANCELLED, ("stop",)),
    "stopped-by-sigkill": ({"sigtermTime": None}, CANCELLED, ("stop",)),
    "silent-for-too-long": ({"timeout": 3}, FAILURE, ()),
    "too-long": ({"maxTime": 4}, FAILURE, ()),
    "time-limit-of-allgone": ({"run_options": ["--timeout", "3s", "--timeout-stop", "1s"]}, FAILURE, ()),
    "worker-killed": ({}, SUCCESS, (*KILL, WORKER)),
    "worker-restarted": ({}, SUCCESS, ("restart", WORKER)),
    "master-killed": ({}, SUCCESS, (*KILL, MASTER)),
}
NAMED = ("ended", "failed", "time-limit-of-allgone")  # whatever the program: all that it is made of


@pytest.mark.timeout(900)
@pytest.mark.parametrize("ending", ENDINGS)
def test_none_of_two_hundred_leaves_anything(site: SiteInside, ending: str, free_port: Callable[[], int]) -> None:
    programs, done, slowest = cycle(PROGRAMS), 0, 0.0
    while done < JOBS:
        builds = [begun(site, ending, program, free_port) for program in islice(programs, AT_A_TIME)]
        ended(site, ending, builds)
        at = time.monotonic()
        if ending != "stopped-by-sigkill":
            assert site.running() == []
        site.is_clean()
        slowest = max(slowest, time.monotonic() - at)
        done += len(builds)
    print(f"{ending}: {done} builds left nothing; the last trace was gone {slowest:.2f} s after the end at the latest")


def begun(site: SiteInside, ending: str, program: tuple[str, ...], free_port: Callable[[], int]) -> Build:
    given, _, _ = ENDINGS[ending]
    words = [str(free_port()) if word == "PORT" else word for word in program]
    then = {"ended": "0", "failed": "3"}.get(ending, "stay")
    job = {"run_options": ["--timeout-stop", "1s"], **given}
    return site.force([sys.executable, str(FILES / "job.py"), then, *words], **job)


def ended(site: SiteInside, ending: str, builds: list[Build]) -> None:
    _, result, action = ENDINGS[ending]
    if action:
        for build in builds:
            build.is_ready()
    if action == ("stop",):
        for build in builds:
            build.stop()
    elif action:
        site.inside.systemctl(*action)
    for build in builds:
        assert build.result() == result, build.logs()
        assert ending not in NAMED or "eallgone: " in build.log(), build.logs()
