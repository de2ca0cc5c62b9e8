"""`allgone metrics`: what there is and what was counted, as Prometheus and its friends read it."""

from __future__ import annotations

import os
import stat
import subprocess
import threading
from pathlib import Path

import pytest
from prometheus_client import parser
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics import parser as openmetrics_parser
from support.tiers import missing

from allgone._core import counters
from allgone._core.counters import Ending
from allgone._linux import counterfile
from cli.command import ALLGONE, Allgone, lines

READY = ["sh", "-c", "echo ready; sleep 1000 & wait"]
PARSERS = {"openmetrics": openmetrics_parser, "prometheus": parser}


def asked(*words: str, status: int = 0, **variables: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [*ALLGONE, "metrics", *words], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False,
        env={**os.environ, **variables},
    )  # fmt: skip
    assert "Traceback" not in done.stderr, done.stderr
    assert done.returncode == status, (done.returncode, done.stdout, done.stderr)
    return done


def read(text: str, format: str = "openmetrics") -> dict[str, Metric]:
    return {each.name: each for each in PARSERS[format].text_string_to_metric_families(text)}


def value(metric: Metric | None, **labels: object) -> float:
    """The sum of all samples with these labels, others may be at work on this machine."""
    if metric is None:
        return 0
    wanted = {name: str(each) for name, each in labels.items()}
    return sum(each.value for each in metric.samples if wanted.items() <= each.labels.items())


@pytest.mark.parametrize("format", ["openmetrics", "prometheus"])
def test_what_there_is_is_counted_by_backend_state_and_user(allgone: Allgone, format: str) -> None:
    who = {"backend": allgone.backend, "uid": os.geteuid()}
    with allgone.started(*READY) as process:
        assert lines(process.stdout, 1) == ["ready"]
        found = read(asked("--format", format).stdout, format)
    assert value(found["allgone_containments"], **who, state="live") >= 1
    assert value(found["allgone_processes"], **who) >= 2
    assert value(found["allgone_build_info"]) == 1
    if allgone.backend == "cgroup":
        assert value(found["allgone_live_cpu_seconds"], **who) > 0
    assert found["allgone_containments"].type == "gauge"
    assert not [name for name in found if name.startswith("allgone_stop")]  # nobody has asked for counters


@pytest.mark.parametrize("format", ["openmetrics", "prometheus"])
def test_what_was_counted_is_told_with_its_types(allgone: Allgone, tmp_path: Path, format: str) -> None:
    env = {**os.environ, "ALLGONE_METRICS": str(tmp_path)}
    assert allgone.run("sh", "-c", "sleep 1000 & true", env=env).returncode == 0
    found = read(asked("--format", format, ALLGONE_METRICS=str(tmp_path)).stdout, format)
    who = {"backend": allgone.backend, "uid": os.geteuid()}
    assert value(found["allgone_stops"], **who, by="supervisor") == 1
    assert value(found["allgone_stops"], **who, by="guard") == 0
    assert value(found["allgone_stopped_processes"], **who) == 1
    took = found["allgone_stop_seconds"]
    assert took.type == "histogram"
    assert [
        each.value for each in took.samples if each.name.endswith("_count") and who["backend"] in each.labels.values()
    ] == [1]
    assert value(found["allgone_cpu_seconds"], **who) > 0
    for name in ("stops", "stop_failures", "killed_processes", "escaped_processes", "oom_kills"):
        assert found[f"allgone_{name}"].type == "counter"


def test_counters_of_several_users_are_told_apart_and_forged_ones_left_out(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        missing("only root can give files away")
    for uid, number in ((0, 1), (1000, 2), (1001, 3)):
        path = tmp_path / counters.file_name(uid)
        counterfile.add(str(path), Ending("cgroup", "supervisor", number).counts())
        os.chown(path, uid, -1)
    os.chown(tmp_path / counters.file_name(1001), 1002, -1)
    (tmp_path / counters.file_name(1003)).symlink_to(counters.file_name(0))
    (tmp_path / "something else").touch()
    done = asked("--counters", str(tmp_path))
    stops = read(done.stdout)["allgone_stops"]
    assert {each.labels["uid"] for each in stops.samples} == {"0", "1000"}
    assert (value(stops, uid=0), value(stops, uid=1000)) == (1, 2)
    assert len(done.stderr.splitlines()) == 2
    assert all(line.startswith("allgone: left out: ") for line in done.stderr.splitlines())


def test_a_file_is_replaced_at_once_and_others_may_read_it(tmp_path: Path) -> None:
    path = tmp_path / "allgone.prom"
    broken: list[str] = []
    over = threading.Event()

    def reads() -> None:
        while not over.is_set():
            if path.exists() and not path.read_text().endswith("# EOF\n"):
                broken.append(path.read_text())

    reader = threading.Thread(target=reads)
    reader.start()
    try:
        for _ in range(3):
            assert asked("--output", str(path)).stdout == ""
    finally:
        over.set()
        reader.join()
    assert not broken
    assert "allgone_build_info" in read(path.read_text())
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert [each.name for each in tmp_path.iterdir()] == [
        "allgone.prom"
    ]  # nothing else for the collector to stumble on


@pytest.mark.parametrize("where", ["missing/a.prom", "/dev/full", "."])
def test_a_file_that_can_not_be_written_is_an_error_of_one_line(where: str, tmp_path: Path) -> None:
    path = os.path.join(tmp_path, where)
    done = asked("--output", path, status=125)
    assert done.stderr.startswith(f"allgone: cannot write {path}: ")
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_counters_that_are_not_there_are_an_error_of_one_line(tmp_path: Path) -> None:
    done = asked(status=125, ALLGONE_METRICS=str(tmp_path / "missing"))
    assert done.stderr == f"allgone: cannot read the counters in {tmp_path}/missing: No such file or directory\n"
    assert done.stdout == ""


@pytest.mark.parametrize("variable", ["ALLGONE_METRICS", "ALLGONE_JOURNAL"])
@pytest.mark.parametrize("words", [["run", "--", "touch", "ran"], ["gc"]], ids=["run", "gc"])
def test_a_setting_that_means_nothing_is_an_error_before_anything_is_done(
    variable: str, words: list[str], tmp_path: Path
) -> None:
    env = {**os.environ, variable: "yes"}
    done = subprocess.run([*ALLGONE, *words], capture_output=True, text=True, env=env, cwd=tmp_path, check=False)
    assert done.returncode == 125
    assert done.stderr.startswith(f"allgone: {variable} must be ")
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_doctor_says_when_nothing_can_be_counted(tmp_path: Path) -> None:
    for folder, mark in ((str(tmp_path), "ok"), (f"{tmp_path}/missing", "no")):
        env = {**os.environ, "ALLGONE_METRICS": folder, "ALLGONE_JOURNAL": "1"}
        done = subprocess.run([*ALLGONE, "doctor"], capture_output=True, text=True, env=env, check=False)
        (line,) = [line for line in done.stdout.splitlines() if "ALLGONE_METRICS" in line]
        assert line.split()[0] == mark
        assert "ALLGONE_JOURNAL" in done.stdout
