"""What ends is counted, and told to the journal, where the environment asks for it; and nowhere else."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import stat
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import every_point
from support.backends import BACKENDS, BackendUnderTest
from support.journal import Journal
from support.programs import PATIENCE
from support.supervisors import Supervisor, say

import allgone
from allgone import aio
from allgone._core import counters
from allgone._core.counters import Counts
from allgone._linux import counterfile, journal
from allgone._upkeep import telling

DEAF = ["sh", "-c", "trap '' TERM; sleep 1000 & echo ready; wait"]


class Told:
    """Where is counted, and a journal."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "counters"
        self.folder.mkdir()
        self.journal = Journal(folder / "socket")

    def counts(self) -> Counts:
        path = self.folder / counters.file_name(os.geteuid())
        if not path.exists():
            return Counts([0.0] * counters.COUNT)
        return Counts(counterfile.total(str(path), counters.COUNT, os.geteuid()))

    def stops(self, backend: BackendUnderTest, by: counters.By = "supervisor", name: str = "stops") -> int:
        return int(self.counts().of(backend.name, name, by))


@pytest.fixture
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Told]:
    made = Told(tmp_path)
    monkeypatch.setattr(journal, "SOCKET", made.journal.path)
    monkeypatch.setenv("ALLGONE_METRICS", str(made.folder))
    monkeypatch.setenv("ALLGONE_JOURNAL", "1")
    yield made
    made.journal.close()


def until_ready(process: allgone.Popen) -> None:
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"


def test_a_stop_is_counted_and_in_the_journal(backend: BackendUnderTest, told: Told) -> None:
    with backend.Popen(DEAF, name="deaf", stdout=subprocess.PIPE) as process:
        until_ready(process)
        members = process.members()
        report = process.stop(allgone.StopPolicy(timeout_stop=0.05))
    assert told.stops(backend) == 1
    counts = told.counts()
    assert counts.of(backend.name, "stopped_processes") == len(members) == 2
    assert counts.of(backend.name, "killed_processes") == len(report.killed)
    assert counts.of(backend.name, "stop_seconds") == pytest.approx(report.duration)
    assert list(counts.buckets(backend.name))[-1][1] == 1

    entry = told.journal.entry()
    assert entry["MESSAGE"] == [str(report)]
    assert entry["MESSAGE_ID"] == [telling.STOPPED]
    assert entry["PRIORITY"] == ["6"]
    assert entry["SYSLOG_IDENTIFIER"] == ["allgone"]
    assert entry["ALLGONE_NAME"] == ["deaf"]
    assert entry["ALLGONE_ID"][0].endswith("/deaf")
    assert str(os.getpid()) in entry["ALLGONE_ID"][0]
    assert entry["ALLGONE_BACKEND"] == [backend.name]
    assert entry["ALLGONE_BY"] == ["supervisor"]
    assert entry["ALLGONE_OWNER_PID"] == [str(os.getpid())]
    assert entry["ALLGONE_RETURNCODE"] == [str(report.returncode)]
    assert entry["ALLGONE_STOPPED"] == ["2"]
    assert entry["ALLGONE_KILLED"] == [str(len(report.killed))]
    assert entry["ALLGONE_DURATION_USEC"] == [str(int(report.duration * 1e6))]
    assert told.journal.is_empty()


def test_each_end_is_told_of_once(backend: BackendUnderTest, told: Told) -> None:
    backend.run(["true"])
    with backend.Popen(["true"]) as process:
        process.wait()
    process.stop()
    with backend.group(name="all") as group:
        group.Popen(["sleep", "1000"], name="a")
        group.Popen(["sleep", "1000"], name="b").stop()
    assert told.stops(backend) == 4
    ids = [told.journal.entry()["ALLGONE_ID"] for _ in range(4)]
    assert [each[0].split("/", 1)[1] for each in ids[2:]] in (["all/b", "all"], ["b", "all"])
    assert told.journal.is_empty()


def test_who_awaits_it_is_told_of_as_well(backend: BackendUnderTest, told: Told) -> None:
    asyncio.run(aio.run(["sh", "-c", "sleep 1000 & true"], **backend.options))
    assert told.stops(backend) == 1
    assert told.counts().of(backend.name, "stopped_processes") == 1
    assert told.journal.entry()["ALLGONE_STOPPED"] == ["1"]
    assert told.journal.is_empty()


def test_an_escapee_is_counted_and_named(told: Told) -> None:
    plain, sweeping = BACKENDS[1:]
    daemon = ["sh", "-c", "setsid sh -c 'echo ready; exec sleep 60' & read x"]
    for backend in (plain, sweeping):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", allgone.EscapedProcessWarning)
            with backend.Popen(daemon, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
                until_ready(process)
                report = process.stop()
        entry = told.journal.entry()
        assert entry["ALLGONE_ESCAPED"] == ["1"]
        assert entry["ALLGONE_ESCAPEE"] == [str(report.escapees[0])]
        assert entry["PRIORITY"] == ["6" if backend.sweep else "4"]
        if not backend.sweep:
            os.kill(report.escapees[0].pid, signal.SIGKILL)
    assert told.counts().of("process-group", "escaped_processes") == 2


def test_a_stop_that_fails_is_counted_as_such(
    backend: BackendUnderTest, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = backend.Popen(["sleep", "1000"])
    error = allgone.StopTimeout("it lives", frozenset({process.pid}))

    def fail(*_: object) -> None:
        raise error

    with pytest.raises(allgone.StopTimeout):
        process.stop_meanwhile(fail)
    assert told.stops(backend, name="stop_failures") == 1
    assert told.stops(backend) == 0
    entry = told.journal.entry()
    assert entry["MESSAGE_ID"] == [telling.NOT_STOPPED]
    assert entry["MESSAGE"] == ["it lives"]
    assert entry["PRIORITY"] == ["3"]
    process.stop()
    assert told.stops(backend) == 1


def ends_without_a_stop(options: dict, name: str) -> None:
    process = allgone.Popen(["sleep", "1000"], name=name, **options)
    say("leader", process.pid)


def test_what_is_stopped_at_exit_is_told_of(backend: BackendUnderTest, told: Told) -> None:
    with Supervisor(ends_without_a_stop, backend, "forgotten") as supervisor:
        supervisor.succeeds()
    assert told.stops(backend) == 1


def is_killed(options: dict, count: int) -> None:
    for n in range(count):
        allgone.Popen(["sleep", "1000"], name=f"n{n}", **options)
    say("ready")
    signal.pause()


def test_what_the_guard_ends_is_told_of(backend: BackendUnderTest, told: Told) -> None:
    with Supervisor(is_killed, backend, 3) as supervisor:
        supervisor.lines.wait_for("ready")
        supervisor.process.kill()
        supervisor.ends()
        deadline = time.monotonic() + PATIENCE
        while told.stops(backend, "guard") < 3:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    assert told.stops(backend, "guard") == 3
    assert told.stops(backend) == 0


def test_what_the_janitor_sweeps_is_told_of(cgroup_base: str, told: Told) -> None:
    backend = BACKENDS[0]
    with Supervisor(is_killed, backend, 2) as supervisor:
        supervisor.lines.wait_for("ready")
        os.kill(supervisor.process.pid, signal.SIGSTOP)
        every_point.end_guards_of(supervisor.process.pid)
        supervisor.process.kill()
        supervisor.ends()
        every_point.gc(cgroup_base)
    assert told.stops(backend, "janitor") == 2
    assert told.counts().of("cgroup", "killed_processes") == 2


def test_nothing_is_told_unless_it_is_asked_for(
    backend: BackendUnderTest, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ALLGONE_METRICS")
    monkeypatch.setenv("ALLGONE_JOURNAL", "0")
    backend.run(["true"])
    monkeypatch.delenv("ALLGONE_JOURNAL")
    backend.run(["true"])
    assert told.journal.is_empty()
    assert list(told.folder.iterdir()) == []


def test_who_does_not_ask_imports_nothing_for_it() -> None:
    code = (
        "import sys, allgone; allgone.run(['true'])\n"
        "assert not {'allgone._linux.journal', 'allgone._core.counters'} & set(sys.modules)"
    )
    env = {name: value for name, value in os.environ.items() if not name.startswith(("ALLGONE_J", "ALLGONE_M"))}
    subprocess.run([sys.executable, "-c", code], check=True, env=env)


@pytest.mark.parametrize(
    ("variable", "value"), [("ALLGONE_JOURNAL", "yes"), ("ALLGONE_JOURNAL", "1 "), ("ALLGONE_METRICS", "here")]
)
def test_a_setting_that_means_nothing_is_an_error_before_anything_is_started(
    variable: str, value: str, tmp_path: Path
) -> None:
    code = f"import allgone; allgone.run(['touch', {str(tmp_path / 'ran')!r}], backend='process-group')"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, variable: value}
    )
    assert done.returncode
    assert f"ValueError: {variable} must be " in done.stderr
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("what", ["missing", "not ours", "full"])
def test_a_folder_that_can_not_be_counted_in_fails_no_stop_and_is_logged_once(
    backend: BackendUnderTest, told: Told, what: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(telling, "_has_logged", False)
    path = told.folder / counters.file_name(os.geteuid())
    if what == "missing":
        told.folder.rmdir()
    elif what == "not ours":
        path.symlink_to("/etc/passwd")
    else:
        os.mkfifo(path)
    with caplog.at_level(logging.WARNING, "allgone"):
        backend.run(["true"])
        backend.run(["true"])
    assert [record.getMessage().split(":")[0] for record in caplog.records] == [
        "not all that ends is counted or in the journal"
    ]
    assert told.journal.entry()["ALLGONE_BACKEND"] == [backend.name]  # which is told all the same


def test_others_may_read_what_was_counted_and_not_write_it(backend: BackendUnderTest, told: Told) -> None:
    before = os.umask(0)
    try:
        backend.run(["true"])
    finally:
        os.umask(before)
    (path,) = told.folder.iterdir()
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
