"""docs/ci/jenkins.md: sh steps started, and stopped, as durable-task-plugin does it (BourneShellScript.java)."""

from __future__ import annotations

import os
import shlex
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.ci import JOB, Run, Site
from support.programs import PATIENCE, Held

COOKIE = "JENKINS_SERVER_COOKIE=durable-2f9c6d"


@pytest.fixture
def site(tmp_path: Path, cgroup_base: str, port: int) -> Site:
    made = Site(tmp_path, "jenkins.md", port)
    made.environment |= {"JENKINS_NODE_COOKIE": "node", "JENKINS_SERVER_COOKIE": "please-do-not-kill-me"}
    return made


@contextmanager
def sh_step(site: Site, script: str) -> Iterator[Run]:
    """The controller's command, but that it stays in the foreground, and that the log is what we read."""
    path = site.place("/durable-1/script.sh", script)
    shell = "" if script.startswith("#!") else f"'{site.root}/etc/ci/jenkins/sh' -xe "
    result = path.with_name("jenkins-result.txt")
    command = (
        f"cp '{path}' '{path}.copy'; {COOKIE} {shell}'{path}.copy'; echo $? > '{result}.tmp'; "
        f"mv '{result}.tmp' '{result}'; wait"
    )
    with site.start("nohup", "sh", "-c", command) as run:
        yield run
    assert not [pid for pid in with_cookie()]


def result(site: Site) -> int:
    return int((site.root / "durable-1/jenkins-result.txt").read_text())


def with_cookie() -> list[int]:
    """What Jenkins looks for when a build is stopped."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            if COOKIE.encode() in Path(f"/proc/{name}/environ").read_bytes().split(b"\0"):
                found.append(int(name))
        except OSError:
            continue
    return found


def send(signum: int) -> None:
    for pid in with_cookie():
        try:
            held = Held(pid)
        except ProcessLookupError:
            continue
        held.send(signum)
        held.close()


# The shell executable is sh, and what the job is made of is bash's.
SCRIPT = f"bash -c {shlex.quote(JOB)}"


def test_what_a_step_leaves_behind_is_stopped_and_named(site: Site) -> None:
    with sh_step(site, SCRIPT) as run:
        run.wait_for_job()
        run.let_go()
        assert run.process.wait(PATIENCE) == 0
        run.assert_nothing_is_left()
        assert "that the command left behind" in run.text()
        assert result(site) == 0


def test_the_exit_status_is_that_of_the_script(site: Site) -> None:
    with sh_step(site, "exit 4") as run:
        assert run.process.wait(PATIENCE) == 0
        assert result(site) == 4
        assert "+ exit 4" in run.text()


def test_a_stopped_build_leaves_nothing(site: Site) -> None:
    with sh_step(site, SCRIPT) as run:
        run.wait_for_job()
        send(signal.SIGTERM)
        assert run.process.wait(PATIENCE) == 0
        run.assert_nothing_is_left()
        assert result(site) != 0


def test_what_has_no_cookie_ends_when_jenkins_kills_those_that_have(site: Site) -> None:
    with sh_step(site, SCRIPT) as run:
        run.wait_for_job()
        send(signal.SIGKILL)
        assert run.process.wait(PATIENCE) == 0
        run.assert_nothing_is_left(PATIENCE)


def test_a_daemon_that_is_not_to_be_killed_is(site: Site) -> None:
    with sh_step(site, "JENKINS_NODE_COOKIE=dontKillMe setsid sleep 100 & echo bare $!; read _ <$GO") as run:
        held = Held(int(run.lines.wait_for("bare").split()[1]))
        run.let_go()
        assert run.process.wait(PATIENCE) == 0
        assert not held.is_alive()
        held.close()


def test_a_script_with_an_interpreter_of_its_own_is_not_contained(site: Site) -> None:
    """As the page says."""
    with sh_step(site, "#!/bin/sh\ncat /proc/self/cgroup\n") as run:
        assert run.process.wait(PATIENCE) == 0
        assert "/allgone-" not in run.text().replace(os.environ["ALLGONE_CGROUP"], "")


def test_an_agent_for_one_build_ends_with_all_of_it(site: Site) -> None:
    site.place("/usr/bin/java", f'#!/bin/bash\necho "java $*"\n{JOB}')
    site.environment |= {"JENKINS_URL": "http://127.0.0.1/", "JENKINS_AGENT": "one"}
    with site.start(str(site.root / "etc/ci/jenkins/start")) as run:
        assert run.lines.wait_for("java", "-jar", "agent.jar", "-url", "http://127.0.0.1/")
        run.wait_for_job()
        run.let_go()
        assert run.process.wait(PATIENCE) == 0
        run.assert_nothing_is_left()
