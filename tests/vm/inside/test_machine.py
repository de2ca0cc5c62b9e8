"""What this machine is, and that the promise holds on it."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
from support.machine import CGROUPS, SERVICE, environment, supervised, supervisor
from support.programs import PATIENCE

pytestmark = pytest.mark.smoke
# As who runs the tests, who may be logged in by ssh; and as a service.
PLACES = [pytest.param((), id="login"), pytest.param(SERVICE, id="service", marks=pytest.mark.root)]


def test_cgroup_v2_is_all_there_is_and_has_controllers() -> None:
    assert len(Path("/proc/self/cgroup").read_text().splitlines()) == 1
    assert {"cpu", "io", "memory", "pids"} <= set((CGROUPS / "cgroup.controllers").read_text().split())
    assert Path("/proc/1/comm").read_text() == "systemd\n"


@pytest.mark.parametrize("before", PLACES)
def test_a_cgroup_in_a_scope_of_systemds_is_what_one_gets_without_asking(before: Sequence[str]) -> None:
    code = """
        with allgone.Popen(["sleep", "1000"]) as process:
            print(process.backend, process._containment.where())
            assert process.guarantees.escape_proof
            process.stop()
    """
    backend, where = supervised(code, before=before).split()
    assert backend == "cgroup"
    assert ".scope/" in where
    assert where.startswith(str(CGROUPS))


DAEMONS = """
daemon = "setsid sh -c 'trap \\"\\" TERM HUP; sleep 1000 & sleep 1000' & "
process = allgone.Popen(["sh", "-c", daemon * 5 + "sleep 1000"])
until(lambda: len(process.members()) >= 12)
"""


@pytest.mark.parametrize("before", PLACES)
def test_daemons_that_ignore_sigterm_are_gone_after_a_stop(before: Sequence[str]) -> None:
    stop = """
pidfds = held(process)
process.stop(allgone.StopPolicy(timeout_stop=0.2))
all_end(pidfds, 0)
"""
    supervised(DAEMONS + stop, before=before)


@pytest.mark.parametrize("before", PLACES)
def test_a_supervisor_that_is_killed_leaves_nothing(before: Sequence[str]) -> None:
    tells = """
print(json.dumps([os.getpid(), *process.members()]), flush=True)
sys.stdin.read()
"""
    words = supervisor(DAEMONS + tells, before=before)
    with subprocess.Popen(
        words, env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as running:
        assert running.stdout is not None
        pidfds = [os.pidfd_open(each) for each in json.loads(running.stdout.readline())]
        assert len(pidfds) > 10
        signal.pidfd_send_signal(pidfds[0], signal.SIGKILL)
        for each in pidfds:
            assert select.select([each], [], [], PATIENCE)[0]
            os.close(each)


def test_doctor_finds_nothing_amiss() -> None:
    done = subprocess.run(["allgone", "doctor"], env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert '"auto" takes: cgroup' in done.stdout
