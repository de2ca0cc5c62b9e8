"""Where a supervisor may find itself on a systemd machine, besides those that all tests here run in."""

from __future__ import annotations

import textwrap

from support.systemd_env import ROOT_SERVICE, USER_SESSION, Environment, Place, container

WHERE = """
    import allgone
    with allgone.Popen(["sleep", "1000"], backend="cgroup", name="child") as child:
        print(open("/proc/self/cgroup").read().split("0::")[1].strip(), child._containment.where(), flush=True)
        child.stop()
"""


def where(environment: Environment, *before: str, place: Place = ROOT_SERVICE) -> tuple[str, str]:
    """The supervisor's own cgroup and its child's, for a supervisor that is started by the command `before`."""
    ran = environment.run(*before, environment.python, "-c", textwrap.dedent(WHERE), place=place)
    own, child = ran.stdout.split()[-2:]
    return own, child


def test_nested_allgone_stays_inside_the_outer_ones_containment(environment: Environment) -> None:
    for place in (ROOT_SERVICE, USER_SESSION):
        outer = (environment.python, "-m", "allgone", "run", "--backend=cgroup", "--name=outer", "--")
        own, child = where(environment, *outer, place=place)
        assert own.endswith("/outer")
        assert child.startswith(f"/sys/fs/cgroup{own}/")


def test_oneshot_service_whose_start_ends_when_the_supervisor_does(environment: Environment) -> None:
    before = ("systemd-run", "--quiet", "--pipe", "--wait", "--service-type=oneshot", "--collect")
    path = f"--setenv=PYTHONPATH={environment.variables.get('PYTHONPATH', '')}"
    own, child = where(environment, *before, path, "--")
    assert ".scope/" in child
    assert own.endswith(".service")


def test_exec_stop_post_of_a_service_that_is_being_stopped(environment: Environment) -> None:
    code = 'import allgone; print(allgone.run(["echo", "cleaned"], backend="cgroup", capture_output=True, text=True).stdout)'
    script = f"exec {environment.python} -c '{code}' > /run/stop-post 2>&1"
    environment.run("tee", "/run/stop-post.sh", input=script)
    environment.run("systemd-run", "--quiet", "--wait", "--collect", "--setenv=PYTHONPATH=" + environment.variables.get("PYTHONPATH", ""),
        "--property=ExecStopPost=/bin/sh /run/stop-post.sh", "true")  # fmt: skip
    assert environment.run("cat", "/run/stop-post").stdout.split() == ["cleaned"]


def test_xdg_runtime_dir_of_somebody_else_is_not_followed(environment: Environment) -> None:
    uid = environment.run("id", "-u", "alice").stdout.strip()
    session = environment.start("sleep", "1000", place=USER_SESSION)
    try:
        bob = Place("bob", ("--property", "User=bob"), user="bob")
        _, child = where(environment, "env", f"XDG_RUNTIME_DIR=/run/user/{uid}", place=bob)
        assert f"user@{environment.run('id', '-u', 'bob').stdout.strip()}.service" in child
    finally:
        session.terminate()
        session.communicate()


def test_container_without_systemd_uses_its_own_cgroup(environment: Environment) -> None:
    """A cgroup namespace, a pid namespace, and nothing of /run: as in a privileged container."""
    own, child = where(environment, *container())
    assert own == "/"
    assert child.startswith("/sys/fs/cgroup/allgone-")


READ_ONLY = """
import allgone
try:
    allgone.Popen(["true"], backend="cgroup")
except allgone.BackendUnavailable as e:
    assert "mounted read-only" in str(e), e
    print(e)
else:
    raise AssertionError("no error")
assert allgone.Popen(["true"]).backend == "process-group"
"""


def test_container_with_a_read_only_cgroup_file_system_has_process_groups(environment: Environment) -> None:
    environment.run(*container(writable=False), environment.python, "-c", READ_ONLY)


def test_where_systemd_gives_scopes_a_read_only_cgroup_file_system_has_process_groups_too(
    environment: Environment,
) -> None:
    """As in a service with ProtectControlGroups=yes (systemd.exec(5))."""
    ran = environment.run(environment.python, "-c", READ_ONLY, options=("-p", "ProtectControlGroups=yes"))
    assert "leave ProtectControlGroups=yes out" in ran.stdout


def test_a_systemd_outside_of_the_container_is_not_asked(environment: Environment) -> None:
    """Its socket is there, but it does not know our pids."""
    code = """
        import allgone
        try:
            allgone.Popen(["true"], unit="x.scope")
        except (allgone.SystemdError, allgone.BackendUnavailable) as e:
            print(e)
    """
    ran = environment.run(*container(systemd=True), environment.python, "-c", textwrap.dedent(code))
    assert "outside this container" in ran.stdout
