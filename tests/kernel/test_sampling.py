"""`sample=`: what a containment uses, while it does."""

from __future__ import annotations

import errno
import os
import sys
import threading
from typing import Any

import pytest
from support.backends import BackendUnderTest

import allgone

BURNS = "import time; end = time.process_time() + 0.3\nwhile time.process_time() < end: pass"


@pytest.fixture
def cgroup(cgroup_base: str) -> BackendUnderTest:
    return BackendUnderTest("cgroup", sweep=False)


def test_samples_grow_from_the_start_to_the_stop(cgroup: BackendUnderTest) -> None:
    with cgroup.Popen([sys.executable, "-c", BURNS], sample=0.02) as process:
        pass
    report = process.report
    assert len(report.samples) > 3
    assert [each.at for each in report.samples] == sorted(each.at for each in report.samples)
    spent = [each.cpu for each in report.samples]
    assert spent == sorted(spent)
    whole = report.usage.cpu_user + report.usage.cpu_system
    assert spent[0] < spent[-1] <= whole
    assert whole >= 0.3


def test_the_thread_ends_with_what_it_looks_at(cgroup: BackendUnderTest) -> None:
    before = threading.active_count()
    with cgroup.Popen(["sleep", "1000"], sample=1000) as process:
        assert threading.active_count() == before + 1
        process.stop()
    assert threading.active_count() == before
    with pytest.raises(FileNotFoundError):
        cgroup.Popen(["no-such-command"], sample=1000)
    assert threading.active_count() == before


def test_a_long_run_has_fewer_samples_further_apart(cgroup: BackendUnderTest, monkeypatch: pytest.MonkeyPatch) -> None:
    from allgone._process import sampling

    monkeypatch.setattr(sampling, "_MOST", 8)
    with cgroup.Popen([sys.executable, "-c", BURNS], sample=0.001) as process:
        pass
    samples = process.report.samples
    assert 3 < len(samples) <= 8
    assert samples[0].cpu < samples[-1].cpu


def test_where_nobody_asked_there_are_none(cgroup: BackendUnderTest) -> None:
    assert cgroup.run(["true"]).report.samples == ()


def test_a_process_group_has_nothing_to_look_at() -> None:
    before = os.listdir("/proc/self/fd")
    with pytest.raises(allgone.Unsupported, match="is not counted"):
        allgone.Popen(["touch", "/"], backend="process-group", sample=1)
    assert len(os.listdir("/proc/self/fd")) == len(before)


@pytest.mark.parametrize(
    ("interval", "error"), [("1", TypeError), (True, TypeError), (0, ValueError), (-1, ValueError)]
)
def test_what_makes_no_sense_is_refused(interval: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="sample must be"):
        allgone.Popen(["true"], sample=interval)


def test_a_stop_does_not_fail_because_usage_cannot_be_read(
    cgroup: BackendUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    from allgone._linux import accounting

    read = accounting.read

    def refuses(path: str) -> bytes:  # where really there are no fds left
        if path.endswith("/cpu.stat"):
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return read(path)

    monkeypatch.setattr(accounting, "read", refuses)
    with cgroup.Popen(["sleep", "1000"]) as process:
        report = process.stop()
    assert process.returncode == -15
    assert report.usage is None
