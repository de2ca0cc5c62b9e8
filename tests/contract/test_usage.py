"""usage(): what all of it has used, live and at the end; exact in a cgroup, approximate with process-group."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support import procfs
from support.backends import BackendUnderTest
from support.tiers import missing

import allgone

BURNS = "import time; end = time.process_time() + 0.3\nwhile time.process_time() < end: pass\n"
WAITS = "import os, time; os.write(1, b'ready\\n'); time.sleep(100)"
AT_ONCE = allgone.StopPolicy(timeout_stop=0)


def python(code: str) -> list[str]:
    return [sys.executable, "-S", "-c", code]


def spent(usage: Any) -> float:
    return usage.cpu_user + usage.cpu_system


def ready(process: Any) -> None:
    assert process.stdout.readline() == b"ready\n"


def test_live_it_has_what_was_burnt_until_now_and_the_final_one_no_less(backend: BackendUnderTest) -> None:
    with backend.Popen(python(BURNS + WAITS), stdout=subprocess.PIPE) as process:
        ready(process)
        live = process.usage()
        report = process.stop(AT_ONCE)
    assert 0.28 <= spent(live) <= spent(report.usage) + 0.02  # of process-group it is told in hundredths
    assert process.usage() == report.usage
    assert live.approximate == report.usage.approximate == (backend.name == "process-group")


def test_those_that_have_ended_are_in_it_once_they_were_waited_for(backend: BackendUnderTest) -> None:
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-S', '-c', {BURNS!r}])\n"
    with backend.Popen(python(code + WAITS), stdout=subprocess.PIPE) as process:
        ready(process)
        assert spent(process.usage()) >= 0.28
        report = process.stop(AT_ONCE)
    assert spent(report.usage) >= 0.28


def test_it_is_known_when_the_leader_has_ended_by_itself(backend: BackendUnderTest) -> None:
    done = backend.run(python(BURNS))
    assert spent(done.report.usage) >= 0.28


def test_what_an_orphan_used_is_known_where_it_is_reaped_by_us(backend: BackendUnderTest) -> None:
    code = f"import os\nif os.fork():\n    os.wait()\n    {WAITS}\nif os.fork(): os._exit(0)\n{BURNS}\nos.write(1, b'burnt\\n')\n"
    with backend.Popen(python(code), stdout=subprocess.PIPE) as process:
        lines = [process.stdout.readline() for _ in range(2)]
        assert sorted(lines) == [b"burnt\n", b"ready\n"]
        while len(process.members()) > 1:
            pass  # until the orphan has ended: with sweep this is what reaps it
        report = process.stop(AT_ONCE)
    if backend.ends_daemons:  # else init reaps it, and only that one knows
        assert spent(report.usage) >= 0.28


def test_a_groups_is_that_of_all(backend: BackendUnderTest) -> None:
    with backend.group() as group:
        one = group.Popen(python(BURNS))
        assert one.wait() == 0
        two = group.Popen(python(BURNS + WAITS), stdout=subprocess.PIPE)
        ready(two)
        assert spent(group.usage()) >= 0.56
        assert spent(one.usage()) >= 0.28
        assert 0.28 <= spent(two.usage()) < spent(group.usage())
        report = group.stop(AT_ONCE)
    assert spent(report.usage) >= 0.56


def test_an_empty_group_has_used_nothing(backend: BackendUnderTest) -> None:
    with backend.group() as group:
        assert spent(group.usage()) == 0


def test_what_is_not_told_is_none_and_not_0(backend: BackendUnderTest) -> None:
    with backend.Popen(["sleep", "1000"]) as process:
        usage = process.usage()
        controllers = ""
        if backend.name == "cgroup":
            controllers = Path(process._containment.where(), "cgroup.controllers").read_text()
        process.stop()
    if backend.name == "process-group":
        assert (usage.memory_peak, usage.tasks_peak, usage.io_reads, usage.cpu_pressure) == (None,) * 4
        assert usage.memory > 0
        assert usage.tasks == 1
        return
    controllers = controllers.split()
    assert (usage.memory is None) == ("memory" not in controllers)
    assert (usage.tasks is None) == ("pids" not in controllers)
    assert (usage.io_reads is None) == ("io" not in controllers)


def test_of_a_process_group_whose_leader_others_have_reaped_nothing_is_claimed() -> None:
    with allgone.Popen(python(BURNS), backend="process-group") as process:
        os.waitpid(process.pid, 0)
    assert process.report.usage is None
    assert process.usage() is None


def test_the_final_one_does_not_take_psutil(backend: BackendUnderTest) -> None:
    code = f"import allgone, sys; assert allgone.run(['true'], **{backend.options!r}).report.usage; assert 'psutil' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_threads_are_tasks_of_a_process_group() -> None:
    code = "import threading, time\nfor _ in range(3): threading.Thread(target=time.sleep, args=(100,), daemon=True).start()\n"
    with allgone.Popen(python(code + WAITS), backend="process-group", stdout=subprocess.PIPE) as process:
        ready(process)
        assert process.usage().tasks == 4
        process.stop(AT_ONCE)


def test_bytes_written_are_counted_with_process_group(tmp_path: Any) -> None:
    code = f"import os\nwith open({str(tmp_path / 'file')!r}, 'wb') as f: f.write(b'x' * 500_000); f.flush(); os.fsync(f.fileno())\n"
    with allgone.Popen(python(code + WAITS), backend="process-group", stdout=subprocess.PIPE) as process:
        ready(process)
        live = process.usage()
        report = process.stop(AT_ONCE)
    if live.io_write_bytes == 0:
        pytest.skip("the temporary directory is in memory")
    assert live.io_write_bytes >= 500_000
    assert report.usage.io_write_bytes >= 500_000


def test_a_process_group_with_somebody_elses_process_is_counted_as_far_as_can_be(backend: BackendUnderTest) -> None:
    if os.geteuid() != 0:
        missing("only root can start processes as another user")
    with backend.Popen(["sleep", "1000"], user=65534, group=65534, extra_groups=[]) as process:
        assert procfs.is_alive(process.pid)
        assert spent(process.usage()) < 60
        process.stop()


@pytest.fixture
def pressure() -> None:
    if not os.path.exists("/proc/pressure/cpu"):
        missing("this kernel has no PSI")


@pytest.mark.usefixtures("pressure", "cgroup_base")
def test_pressure_is_told_live_and_in_the_final_one_if_usage_was_asked_for_before() -> None:
    with allgone.Popen(["sleep", "1000"], backend="cgroup") as asked:
        usage = asked.usage()
        report = asked.stop()
    for each in (usage.cpu_pressure, usage.memory_pressure, usage.io_pressure):
        assert 0 <= each.some.avg10 <= 100
        assert each.full is None or each.some.total >= each.full.total >= 0  # of the CPU, before Linux 5.13
    assert report.usage.cpu_pressure.some.total >= usage.cpu_pressure.some.total
    assert allgone.run(["true"], backend="cgroup").report.usage.cpu_pressure is None


@pytest.mark.usefixtures("pressure", "cgroup_base")
def test_those_who_fight_for_the_cpu_are_stalled() -> None:
    count = (os.cpu_count() or 1) * 2
    code = f"import os, time\nfor _ in range({count}):\n    if os.fork() == 0: break\nend = time.monotonic() + 0.3\nwhile time.monotonic() < end: pass\n"
    with allgone.Popen(python(code + WAITS), backend="cgroup", stdout=subprocess.PIPE) as process:
        ready(process)
        assert process.usage().cpu_pressure.some.total > 0.01
        process.stop(AT_ONCE)
