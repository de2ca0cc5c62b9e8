"""scripts/systemd-env, from inside: what runs there finds a real systemd, and the caller gets what the command gave."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import textwrap
from pathlib import Path

import pytest
from support.systemd_env import (
    CHECKOUT,
    PLACES,
    ROOT_DELEGATED,
    ROOT_SERVICE,
    SCRIPT,
    USER_DELEGATED,
    USER_SERVICE,
    USER_SESSION,
    Environment,
    Place,
)


def test_systemd_is_pid_1_and_says_that_it_is_running(environment: Environment) -> None:
    assert environment.run("cat", "/proc/1/comm").stdout == "systemd\n"
    assert environment.run("systemctl", "is-system-running").stdout == "running\n"


def test_only_cgroup_v2_is_mounted(environment: Environment) -> None:
    kinds = environment.run("findmnt", "-rno", "FSTYPE,TARGET", "-t", "cgroup,cgroup2").stdout
    assert kinds == "cgroup2 /sys/fs/cgroup\n"


def test_a_command_that_reloads_systemd_has_its_status(environment: Environment) -> None:
    for status in (0, 3):
        ran = environment.run("sh", "-c", f"systemctl daemon-reload; exit {status}", check=False)
        assert (ran.returncode, ran.stderr) == (status, "")


def test_a_command_runs_in_a_service_of_its_own(environment: Environment) -> None:
    own = environment.run("sed", "-n", "s/^0:://p", "/proc/self/cgroup", options=("--unit", "mine.service")).stdout
    assert own == "/system.slice/mine.service\n"


@pytest.mark.parametrize(("place", "marked"), [(ROOT_SERVICE, False), (ROOT_DELEGATED, True)], ids=str)
def test_cgroup_is_delegated_only_where_it_was_asked_for(environment: Environment, place: Place, marked: bool) -> None:
    code = """
        import os
        path = [line[3:-1] for line in open("/proc/self/cgroup") if line.startswith("0::")][0]
        print("trusted.delegate" in os.listxattr("/sys/fs/cgroup" + path))
    """
    assert environment.run_python(textwrap.dedent(code), place=place).stdout == f"{marked}\n"


def test_login_session_has_a_scope_and_a_running_user_manager(environment: Environment) -> None:
    ran = environment.run("sh", "-c", "cat /proc/self/cgroup; systemctl --user is-system-running", place=USER_SESSION)
    lines = ran.stdout.splitlines()
    assert "/user.slice/user-" in lines[-2]
    assert "/session-" in lines[-2]
    assert lines[-1] == "running"


@pytest.mark.parametrize("place", PLACES, ids=str)
def test_each_place_is_what_its_name_says(environment: Environment, place: Place) -> None:
    code = """
        import json, os, pwd
        path = [line[3:-1] for line in open("/proc/self/cgroup") if line.startswith("0::")][0]
        folder = "/sys/fs/cgroup" + path
        print(json.dumps([pwd.getpwuid(os.getuid()).pw_name, path, os.access(folder + "/cgroup.procs", os.W_OK),
            "DBUS_SESSION_BUS_ADDRESS" in os.environ]))
    """
    ran = environment.run_python(textwrap.dedent(code), place=place)
    user, path, writable, bus = json.loads(ran.stdout)
    assert user == place.user
    assert ("user@" in path) == (place in (USER_SERVICE, USER_DELEGATED))
    assert ("/session-" in path) == (place is USER_SESSION)
    assert writable == (place.user == "root" or place in (USER_SERVICE, USER_DELEGATED))
    assert bus == (place in (USER_SESSION, USER_SERVICE, USER_DELEGATED))


def test_whoever_is_in_a_login_session_finds_the_buses_in_there(
    environment: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DBUS_SESSION_BUS_ADDRESS", "unix:path=/run/user/0/bus")
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/0")
    said = environment.sh("sh", "-c", "env | grep -E '^(DBUS_SESSION_BUS_ADDRESS|XDG_RUNTIME_DIR)=' || echo none")
    assert said == "none\n"


@pytest.mark.parametrize("place", PLACES, ids=str)
def test_allgone_of_the_checkout_runs_in_each_place(environment: Environment, place: Place) -> None:
    ran = environment.run_python("import allgone; print(allgone.__file__)", place=place)
    assert ran.stdout == f"{CHECKOUT}/src/allgone/__init__.py\n"


@pytest.mark.parametrize("place", [ROOT_SERVICE, USER_SESSION], ids=str)
def test_pytest_of_the_checkout_runs_inside(environment: Environment, place: Place) -> None:
    ran = environment.run_pytest("tests/unit/test_names.py", place=place)
    assert " passed" in ran.stdout


# ---- what `run` gives and takes


@pytest.mark.parametrize(
    ("script", "status"),
    [("exit 0", 0), ("exit 3", 3), ("exit 255", 255), ("kill -TERM $$", 143), ("kill -KILL $$", 137)],
)
@pytest.mark.parametrize("place", [ROOT_SERVICE, USER_SESSION], ids=str)
def test_exit_status_is_the_commands_own(environment: Environment, place: Place, script: str, status: int) -> None:
    assert environment.run("sh", "-c", script, place=place, check=False).returncode == status


def test_exit_status_says_what_kept_a_command_from_running(environment: Environment) -> None:
    absent = environment.run("/nonexistent", check=False)
    assert (absent.returncode, "/nonexistent" in absent.stderr) == (125, True)
    assert environment.run("/etc", check=False).returncode in (125, 203)
    assert environment.run("true", options=("--cwd", "/nonexistent", "--user", "nobody")).returncode == 0
    environment.run("mkdir", "-p", "-m", "700", "/srv/private")
    private = environment.run("true", options=("--cwd", "/srv/private", "--user", "nobody"), check=False)
    assert private.returncode == 200  # systemd.exec(5): EXIT_CHDIR
    assert environment.run("true", options=("--nonsense",), check=False).returncode == 125


def test_exit_status_is_124_after_the_time_that_was_given(environment: Environment) -> None:
    assert environment.run("sleep", "1000", seconds=0.5, check=False).returncode == 124


def test_stdio_is_the_callers(environment: Environment) -> None:
    sent = "".join(f"line {n}\n" for n in range(100_000))
    ran = environment.run("sh", "-c", "cat; echo to stderr >&2", input=sent)
    assert ran.stdout == sent
    assert ran.stderr == "to stderr\n"


def test_arguments_arrive_unchanged(environment: Environment) -> None:
    words = ["$HOME", "${HOME}", "$$", "a  b", "%n", "%%", '"', "'", "back\\slash", "", "two\nlines", "ünï", "-p"]
    for place in (ROOT_SERVICE, USER_SERVICE):
        ran = environment.run_python("import json, sys; print(json.dumps(sys.argv[1:]))", *words, place=place)
        assert json.loads(ran.stdout) == words


def test_environment_variables_are_those_that_were_given(
    environment: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEPT_OUT", "1")
    monkeypatch.setenv("PASSED_ON", "as it is here")
    options = ("-E", "PASSED_ON", "-E", "GIVEN=with $ and spaces")
    names = environment.run("env", options=options).stdout.splitlines()
    assert "PASSED_ON=as it is here" in names
    assert "GIVEN=with $ and spaces" in names
    assert not [each for each in names if each.startswith("KEPT_OUT")]


def test_working_directory_is_the_callers_where_there_is_such_a_one(
    environment: Environment, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(CHECKOUT)
    assert environment.run("pwd").stdout == f"{CHECKOUT}\n"
    assert environment.run("pwd", options=("--cwd", "/var")).stdout == "/var\n"
    monkeypatch.chdir(tmp_path)  # /tmp inside is another one
    assert environment.run("pwd").stdout == "/\n"


def test_unit_properties_are_passed_on(environment: Environment) -> None:
    ran = environment.run("sh", "-c", "umask; ulimit -n", options=("-p", "UMask=0027", "-p", "LimitNOFILE=123"))
    assert ran.stdout.split() == ["0027", "123"]


def test_a_terminal_is_one_inside_as_well(environment: Environment) -> None:
    controller, terminal = pty.openpty()
    command = environment.command(["sh", "-c", "tty; exit 7"])
    with subprocess.Popen(command, stdin=terminal, stdout=terminal, stderr=terminal) as process:
        os.close(terminal)
        seen = b""
        while b"/dev/pts/" not in seen:  # newer ones set the window's title first
            seen += os.read(controller, 1000)
        assert process.wait() == 7
    os.close(controller)


def test_interrupting_run_ends_the_command(environment: Environment) -> None:
    with environment.start("sh", "-c", "trap 'echo ended; exit 9' TERM; echo ready; cat") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.terminate()
        assert process.stdout.read() == "ended\n"
    assert process.returncode == 9


def test_interrupting_run_twice_kills_the_command(environment: Environment) -> None:
    with environment.start("sh", "-c", "trap 'echo heard' TERM; echo ready; while :; do sleep 1000; done") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.terminate()
        assert process.stdout.readline() == "heard\n"
        process.terminate()
    assert process.returncode == 137


def test_interrupting_run_while_it_starts_leaves_nothing(environment: Environment) -> None:
    for step in range(10):  # each at another moment; the check for what is left inside judges
        with environment.start("sleep", "1000") as process:
            try:
                process.wait(0.003 * step)
            except subprocess.TimeoutExpired:
                process.terminate()
        assert process.returncode in (-15, 143)


def test_sh_runs_beside_pid_1(environment: Environment) -> None:
    assert "0::/init.scope" in environment.sh("cat", "/proc/self/cgroup")
    refused = subprocess.run([SCRIPT, "sh", environment.name, "--", "sh", "-c", "exit 6"], check=False)
    assert refused.returncode == 6


def test_sh_works_while_systemd_does_not_answer(environment: Environment) -> None:
    user = environment.start("sh", "-c", "echo up; exec sleep 1000", place=USER_SESSION)
    try:
        assert user.stdout.readline() == "up\n"  # or else its login would meet a bus that does not answer
        assert environment.sh("systemctl", "kill", "--signal=STOP", "dbus.service", "systemd-journald.service") == ""
        assert environment.sh("echo", "here") == "here\n"
    finally:
        environment.sh("systemctl", "kill", "--signal=CONT", "dbus.service", "systemd-journald.service")
        user.terminate()
        user.communicate()
