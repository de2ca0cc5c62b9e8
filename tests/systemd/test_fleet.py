"""The units of docs/fleet, and entries in the journal, under a real systemd."""

from __future__ import annotations

import json
import os
import select
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import parser
from support.systemd_env import CHECKOUT, ROOT_SERVICE, USER_SESSION, Environment, Place

from allgone._upkeep import telling

UNITS = CHECKOUT / "docs/fleet"
PATIENCE = 30.0  # seconds
COLLECTED = "/var/lib/prometheus/node-exporter"
AT_ONCE = "[Timer]\nOnActiveSec=\nOnActiveSec=1ms\nRandomizedDelaySec=0\nAccuracySec=1ms\n"

# A supervisor that is killed has left a process, whose end this tells; another one lives on until it is told to end.
LEAVES = """
import allgone, os, select, signal, sys
live = allgone.Popen(["sleep", "1000"], backend="cgroup", name=sys.argv[1] + "-live")
reader, writer = os.pipe()
if (pid := os.fork()) == 0:
    left = allgone.Popen(["sleep", "1000"], backend="cgroup", name=sys.argv[1] + "-left", guard=False)
    os.write(writer, str(left.pid).encode())
    os.kill(os.getpid(), signal.SIGKILL)
os.waitpid(pid, 0)
left = os.pidfd_open(int(os.read(reader, 20)))
print("left", flush=True)
ready, _, _ = select.select([left, 0], [], [])
assert left in ready, "it is still there"
print("gone", flush=True)
sys.stdin.readline()
print("live" if live.poll() is None else "not live", live.stop().returncode, flush=True)
"""


@pytest.fixture(scope="module")
def installed(environment: Environment) -> Iterator[Environment]:
    """The environment, with the units where an administrator would put them, and ``allgone`` where systemd looks."""
    units = [str(each) for each in UNITS.iterdir() if each.suffix in (".service", ".timer")]
    sh = environment.sh
    sh("cp", *units, "/etc/systemd/system")
    sh("cp", str(UNITS / "allgone.conf"), "/etc/tmpfiles.d")
    wrapper = f'#!/bin/sh\nexec env {" ".join(f"{k}={v}" for k, v in environment.variables.items())} {environment.python} -m allgone "$@"\n'
    put(environment, "/usr/local/bin/allgone", wrapper, mode=0o755)
    for timer in ("allgone-gc@.timer", "allgone-metrics.timer"):
        put(environment, f"/etc/systemd/system/{timer}.d/at-once.conf", AT_ONCE)
    sh("mkdir", "-p", COLLECTED)
    sh("systemd-tmpfiles", "--create", "allgone.conf")
    environment.systemctl("daemon-reload")
    yield environment
    environment.systemctl("stop", "allgone-gc@*.timer", "allgone-metrics.timer")
    sh(
        "sh",
        "-c",
        "rm -r /etc/systemd/system/allgone-* /etc/tmpfiles.d/allgone.conf /usr/local/bin/allgone /run/allgone",
    )
    environment.systemctl("daemon-reload")


def put(environment: Environment, path: str, text: str, mode: int = 0o644) -> None:
    there = Path(f"{environment.root}{path}")
    there.parent.mkdir(parents=True, exist_ok=True)
    there.write_text(text)
    there.chmod(mode)


def entries(environment: Environment, *matches: str) -> list[dict[str, Any]]:
    environment.sh("journalctl", "--sync")
    return [
        json.loads(line) for line in environment.sh("journalctl", "-o", "json", "--no-pager", *matches).splitlines()
    ]


def line_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    assert select.select([process.stdout], [], [], PATIENCE)[0], "it says nothing"
    return process.stdout.readline().strip()


def until(what: Any) -> None:
    deadline = time.monotonic() + PATIENCE
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def show(environment: Environment, unit: str, name: str) -> str:
    return environment.sh("systemctl", "show", "--value", "-p", name, unit).strip()


@pytest.mark.parametrize("place", [ROOT_SERVICE, USER_SESSION], ids=str)
def test_what_was_left_is_gone_when_the_timer_has_fired_and_nothing_else(installed: Environment, place: Place) -> None:
    job, unit = f"job-{os.urandom(4).hex()}", f"allgone-gc@{place.user}"
    with installed.start_python(LEAVES, job, place=place) as process:
        try:
            said = line_of(process)
            assert said == "left", process.stderr and process.stderr.read()
            installed.systemctl("start", f"{unit}.timer")
            assert line_of(process) == "gone"
        finally:
            out, err = process.communicate("now\n", timeout=PATIENCE)
        assert out == "live -15\n", err
    until(lambda: show(installed, f"{unit}.service", "ActiveState") == "inactive")
    assert show(installed, f"{unit}.service", "Result") == "success"
    assert show(installed, f"{unit}.service", "ExecMainStatus") == "0"
    assert float(show(installed, f"{unit}.timer", "NextElapseUSecMonotonic").split("min")[0]) > 0  # it fires again
    said_by = entries(installed, "-u", f"{unit}.service")
    removed = [each for each in said_by if str(each["MESSAGE"]).startswith("removed ")]
    assert [each for each in removed if "sleep (pid" in each["MESSAGE"]]
    (told,) = [each for each in said_by if each.get("MESSAGE_ID") == telling.ENDED_FOR]
    assert told["ALLGONE_BY"] == "janitor"
    assert told["ALLGONE_ID"].endswith(f"/{job}-left")
    assert told["ALLGONE_KILLED"] == "1"
    assert not entries(installed, f"ALLGONE_NAME={job}-live")
    installed.systemctl("stop", f"{unit}.timer")


def test_a_user_without_root_has_a_timer_as_the_page_says(installed: Environment) -> None:
    page = (CHECKOUT / "docs/fleet.md").read_text(encoding="utf-8")
    (line,) = [line.strip() for line in page.splitlines() if line.startswith("    systemd-run --user")]
    words = [*line.replace("5min", "1ms").split()]
    words.insert(2, "--timer-property=AccuracySec=1ms")
    with installed.start_python(LEAVES, f"job-{os.urandom(4).hex()}", place=USER_SESSION) as process:
        try:
            assert line_of(process) == "left"
            installed.run(*words, place=USER_SESSION)
            assert line_of(process) == "gone"
        finally:
            out, err = process.communicate("now\n", timeout=PATIENCE)
            installed.systemctl("stop", "allgone-gc.timer", user="alice")
        assert out == "live -15\n", err


def test_root_counts_what_it_swept_and_a_user_that_may_not_is_told_so(installed: Environment) -> None:
    text = installed.sh("allgone", "metrics", "--format", "prometheus", "--counters", "/run/allgone")
    counted = 'allgone_stops_total{backend="cgroup",uid="0",by="janitor"} '
    assert [line for line in text.splitlines() if line.startswith(counted) and line != f"{counted}0"]
    assert 'uid="0"' in text
    assert f'uid="{installed.uid("alice")}",by=' not in text
    warned = entries(installed, "-u", "allgone-gc@alice.service")
    assert [each for each in warned if "not all that ends is counted" in each["MESSAGE"]]


def test_gc_with_nothing_to_do_is_silent_and_succeeds(installed: Environment) -> None:
    installed.systemctl("start", "allgone-gc@bob.service")
    assert show(installed, "allgone-gc@bob.service", "Result") == "success"
    said = entries(installed, "_SYSTEMD_UNIT=allgone-gc@bob.service")
    assert said == []


def test_gc_that_fails_is_a_failed_unit_with_its_exit_status(installed: Environment) -> None:
    put(
        installed,
        "/etc/systemd/system/allgone-gc@bob.service.d/wrong.conf",
        "[Service]\nEnvironment=ALLGONE_JOURNAL=x\n",
    )
    installed.systemctl("daemon-reload")
    try:
        installed.systemctl("start", "allgone-gc@bob.service")
        assert show(installed, "allgone-gc@bob.service", "ExecMainStatus") == "125"
        assert show(installed, "allgone-gc@bob.service", "ActiveState") == "failed"
    finally:
        installed.systemctl("reset-failed")
        installed.sh("rm", "-r", "/etc/systemd/system/allgone-gc@bob.service.d")
        installed.systemctl("daemon-reload")


def test_metrics_are_where_node_exporter_looks_when_the_timer_has_fired(installed: Environment) -> None:
    file = Path(f"{installed.root}{COLLECTED}/allgone.prom")
    code = "import allgone, sys; p = allgone.Popen(['sleep', '1000'], backend='cgroup'); print('up', flush=True); sys.stdin.read()"
    with installed.start_python(code, place=USER_SESSION) as process:
        assert line_of(process) == "up"
        installed.systemctl("start", "allgone-metrics.timer")
        until(file.exists)
        process.communicate("", timeout=PATIENCE)
    installed.systemctl("stop", "allgone-metrics.timer")
    found = {
        tuple(sample.labels.get(name, "") for name in ("uid", "state")): sample.value
        for family in parser.text_string_to_metric_families(file.read_text())
        for sample in family.samples
        if family.name == "allgone_containments"
    }
    assert found[str(installed.uid("alice")), "live"] == 1  # seen by one who may see little else
    assert show(installed, "allgone-metrics.service", "Result") == "success"


def test_systemd_has_nothing_to_say_about_the_units(installed: Environment) -> None:
    names = ["allgone-gc@root.service", "allgone-gc@root.timer", "allgone-metrics.service", "allgone-metrics.timer"]
    done = installed.run("systemd-analyze", "verify", *names, check=False)
    about_ours = [line for line in (done.stdout + done.stderr).splitlines() if "allgone" in line]
    assert (done.returncode, about_ours) == (0, [])


@pytest.mark.parametrize("place", [ROOT_SERVICE, USER_SESSION], ids=str)
@pytest.mark.parametrize("backend", ["cgroup", "process-group"])
def test_the_journal_finds_a_job_by_its_name_and_what_became_of_it(
    environment: Environment, place: Place, backend: str
) -> None:
    job = f"job-{os.urandom(4).hex()}"
    code = f"""
        import sys
        from allgone.cli import main
        sys.exit(main(["run", "--backend", {backend!r}, "--name", {job!r}, "--", "sh", "-c", "sleep 1000 & exit 3"]))
    """
    done = environment.run_python(code, place=place, variables={"ALLGONE_JOURNAL": "1"}, check=False)
    assert done.returncode == 3
    (entry,) = entries(environment, f"ALLGONE_NAME={job}")
    assert [entry] == entries(environment, f"ALLGONE_ID={entry['ALLGONE_ID']}", f"MESSAGE_ID={telling.STOPPED}")
    assert entry["_UID"] == str(environment.uid(place.user)).strip()
    assert entry["ALLGONE_BACKEND"] == backend
    assert entry["ALLGONE_RETURNCODE"] == "3"
    assert entry["ALLGONE_STOPPED"] == "1"
    assert int(entry["ALLGONE_DURATION_USEC"]) > 0
    assert entry["PRIORITY"] == "6"
    assert entry["SYSLOG_IDENTIFIER"] == "allgone"
    assert entry["MESSAGE"].startswith(f"{job} ({backend}): exit status 3, stopped in ")


def test_nothing_is_in_the_journal_unless_it_is_asked_for(environment: Environment) -> None:
    """Not even where stdout is the journal: JOURNAL_STREAM is in the environment of every job of a runner's service."""
    job = f"job-{os.urandom(4).hex()}"
    code = f"import allgone; allgone.run(['true'], name={job!r})"
    environment.run_python(code, variables={"JOURNAL_STREAM": "1:2"})
    assert entries(environment, f"ALLGONE_NAME={job}") == []


@pytest.mark.parametrize("backend", ["cgroup", "process-group"])
def test_what_the_guard_ended_is_in_the_journal(environment: Environment, backend: str) -> None:
    job = f"job-{os.urandom(4).hex()}"
    code = """
        import allgone, os, signal, sys
        if os.fork() == 0:
            allgone.Popen(["sleep", "1000"], backend=sys.argv[1], name=sys.argv[2])
            os.kill(os.getpid(), signal.SIGKILL)
        os.wait()
        sys.stdin.read()
    """
    with environment.start_python(code, backend, job, variables={"ALLGONE_JOURNAL": "1"}) as process:
        until(lambda: entries(environment, f"ALLGONE_NAME={job}"))
        process.communicate("", timeout=PATIENCE)
    (entry,) = entries(environment, f"ALLGONE_NAME={job}")
    assert entry["MESSAGE_ID"] == telling.ENDED_FOR
    assert entry["ALLGONE_BY"] == "guard"
    assert "ALLGONE_STOPPED" not in entry
    assert entry["ALLGONE_BACKEND"] == backend
    assert entry["PRIORITY"] == "5"
    assert entry["MESSAGE"].endswith(f"ended by the guard, for process {entry['ALLGONE_OWNER_PID']} is gone")
