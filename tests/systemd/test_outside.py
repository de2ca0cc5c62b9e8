"""What others do to a scope while it is in use: the supervisor notices, and its report says so."""

from __future__ import annotations

import re
import subprocess
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.procfs import comes_within
from support.systemd_env import (
    ENTERED,
    ROOT_SERVICE,
    USER_DELEGATED,
    USER_SERVICE,
    USER_SESSION,
    Environment,
    Place,
)

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


def folder_of(environment: Environment, unit: str) -> Path:
    """The cgroup of a unit that runs, seen from the machine."""
    return next(each for each in environment.tree() if each.name == unit)


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


# As systemd-oomd.service(8) does it (oomd_cgroup_kill() in oomd-util.c of systemd 252 to 257): a mark, SIGKILL to each
# process in the cgroup and below until none is new, another mark, which may come too late.
OOMD = """
    import os, signal, sys
    folder, killed = sys.argv[1], set()
    os.setxattr(folder, "user.oomd_ooms", b"1")
    def listed(each):
        try:
            with open(each + "/cgroup.procs") as file:
                return map(int, file.read().split())
        except OSError:
            return ()
    while new := {pid for each, _, _ in os.walk(folder) for pid in listed(each)} - killed:
        for pid in new:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        killed |= new
    try:
        os.setxattr(folder, "user.oomd_kill", str(len(killed)).encode())
    except OSError:
        pass
"""


def oomd_kills(environment: Environment, folder: Path) -> None:
    inside = Path("/sys/fs/cgroup") / folder.relative_to(environment.cgroups)
    environment.sh(environment.python, "-c", textwrap.dedent(OOMD), str(inside))


@PLACES
def test_a_scope_killed_by_systemd_oomd_is_noticed(environment: Environment, place: Place) -> None:
    with supervisor(environment, place=place) as (process, scope):
        oomd_kills(environment, folder_of(environment, scope))
        out = said(process)
    assert "status -9" in out
    # "or killed": or the manager, which watches for the mark, was quicker to call it one that is being stopped.
    assert f"ended from outside: {scope} was stopped" in out
    assert "next 0" in out


@PLACES
def test_a_child_killed_by_systemd_oomd_is_noticed(environment: Environment, place: Place) -> None:
    """It chooses among cgroups that have none below them: the child's own, not the scope, whose anchor lives on."""
    with supervisor(environment, place=place) as (process, scope):
        (child,) = (each for each in folder_of(environment, scope).iterdir() if each.is_dir() and each.name != "guard")
        oomd_kills(environment, child)
        out = said(process)
    assert "status -9" in out
    assert "next 0" in out
    assert re.search(r"ended from outside: .*systemd-oomd", out)


@PLACES
def test_a_leader_killed_alone_is_not_the_end_of_its_scope(environment: Environment, place: Place) -> None:
    """Nor of what it has left behind, which is there to be stopped. `systemctl kill` knows no main process of a scope."""
    code = """
        import allgone, os
        child = allgone.Popen(["sh", "-c", "setsid sleep 1000 & exec sleep 1000"], backend="cgroup")
        while len(child.members()) < 2: pass
        print(os.path.basename(os.path.dirname(child._containment.where())), child.pid, flush=True)
        print("status", child.wait(), "left", len(child.members()))
        print(child.stop())
    """
    with supervisor(environment, code, place) as (process, first):
        scope, pid = first.split()
        environment.systemctl("kill", "--kill-whom=main", "--signal=KILL", scope, user=place.user)
        environment.sh("kill", "-KILL", pid)
        out = said(process)
    assert "status -9 left 1" in out
    assert "alive at stop: sleep" in out
    assert "outside" not in out


@PLACES
@pytest.mark.parametrize("words", ["stop", "kill --signal=KILL"])
def test_each_end_of_a_scope_by_name_is_noticed(environment: Environment, place: Place, words: str) -> None:
    code = """
        import allgone, os, subprocess, sys
        systemctl, noticed = ["systemctl", *(["--user"] if os.getuid() else [])], 0
        for _ in range(20):
            child = allgone.Popen(["sh", "-c", "setsid sleep 1000 & exec sleep 1000"], unit="ended.scope")
            while len(child.members()) < 2: pass
            with subprocess.Popen([*systemctl, *sys.argv[1].split(), "ended.scope"], stderr=subprocess.DEVNULL):
                child.wait()
                noticed += child.stop().ended_from_outside.startswith("ended.scope was stopped")
        print(noticed)
    """
    assert environment.run_python(code, words, place=place).stdout == "20\n"


@PLACES
def test_the_stop_of_its_slice_is_noticed(environment: Environment, place: Place) -> None:
    code = """
        import allgone, sys
        child = allgone.Popen(["sh", "-c", "setsid sleep 1000 & exec sleep 1000"], unit="sliced.scope", slice="ci.slice")
        while len(child.members()) < 2: pass
        print("ready", flush=True)
        print("status", child.wait())
        print(child.stop())
        sys.stdin.readline()  # its end: the slice's own job is done, beside which systemd starts nothing in it
        print("next", allgone.run(["true"], unit="sliced.scope", slice="ci.slice").returncode)
    """
    with supervisor(environment, code, place) as (process, _):
        environment.systemctl("stop", "ci.slice", user=place.user)
        out = said(process)
    assert "status -15" in out
    assert "ended from outside: sliced.scope was stopped" in out
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


@PLACES
def test_what_systemctl_has_frozen_is_stopped_all_the_same(environment: Environment, place: Place) -> None:
    code = """
        import allgone, os, sys
        child = allgone.Popen(["sleep", "1000"], backend="cgroup")
        print(os.path.basename(os.path.dirname(child._containment.where())), flush=True)
        sys.stdin.readline()
        print(child.stop(allgone.StopPolicy(timeout_stop=0.5)))
    """
    with supervisor(environment, code, place) as (process, scope):
        environment.systemctl("freeze", scope, user=place.user)
        assert "frozen 1" in folder_of(environment, scope).joinpath("cgroup.events").read_text()
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


def restart_buses(environment: Environment, user: str) -> None:
    before = environment.sh("pgrep", "-x", "dbus-daemon").split()
    for verb in ("stop", "start"):
        for each in {"root", user}:
            environment.systemctl(verb, "dbus.socket", "dbus.service", user=each)
    assert not set(before) & set(environment.sh("pgrep", "-x", "dbus-daemon").split())


@pytest.mark.parametrize("place", ENTERED, ids=str)
def test_a_restart_of_the_message_bus_disturbs_nothing(shaken: Environment, place: Place) -> None:
    code = """
        import allgone, os, sys
        runtime = f"/run/user/{os.getuid()}" if os.getuid() else "/run"
        first = allgone.Popen(["sleep", "1000"], backend="cgroup")
        named = allgone.Popen(["sleep", "1000"], unit="named.scope")
        print("ready", flush=True)
        sys.stdin.readline()
        assert first.poll() is None and named.poll() is None
        assert allgone.run(["true"], backend="cgroup").returncode == 0
        assert allgone.run(["true"], unit="anew.scope").returncode == 0
        for each in (first, named):
            report = each.stop()
            assert report.returncode == -15 and not report.ended_from_outside, report
        open(f"{runtime}/done", "w").close()
        sys.stdin.readline()
    """
    with supervisor(shaken, code, place=place) as (process, _):
        restart_buses(shaken, place.user)
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
        runtime = f"run/user/{shaken.uid(place.user)}" if place.user != "root" else "run"
        comes_within(shaken.root / runtime / "done", 30)


def test_in_a_login_session_a_restart_of_the_message_bus_is_an_error_until_the_manager_starts_anew(
    shaken: Environment,
) -> None:
    """A user's manager moves a session's processes with the help of the system's, which it then can't reach any more.

    So it is for systemd-run --user --scope. A daemon-reexec is what helps.
    """
    code = """
        import allgone, os, subprocess, sys
        def children(): return open(f"/proc/self/task/{os.getpid()}/children").read()
        first = allgone.Popen(["sleep", "1000"], backend="cgroup")
        print("ready", flush=True)
        sys.stdin.readline()
        before = children()
        for given in ({"backend": "cgroup"}, {"unit": "anew.scope"}):
            try:
                allgone.run(["touch", "/tmp/ran"], **given)
            except allgone.SystemdError as e:
                print(e)
            else:
                raise AssertionError("no error")
        assert not os.path.exists("/tmp/ran") and children() == before and first.poll() is None
        subprocess.run(["systemctl", "--user", "daemon-reexec"], check=True)
        assert allgone.run(["true"], backend="cgroup").returncode == 0
        assert allgone.run(["true"], unit="anew.scope").returncode == 0
        report = first.stop()
        assert report.returncode == -15 and not report.ended_from_outside, report
        print("done")
    """
    with supervisor(shaken, code, USER_SESSION) as (process, _):
        restart_buses(shaken, "alice")
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
        assert "done" in said(process)


@pytest.mark.parametrize("how", ["stop", "crash"])
def test_the_end_of_a_delegated_user_unit_takes_its_children_along(environment: Environment, how: str) -> None:
    code = """
        import allgone
        child = allgone.Popen(["setsid", "sh", "-c", "trap : TERM; sleep 1000 & wait"], backend="cgroup")
        while len(child.members()) < 2: pass
        print(child._containment.where().removeprefix("/sys/fs/cgroup/"), flush=True)
        while True: child.wait(1000)
    """
    with supervisor(environment, code, USER_DELEGATED) as (process, where):
        assert ".scope" not in where
        unit = next(each for each in where.split("/") if each.startswith("run-"))
        words = ("stop",) if how == "stop" else ("kill", "--signal=KILL", "--kill-whom=main")
        environment.systemctl(*words, unit, user="alice")
        process.communicate(timeout=60)
        assert environment.empties(where, 10)


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
