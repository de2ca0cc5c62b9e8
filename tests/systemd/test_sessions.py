"""Login sessions as a supervisor's environment: what ssh, su, sudo, runuser and machinectl make of it."""

from __future__ import annotations

import textwrap

import pytest
from support.systemd_env import ROOT_SERVICE, USER_SESSION, Environment, Place
from support.tiers import missing

WHERE = """
    import allgone
    with allgone.Popen(["sleep", "1000"], backend="cgroup", name="child") as child:
        print(open("/proc/self/cgroup").read().split("0::")[1].strip(), child._containment.where(), flush=True)
        child.stop()
"""


@pytest.fixture
def script(environment: Environment) -> str:
    """A file inside: started by whatever shell, it needs no quoting, and no variable."""
    path = environment.variables.get("PYTHONPATH", "")
    code = f"import sys\nsys.path[:0] = {path.split(':')!r}\n" + textwrap.dedent(WHERE)
    environment.run("tee", "/run/where.py", input=code)
    return "/run/where.py"


def needs(environment: Environment, program: str, package: str) -> None:
    if environment.run("sh", "-c", f"command -v {program}", check=False).returncode:
        missing(f"no {program} inside: apt-get install {package}")


def where(environment: Environment, *argv: str, place: Place = ROOT_SERVICE) -> tuple[str, str]:
    """The supervisor's own cgroup and its child's, below /sys/fs/cgroup."""
    own, child = environment.run(*argv, place=place).stdout.split()[-2:]
    return own, child.removeprefix("/sys/fs/cgroup")


def of_user(environment: Environment, user: str) -> str:
    uid = environment.uid(user)
    return f"/user.slice/user-{uid}.slice/user@{uid}.service/"


@pytest.mark.parametrize("user", ["alice", "bob", "root"])
def test_ssh(environment: Environment, script: str, user: str) -> None:
    """A real sshd with PAM, on the other end of a pipe: no port is taken."""
    needs(environment, "sshd", "openssh-server")
    needs(environment, "ssh", "openssh-client")
    keys = "rm -rf /run/ssh; mkdir -p /run/ssh /run/sshd; ssh-keygen -qt ed25519 -N '' -f /run/ssh/id"
    environment.run("sh", "-c", keys + "; chmod 644 /run/ssh/id.pub")
    sshd = "/usr/sbin/sshd -i -f /dev/null -h /run/ssh/id"
    for option in ("UsePAM=yes", "AuthorizedKeysFile=/run/ssh/id.pub", "StrictModes=no", "PermitRootLogin=yes"):
        sshd += f" -o {option}"
    client = ("-F", "none", "-i", "/run/ssh/id", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no",
              "-o", "UserKnownHostsFile=/dev/null", "-o", f"ProxyCommand={sshd}")  # fmt: skip
    own, child = where(environment, "ssh", *client, f"{user}@inside", environment.python, script)
    assert own.startswith(f"/user.slice/user-{environment.uid(user)}.slice/session-"), own
    assert child.startswith("/user.slice/" if user == "root" else of_user(environment, user)), child
    assert ".scope/child" in child


@pytest.mark.parametrize("user", ["alice", "root"])
def test_machinectl_shell(environment: Environment, script: str, user: str) -> None:
    needs(environment, "machinectl", "systemd-container")
    # It has a terminal of its own, and hangs it up when its standard input ends.
    command = f"{environment.python} {script} > /tmp/{user}.where"
    words = ("machinectl", "--quiet", "shell", f"{user}@.host", "/bin/sh", "-c", command)
    with environment.start(*words) as process:
        assert process.wait(60) == 0
    own, child = where(environment, "cat", f"/tmp/{user}.where")
    assert own.startswith(f"/user.slice/user-{environment.uid(user)}.slice/session-"), own
    assert child.startswith("/user.slice/" if user == "root" else of_user(environment, user)), child
    assert ".scope/child" in child


@pytest.mark.parametrize("program", ["su", "runuser"])
def test_su_and_runuser(environment: Environment, script: str, program: str) -> None:
    """With `-` they open a PAM session, and with it a user manager is there; XDG_RUNTIME_DIR may or may not say so."""
    _, child = where(environment, program, "-", "bob", "-c", f"{environment.python} {script}")
    assert child.startswith(of_user(environment, "bob")), child
    assert ".scope/child" in child


@pytest.mark.parametrize("options", [(), ("-i",)], ids=["sudo", "sudo-i"])
def test_sudo_to_a_user_whose_manager_runs(environment: Environment, script: str, options: tuple[str, ...]) -> None:
    needs(environment, "sudo", "sudo")
    _, child = where(environment, "sudo", *options, "-u", "bob", environment.python, script)
    assert child.startswith(of_user(environment, "bob")), child


@pytest.mark.parametrize("options", [(), ("-i",), ("-E",)], ids=["sudo", "sudo-i", "sudo-E"])
def test_sudo_to_root_from_a_login_session(environment: Environment, script: str, options: tuple[str, ...]) -> None:
    """The system's manager is asked, whatever the user's environment says, and the scope is bound to the session."""
    needs(environment, "sudo", "sudo")
    environment.run("sh", "-c", "umask 337; echo 'alice ALL=(ALL) NOPASSWD: SETENV: ALL' > /etc/sudoers.d/alice")
    own, child = where(environment, "sudo", *options, environment.python, script, place=USER_SESSION)
    assert "/session-" in own
    assert child.startswith(f"/user.slice/user-{environment.uid('alice')}.slice/allgone-"), child
