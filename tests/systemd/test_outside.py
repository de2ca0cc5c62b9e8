"""What others do to a scope while it is in use: the supervisor notices, and its report says so."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from support.procfs import comes_within
from support.systemd_env import ENTERED, ROOT_SERVICE, USER_SERVICE, USER_SESSION, Environment, Place

WAITS = """
    import allgone, os
    child = allgone.Popen(["sh", "-c", "sleep 1000 & setsid sleep 1000 & exec sleep 1000"], backend="cgroup")
    while len(child.members()) < 3: pass
    print(os.path.basename(os.path.dirname(child._containment.where())), flush=True)
    status = child.wait()
    print("status", status)
    print(child.stop(), flush=True)
    # and afterwards it works as before
    print("next", allgone.run(["true"], backend="cgroup").returncode)
"""
# systemd-run, by which commands are started inside, does not live through a daemon-reexec of PID 1: so beside that.
BESIDE = "init.scope"
PLACES = pytest.mark.parametrize("place", [ROOT_SERVICE, USER_SESSION, USER_SERVICE], ids=str)


@contextmanager
def supervisor(
    environment: Environment, code: str = WAITS, place: Place = ROOT_SERVICE, unit: str = ""
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """One that runs, and the first line that it says."""
    options = ("--unit", unit) if unit else ()
    if unit == BESIDE:
        started = environment.start_beside(code)
    else:
        started = environment.start_python(code, place=place, options=options, seconds=60)
    with started as process:
        assert process.stdout is not None
        try:
            yield process, process.stdout.readline().strip()
        finally:
            process.terminate()


def said(process: subprocess.Popen[str]) -> str:
    assert process.stdin is not None
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    return out


@PLACES
@pytest.mark.parametrize(
    ("words", "status"),
    [
        (["stop"], -15),
        (["kill", "--signal=KILL"], -9),
        (["kill", "--signal=TERM"], -15),
    ],
    ids=["stop", "kill-KILL", "kill-TERM"],
)
def test_a_scope_stopped_by_systemctl_is_noticed(
    environment: Environment, place: Place, words: list[str], status: int
) -> None:
    with supervisor(environment, place=place) as (process, scope):
        environment.systemctl(*words, scope, user=place.user)
        out = said(process)
    assert f"status {status}" in out
    assert f"ended from outside: {scope} was stopped" in out
    assert "next 0" in out


def test_a_write_to_cgroup_kill_is_noticed(environment: Environment) -> None:
    with supervisor(environment) as (process, scope):
        environment.sh("sh", "-c", f"echo 1 > /sys/fs/cgroup/system.slice/{scope}/cgroup.kill")
        out = said(process)
    assert "status -9" in out
    assert "ended from outside" in out
    assert "next 0" in out


def test_a_child_that_ends_by_itself_or_by_our_stop_was_not_ended_from_outside(environment: Environment) -> None:
    code = """
        import allgone
        for script in ("true", "kill -KILL $$", "exit 3"):
            child = allgone.Popen(["sh", "-c", script], backend="cgroup")
            child.wait()
            print(child.stop())
        child = allgone.Popen(["sleep", "1000"], backend="cgroup")
        print(child.stop())
    """
    assert "outside" not in environment.run_python(code).stdout


def test_what_systemctl_has_frozen_is_stopped_all_the_same(environment: Environment) -> None:
    code = """
        import allgone, os, sys
        child = allgone.Popen(["sleep", "1000"], backend="cgroup")
        print(os.path.basename(os.path.dirname(child._containment.where())), flush=True)
        sys.stdin.readline()
        print(child.stop(allgone.StopPolicy(timeout_stop=0.5)))
    """
    with supervisor(environment, code) as (process, scope):
        environment.sh("systemctl", "freeze", scope)
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
        out = said(process)
    assert re.search(r"ended by SIG(TERM|KILL)", out)


@pytest.mark.parametrize("how", ["stop", "crash"])
def test_a_runner_takes_its_scope_along(environment: Environment, how: str) -> None:
    code = """
        import allgone
        child = allgone.Popen(["setsid", "sh", "-c", "trap : TERM; sleep 1000 & wait"], backend="cgroup")
        while len(child.members()) < 2: pass
        print(child._containment.where().removeprefix("/sys/fs/cgroup/"), flush=True)
        child.wait()
        while True: child.wait(1000)
    """
    with supervisor(environment, code, unit="runner.service") as (process, where):
        scope = where.rpartition("/")[0]
        assert environment.cgroups.joinpath(scope).is_dir()
        if how == "stop":
            environment.sh("systemctl", "stop", "runner.service")
        else:
            environment.sh("systemctl", "kill", "--signal=KILL", "--kill-whom=main", "runner.service")
        process.communicate(timeout=60)
        assert environment.empties(scope, 10)


@PLACES
@pytest.mark.parametrize("verb", ["daemon-reload", "daemon-reexec"])
def test_a_manager_that_starts_anew_disturbs_nothing(environment: Environment, place: Place, verb: str) -> None:
    code = """
        import allgone, sys
        first = allgone.Popen(["sleep", "1000"], backend="cgroup")
        print("ready", flush=True)
        sys.stdin.readline()
        assert first.poll() is None
        assert allgone.run(["true"], backend="cgroup").returncode == 0
        assert allgone.run(["true"], unit="anew.scope").returncode == 0
        report = first.stop()
        assert report.returncode == -15 and not report.ended_from_outside, report
        print("done")
    """
    with supervisor(environment, code, place=place, unit=BESIDE if place is ROOT_SERVICE else "") as (process, _):
        environment.systemctl(verb, user=place.user)
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
        assert "done" in said(process)


@pytest.mark.parametrize("place", ENTERED, ids=str)
def test_no_message_bus_is_needed(shaken: Environment, place: Place) -> None:
    """dbus-daemon goes away in the middle: systemd is spoken to over its own socket."""
    code = """
        import allgone, os, sys
        first = allgone.Popen(["sleep", "1000"], backend="cgroup")
        print("ready", flush=True)
        sys.stdin.readline()
        assert first.poll() is None
        for _ in range(3):
            assert allgone.run(["true"], unit="busless.scope").returncode == 0
            assert allgone.run(["true"], backend="cgroup").returncode == 0
        assert not first.stop().ended_from_outside
        open(f"/run/user/{os.getuid()}/done" if os.getuid() else "/run/done", "w").close()
        sys.stdin.readline()
    """
    with supervisor(shaken, code, place=place) as (process, _):
        shaken.sh("systemctl", "stop", "dbus.socket", "dbus.service", check=False)
        assert shaken.sh("systemctl", "is-active", "dbus.service", check=False).strip() == "inactive"
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
        done = shaken.root / ("run/done" if place.user == "root" else f"run/user/{shaken.uid(place.user)}/done")
        comes_within(done, 30)
        shaken.sh("systemctl", "start", "dbus.socket", "dbus.service", check=False)
