"""Two hundred builds of all kinds, four at a time, each ended in one of ten ways. None leaves anything."""

from __future__ import annotations

import sys
import time
from collections import Counter
from itertools import cycle, islice

import pytest
from support.buildbot import CANCELLED, FAILURE, FILES, MASTER, SUCCESS, WORKER, Build, SiteInside, free_port

AT_A_TIME, ROUNDS = 4, 50
PROGRAMS = (
    ("double_fork_daemon",), ("daemon_whose_parent_exits_first",), ("setsid_child",), ("ignores_sigterm",),
    ("leader_exits_first",), ("listens", "--daemon", "tcp", "127.0.0.1", "PORT"), ("forking_server",), ("hopper",),
    ("hopper", "setsid"), ("own_process_group",), ("respawns",), ("wipes_its_traces",), ("zombie_leader",),
    ("stops_itself",), ("fork_bomb",),
)  # fmt: skip
KILL = ("kill", "--kill-whom=main", "--signal=KILL")
# How a job is to be ended: arguments of its step, its result; and what is done to it, by the master or by systemd.
ENDINGS: dict[str, tuple[dict[str, object], int, tuple[str, ...]]] = {
    "ended, all left running": ({}, SUCCESS, ()),
    "failed, all left running": ({}, FAILURE, ()),
    "stopped by somebody": ({}, CANCELLED, ("stop",)),
    "stopped, by SIGKILL at once": ({"sigtermTime": None}, CANCELLED, ("stop",)),
    "silent for too long": ({"timeout": 3}, FAILURE, ()),
    "ran for too long": ({"maxTime": 4}, FAILURE, ()),
    "allgone run --timeout": ({"run_options": ["--timeout", "3s", "--timeout-stop", "1s"]}, FAILURE, ()),
    "worker killed": ({}, SUCCESS, (*KILL, WORKER)),
    "worker restarted": ({}, SUCCESS, ("restart", WORKER)),
    "master killed": ({}, SUCCESS, (*KILL, MASTER)),
}


@pytest.mark.timeout(3600)
def test_none_of_two_hundred_leaves_anything(site: SiteInside) -> None:
    programs, endings = cycle(PROGRAMS), cycle(ENDINGS)
    done: Counter[str] = Counter()
    slowest: Counter[str] = Counter()
    began = time.monotonic()
    for ending in islice(endings, ROUNDS):
        builds = [begun(site, ending, program) for program in islice(programs, AT_A_TIME)]
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
            assert build.result() == result, (ending, build.logs())
        ended = time.monotonic()
        if "at once" not in ending:
            assert site.running() == [], ending
        site.is_clean()
        slowest[ending] = max(slowest[ending], round(1000 * (time.monotonic() - ended)))
        done[ending] += len(builds)
    assert sum(done.values()) == 200
    print(f"\n{sum(done.values())} jobs in {time.monotonic() - began:.0f} s, none left anything:")
    for ending, jobs in done.items():
        print(f"  {jobs} {ending}; nothing to be seen {slowest[ending]} ms after the build's end at the latest")


def begun(site: SiteInside, ending: str, program: tuple[str, ...]) -> Build:
    given, _, _ = ENDINGS[ending]
    words = [str(free_port()) if word == "PORT" else word for word in program]
    then = {"ended, all left running": "0", "failed, all left running": "3"}.get(ending, "stay")
    job = {"run_options": ["--timeout-stop", "1s"], **given}
    return site.force([sys.executable, str(FILES / "job.py"), then, *words], **job)
