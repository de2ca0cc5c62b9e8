"""A scope by name for one child: unit=, slice=, description=, properties=, and the command's options."""

from __future__ import annotations

import pytest
from support.systemd_env import PLACES, ROOT_SERVICE, USER_SESSION, Environment, Place

SHOW = """
    import subprocess, os
    user = ["--user"] if os.getuid() else []
    def show(unit, names):
        shown = subprocess.check_output(["systemctl", *user, "show", unit, "--property", names], text=True,
            env={"XDG_RUNTIME_DIR": f"/run/user/{os.getuid()}", **os.environ})
        return dict(line.split("=", 1) for line in shown.splitlines())
"""
BOTH = pytest.mark.parametrize("place", [ROOT_SERVICE, USER_SESSION], ids=str)


@pytest.mark.parametrize("place", PLACES, ids=str)
def test_scope_has_the_name_slice_description_and_properties_given(environment: Environment, place: Place) -> None:
    code = (
        SHOW
        + """
    import allgone
    given = {"MemoryMax": "64M", "TasksMax": 50, "TimeoutStopSec": "3s", "CPUQuota": "150%"}
    with allgone.Popen(["sleep", "1000"], unit="myjob.scope", slice="ci.slice", description="my job", properties=given) as child:
        found = show("myjob.scope", "Slice,Description,MemoryMax,TasksMax,TimeoutStopUSec,CPUQuotaPerSecUSec,ControlGroup")
        print(found)
        where = f"/sys/fs/cgroup{found.pop('ControlGroup')}"
        assert child._containment.where().startswith(where + "/"), (child._containment.where(), where)
        assert found == {"Slice": "ci.slice", "Description": "my job", "MemoryMax": "67108864", "TasksMax": "50",
            "TimeoutStopUSec": "3s", "CPUQuotaPerSecUSec": "1.500000s"}, found
        child.stop()
    assert show("myjob.scope", "ActiveState") == {"ActiveState": "inactive"}
    """
    )
    environment.run_python(code, place=place)


@BOTH
def test_a_name_in_use_is_an_error_and_nothing_is_started(environment: Environment, place: Place) -> None:
    code = """
        import allgone, os, tempfile
        with tempfile.TemporaryDirectory() as folder, allgone.Popen(["sleep", "1000"], unit="taken.scope") as first:
            try:
                allgone.Popen(["touch", folder + "/ran"], unit="taken.scope")
            except allgone.SystemdError as e:
                assert e.dbus_name == "org.freedesktop.systemd1.UnitExists", e.dbus_name
                assert "taken.scope" in str(e), e
            else:
                raise AssertionError("no error")
            assert os.listdir(folder) == []
            assert first.poll() is None
            first.stop()
    """
    environment.run_python(code, place=place)


@BOTH
def test_a_name_is_free_as_soon_as_the_stop_is_done(environment: Environment, place: Place) -> None:
    code = """
        import allgone
        for n in range(20):
            with allgone.Popen(["sh", "-c", "setsid sleep 1000 & wait"], unit="again.scope") as child:
                child.stop()
            assert allgone.run(["sh", "-c", f"exit {n}"], unit="again.scope").returncode == n
    """
    environment.run_python(code, place=place)


@BOTH
def test_a_failed_unit_of_that_name_does_not_matter(environment: Environment, place: Place) -> None:
    code = (
        SHOW
        + """
    import allgone
    subprocess.run(["systemd-run", *user, "--quiet", "--scope", "--unit=unlucky.scope", "--property=RuntimeMaxSec=0.1", "sleep", "1000"])
    assert show("unlucky.scope", "ActiveState") == {"ActiveState": "failed"}
    assert allgone.run(["true"], unit="unlucky.scope").returncode == 0
    """
    )
    environment.run_python(code, place=place)


@pytest.mark.parametrize(
    ("given", "error", "says"),
    [
        ({"unit": "no-suffix"}, "ValueError", ".scope"),
        ({"unit": "a/b.scope"}, "ValueError", "a/b.scope"),
        ({"unit": 3}, "TypeError", "str"),
        ({"slice": "ci.scope"}, "ValueError", ".slice"),
        ({"description": "two\nlines"}, "ValueError", "one line"),
        ({"properties": {"MemoryMacks": "1G"}}, "ValueError", "did you mean 'MemoryMax'"),
        ({"properties": {"MemoryMax": "1 elephant"}}, "ValueError", "1 elephant"),
        ({"properties": {"Delegate": True}}, "ValueError", "set by allgone"),
        ({"properties": {"TasksMax": b"\xff"}}, "TypeError", "must be a text or of type int"),
        ({"unit": "x.scope", "backend": "process-group"}, "Unsupported", "x.scope"),
    ],
)
def test_bad_values_are_errors_and_nothing_is_started(
    environment: Environment, given: dict[str, object], error: str, says: str
) -> None:
    code = f"""
        import allgone, os, tempfile
        with tempfile.TemporaryDirectory() as folder:
            try:
                allgone.Popen(["touch", folder + "/ran"], **{given!r})
            except Exception as e:
                print(type(e).__name__, e)
            else:
                raise AssertionError("no error")
            assert os.listdir(folder) == []
    """
    said = environment.run_python(code).stdout
    assert said.startswith(error)
    assert says in said


def test_a_member_of_a_group_has_no_unit_of_its_own_and_nested_allgone_neither(environment: Environment) -> None:
    code = """
        import allgone, sys
        inner = "import allgone\\ntry: allgone.Popen(['true'], unit='x.scope')\\nexcept allgone.Unsupported as e: print(e)"
        done = allgone.run([sys.executable, "-c", inner], backend="cgroup", capture_output=True, text=True)
        assert "outside of the allgone that we run in" in done.stdout, done
    """
    environment.run_python(code)


@BOTH
def test_the_command_takes_them_as_options(environment: Environment, place: Place) -> None:
    ran = environment.run(
        environment.python, "-m", "allgone", "run", "--unit=cli.scope", "--slice=ci.slice", "--description=by hand",
        "--property=MemoryMax=64M", "--property", "TasksMax=40", "--", "sh", "-c",
        'cat /proc/self/cgroup; systemctl $0 show -p MemoryMax -p TasksMax -p Description cli.scope; exit 5',
        *(["--user"] if place.user != "root" else ["--no-pager"]), place=place, check=False,
    )  # fmt: skip
    assert ran.returncode == 5
    assert "/ci.slice/cli.scope/" in ran.stdout
    assert {"MemoryMax=67108864", "TasksMax=40", "Description=by hand"} <= set(ran.stdout.splitlines())


def test_the_command_says_what_is_wrong_in_one_line(environment: Environment) -> None:
    for words in (["--unit=bad"], ["--property=MemoryMacks=1"], ["--property=MemoryMax"], ["--slice=x"]):
        ran = environment.run(environment.python, "-m", "allgone", "run", *words, "--", "true", check=False)
        assert ran.returncode in (2, 125), ran
        assert "Traceback" not in ran.stderr


@BOTH
def test_a_manager_kills_a_unit_and_forgets_that_it_failed(environment: Environment, place: Place) -> None:
    code = (
        SHOW
        + """
    import os, signal
    from allgone._linux import systemd
    manager = systemd.manager_of_user(os.getuid()) if os.getuid() else systemd.SYSTEM
    subprocess.run(["systemd-run", *user, "--quiet", "--unit=doomed.service", "sleep", "1000"], check=True)
    manager.kill_unit("doomed.service", signal.SIGABRT)
    while manager.state("doomed.service") == "active": pass
    assert show("doomed.service", "Result,ExecMainStatus")["ExecMainStatus"] == "6"
    assert manager.state("doomed.service") == "failed"
    manager.reset_failed("doomed.service")
    assert manager.state("doomed.service") == "inactive"
    """
    )
    environment.run_python(code, place=place, seconds=30)


@pytest.mark.parametrize("place", [ROOT_SERVICE], ids=str)
def test_a_scope_of_its_own_and_a_network_of_its_own_go_together(environment: Environment, place: Place) -> None:
    code = (
        SHOW
        + """
    import allgone, ctypes, os, socket
    assert ctypes.CDLL(None).unshare(0x40000000) == 0  # CLONE_NEWNET, for other tests make interfaces meanwhile
    before = socket.if_nameindex()
    with allgone.Popen(["sleep", "1000"], unit="net.scope", network="veth") as child:
        assert os.readlink(f"/proc/{child.pid}/ns/net") != os.readlink("/proc/self/ns/net")
        assert len(socket.if_nameindex()) == len(before) + 1
        assert child.netns.address
        child.stop()
    assert socket.if_nameindex() == before
    assert show("net.scope", "ActiveState") == {"ActiveState": "inactive"}
    """
    )
    environment.run_python(code, place=place)


@pytest.mark.parametrize("place", [USER_SESSION], ids=str)
def test_an_ordinary_user_has_no_network_to_give_and_no_scope_is_left(environment: Environment, place: Place) -> None:
    code = (
        SHOW
        + """
    import allgone
    try:
        allgone.Popen(["sleep", "1000"], unit="net.scope", network="private")
    except allgone.Unsupported as e:
        assert "CAP_SYS_ADMIN" in str(e), e
    else:
        raise AssertionError("no error")
    assert show("net.scope", "ActiveState") == {"ActiveState": "inactive"}
    """
    )
    environment.run_python(code, place=place)
