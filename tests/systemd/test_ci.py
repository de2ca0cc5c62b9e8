"""docs/ci: the hardened unit, and GitHub's recipes in it, as a system service of an ordinary user."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.ci import recipe
from support.systemd_env import (
    CHECKOUT,
    ROOT_DELEGATED,
    ROOT_SERVICE,
    USER_DELEGATED,
    USER_SESSION,
    Environment,
    Place,
)

from docs import pages

UNIT = "ci-runner@github.service"
STATE = "var/lib/ci/github"
HIDDEN = ("/root/", "/home/")  # by ProtectHome=yes
JOB = """
setsid sleep 100 >/dev/null 2>&1 &
env -i setsid sleep 100 >/dev/null 2>&1 &
(trap "" TERM; sleep 100; sleep 100) >/dev/null 2>&1 &
echo "where $(tail -n 1 /proc/self/cgroup)"
"""
# Its cgroup, for that of the unit, as its user may.
LEAVES = """
unit=$(sed -n 's|^0::\\(.*\\.service\\)/.*|/sys/fs/cgroup\\1|p' /proc/self/cgroup)
mkfifo /tmp/left
sh -c 'echo $$ >"$0/cgroup.procs"; tail -n 1 /proc/self/cgroup >/tmp/left; exec sleep 100' "$unit" &
echo "left for $(cat /tmp/left)"
"""


class Machine:
    """The environment, with the files of the recipe in it."""

    def __init__(self, environment: Environment) -> None:
        self._environment = environment
        self.state = environment.root / STATE
        python = f"PYTHONPATH={environment.variables.get('PYTHONPATH', '')} {environment.python}"
        environment.sh("useradd", "--system", "runner", check=False)
        self.place("/usr/local/bin/allgone", f'#!/bin/sh\nexec env {python} -m allgone "$@"\n')
        self.recipe = recipe("index.md") | recipe("github-actions.md")
        for name, text in self.recipe.items():
            if f"{UNIT}.d" not in name:
                self.place(name, text)
        if f"{CHECKOUT}/".startswith(HIDDEN) or sys.base_prefix.startswith(HIDDEN):
            self.place(f"/etc/systemd/system/{UNIT}.d/python.conf", "[Service]\nProtectHome=no\n")
        self.place("/job.sh", JOB)
        self.place("/etc/ci/github/jitconfig", "#!/bin/sh\necho once\n")
        # The runner: it hears by a pipe, and says things in a file.
        self.place(
            f"/{STATE}/run.sh",
            f'#!/bin/sh\nexec >>log 2>&1\necho "run.sh $* $(id -un)"\n'
            f"exec {environment.python} {CHECKOUT}/tests/runners/github.py <>words\n",
        )
        environment.sh("sh", "-c", f"cd /{STATE}; mkfifo words; touch log; chown -R runner: .")

    def start(self, drop_in: str) -> None:
        path = f"/etc/systemd/system/{UNIT}.d/{drop_in}"
        self.place(path, self.recipe[path])
        self._environment.systemctl("daemon-reload")
        self._environment.systemctl("start", UNIT)

    def place(self, path: str, text: str) -> None:
        """An executable file. Nobody has the patience that it has."""
        placed = self._environment.root / path[1:]
        placed.parent.mkdir(parents=True, exist_ok=True)
        placed.write_text(re.sub(r"--timeout-stop \d+s", "--timeout-stop 500ms", text), encoding="utf-8")
        placed.chmod(0o755)

    def say(self, line: str) -> None:
        self.wait_for("run.sh")
        (self.state / "words").write_text(line + "\n")

    def wait_for(self, text: str, count: int = 1) -> str:
        """The log, once it has that so many times. It has no event across mount namespaces."""
        deadline = time.monotonic() + 60
        while (log := (self.state / "log").read_text()).count(text) < count:
            assert time.monotonic() < deadline, log + self._environment.sh("journalctl", "-u", UNIT)
            time.sleep(0.02)
        return log

    def sleepers(self) -> int:
        """How many of the job's processes live in the unit's cgroup."""
        found = 0
        for folder in self._environment.tree():
            if UNIT in str(folder):
                try:
                    pids = (folder / "cgroup.procs").read_text().split()
                    found += sum(Path(f"/proc/{pid}/comm").read_text() == "sleep\n" for pid in pids)
                except OSError:
                    continue  # gone meanwhile
        return found

    def remove(self) -> None:
        self._environment.systemctl("stop", UNIT)
        units = f"/etc/systemd/system/ci-runner@.service /etc/systemd/system/{UNIT}.d"
        self._environment.sh("sh", "-c", f"rm -r /etc/ci /{STATE} /job.sh {units}; systemctl daemon-reload")


@pytest.fixture
def machine(environment: Environment) -> Iterator[Machine]:
    made = Machine(environment)
    yield made
    made.remove()


def test_hooks_in_the_hardened_unit_end_what_each_job_leaves(environment: Environment, machine: Machine) -> None:
    machine.place("/etc/ci/github/start", machine.recipe["/etc/ci/github/start, with hooks"])
    machine.start("hooks.conf")
    for n in (1, 2):
        machine.say("/job.sh")
        log = machine.wait_for("job succeeded", n)
        assert log.count("::warning title=allgone::stopped 4 processes that the job left behind") == n
        assert machine.sleepers() == 0
    assert "run.sh  runner" in log
    where = re.findall(r"where 0::(\S+)", log)
    assert len(set(where)) == 2
    assert all(re.fullmatch(rf"\S+/{UNIT}/allgone-\d+-[0-9a-f]+/run-42", each) for each in where)


def test_stopping_the_unit_ends_the_job(environment: Environment, machine: Machine) -> None:
    machine.place("/job.sh", JOB + "echo all; sleep 100; sleep 100\n")
    machine.start("jit.conf")
    machine.say("/job.sh")
    machine.wait_for("all\n")
    assert machine.sleepers() > 0
    environment.systemctl("stop", UNIT)
    assert machine.sleepers() == 0
    assert environment.systemctl("is-active", UNIT) == ["inactive"]


def test_an_ephemeral_runner_is_started_anew_for_each_job(environment: Environment, machine: Machine) -> None:
    machine.place("/job.sh", JOB + LEAVES + "kill -TERM $(ps -o ppid= -p $PPID)\n")  # the listener: one job is enough
    machine.start("jit.conf")
    for n in (1, 2):
        machine.wait_for("run.sh --jitconfig once runner", n)
        machine.say("/job.sh")
        machine.wait_for("where ", n)
    log = machine.wait_for("run.sh --jitconfig once runner", 3)
    assert machine.sleepers() == 0
    assert len(set(re.findall(r"where 0::(\S+)/job", log))) == 2
    assert len(re.findall(rf"left for 0::\S+/{UNIT}$", log, re.MULTILINE)) == 2


HOOKS = """
command="$0 -m allgone job"
sh -c "$command begin --pid \\$PPID; exit \\$?" || exit
tail -n 1 /proc/self/cgroup
setsid sleep 100 >/dev/null 2>&1 &
sh -c "$command end; exit \\$?" || exit
tail -n 1 /proc/self/cgroup
"""


@pytest.mark.parametrize("place", [ROOT_DELEGATED, USER_DELEGATED], ids=str)
def test_a_job_is_in_the_cgroup_that_is_delegated(place: Place, environment: Environment) -> None:
    done = environment.run("sh", "-c", HOOKS, environment.python, place=place)
    assert "stopped 1 process that the job left behind" in done.stderr
    inside, after = re.findall(r"^0::(\S+)$", done.stdout, re.MULTILINE)
    assert re.fullmatch(rf"{re.escape(after)}/allgone-\d+-[0-9a-f]+/job", inside)


@pytest.mark.parametrize("place", [ROOT_SERVICE, USER_SESSION], ids=str)
def test_without_delegation_there_is_no_job(place: Place, environment: Environment) -> None:
    done = environment.run("sh", "-c", HOOKS, environment.python, place=place, check=False)
    assert done.returncode == 125
    assert "(Delegate=yes in the runner's unit, or a cgroup that ALLGONE_CGROUP names)" in done.stderr


def _rows() -> dict[str, list[str]]:
    """What the page says of other directives -> which."""
    found = {}
    for line in (pages.ROOT / "docs/ci/index.md").read_text(encoding="utf-8").splitlines():
        cells = [each.strip() for each in line.strip("|").split("|")]
        if len(cells) == 2 and cells[0].startswith("`") and "=" in cells[0]:
            found[cells[1]] = re.findall(r"`([^`]+)`", cells[0])
    return found


ROWS = _rows()
WORKS = ROWS["works"]
BREAKS = [(each, said) for said, those in ROWS.items() if said.startswith("breaks it") for each in those]


def tried(environment: Environment, *directives: str) -> tuple[int, str]:
    environment.sh("useradd", "--system", "runner", check=False)
    properties = [word for each in ("User=runner", "Delegate=yes", *directives) for word in ("-p", each)]
    argv = [
        environment.python,
        "-m",
        "allgone",
        "run",
        "--backend",
        "cgroup",
        "--",
        "tail",
        "-n",
        "1",
        "/proc/self/cgroup",
    ]
    done = environment.run(*argv, options=properties, check=False)
    return done.returncode, done.stdout + done.stderr


def test_what_is_said_to_work_works(environment: Environment) -> None:
    status, said = tried(environment, *WORKS)
    assert status == 0, said
    assert re.search(r"\.service/allgone-\d+-[0-9a-f]+/1-tail", said)


@pytest.mark.parametrize(("directive", "how"), BREAKS)
def test_what_is_said_to_break_it_does(directive: str, how: str, environment: Environment) -> None:
    status, said = tried(environment, directive)
    assert "0::" not in said
    if "SIGSYS" in how:
        assert status == 128 + 31
    else:
        assert status == 125
        assert "backend 'cgroup' is not available here" in said


def test_a_login_session_is_elsewhere(environment: Environment) -> None:
    status, said = tried(environment, "PAMName=login")
    assert status == 0
    assert ".service/allgone-" not in said
