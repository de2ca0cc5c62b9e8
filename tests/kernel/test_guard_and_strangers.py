"""Children that mean harm: whatever they do in their part of the cgroup tree, guard and janitor end what is theirs, hit
nobody else, and come to an end.

What is defended: processes and cgroups of others. No name, depth, number, mark, lock or directory makes guard or janitor
write to a cgroup, or signal a process, that is not below the directory that the supervisor made.

What is not: a process of the same user may signal whomever that user may signal, the guard as well, and move whom it may
move; what it moves into the supervisor's directory is taken for a member, and what it moves out is not looked for. It may
mark itself as released or as polite, hold the lock or forge the owner: that spares itself, until root or that user
looks. Children that are not trusted belong to another user (``user=``), for whom none of that can be written.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import pytest
from support import cgroups, procfs
from support.backends import BackendUnderTest
from support.cgroupv2 import OWN_CGROUP, says, wait_until, write
from support.programs import PATIENCE, PROGRAMS, Held
from support.programs import command as program
from support.supervisors import Supervisor, say

import allgone
from allgone._backends import cgroup_base

CGROUP = BackendUnderTest("cgroup", sweep=False)


@pytest.fixture
def place(cgroup_base: str) -> Iterator[str]:
    """A cgroup directory of the test's own; with bystanders in it."""
    folder = f"{cgroup_base}/place"
    os.mkdir(folder)
    yield folder
    # Children nest deeper than a path can be long; find(1) knows how to go there.
    cgroups.write(f"{folder}/cgroup.kill", "1")
    wait_until(folder, lambda: not says(folder, "populated"))
    deadline = time.monotonic() + PATIENCE
    while subprocess.run(["find", folder, "-depth", "-type", "d", "-delete"], stderr=subprocess.DEVNULL).returncode:
        assert time.monotonic() < deadline, folder


class Bystanders:
    """Processes and cgroups beside the supervisor's that look like what it has, and another supervisor's."""

    def __init__(self, place: str, stack: ExitStack) -> None:
        self.processes = [stack.enter_context(_killed(subprocess.Popen(["sleep", "1000"]))) for _ in range(3)]
        self.folders = [f"{place}/{name}" for name in ("allgone-1-0badcafe", "guard", "1-python")]
        for folder, process in zip(self.folders, self.processes, strict=True):
            os.mkdir(folder)
            write(folder, "cgroup.procs", str(process.pid))
        other = stack.enter_context(Supervisor(starts, CGROUP, ["sleep", "1000"], {}, env={"ALLGONE_CGROUP": place}))
        self._home = other.lines.wait_for("home").split()[1]
        self._contained = cgroups.pids(f"{self._home}/1-sleep")

    def are_all_there(self) -> bool:
        return (
            all(each.poll() is None for each in self.processes)
            and all(map(os.path.isdir, self.folders))
            and cgroups.pids(f"{self._home}/1-sleep") == self._contained != []
        )


@contextmanager
def _killed(process: subprocess.Popen[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def bystanders(place: str) -> Iterator[Bystanders]:
    with ExitStack() as stack:
        yield Bystanders(place, stack)


def starts(options: dict, args: list[str], policy: dict) -> None:
    process = allgone.Popen(args, stdin=subprocess.DEVNULL, policy=allgone.StopPolicy(**policy), **options)
    say("home", os.path.dirname(process._containment.where()))
    signal.pause()  # noqa: F821


class Attacked:
    """A supervisor whose child means harm, when that has done it."""

    def __init__(self, place: str, code: str, *words: str, kind: str = "compiled", policy: dict | None = None) -> None:
        mount = cgroup_base.find(place).mount.point
        args = [sys.executable, "-S", "-B", "-c", OWN_CGROUP + "from unruly import *\n" + code, *words]
        modules = os.pathsep.join([str(PROGRAMS), *filter(None, [os.environ.get("PYTHONPATH")])])
        env = {"ALLGONE_CGROUP": place, "CGROUP2": mount, "PYTHONPATH": modules, "ALLGONE_LAUNCHER": kind}
        self.supervisor = Supervisor(starts, CGROUP, args, policy or {}, env=env)
        try:
            self.home = self.supervisor.lines.wait_for("home").split()[1]
            self.supervisor.lines.wait_for("ready")
        except BaseException:
            self.close()
            raise

    def guards(self) -> list[int]:
        """Its guard, whatever that has become."""
        found = []
        for each in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open(f"/proc/{each}/cmdline", "rb") as f:
                    words = f.read().rstrip(b"\0").split(b"\0")
            except (FileNotFoundError, ProcessLookupError):
                continue
            if words[-1] == b"%d" % self.supervisor.process.pid and any(w.endswith(b"/guard.py") for w in words):
                found.append(int(each))
        return found

    def dies(self) -> None:
        """And waits until its guard has done what it does."""
        self.supervisor.process.kill()
        self.supervisor.ends()
        deadline = time.monotonic() + PATIENCE
        nobody = 0
        while nobody < 3:  # it may go on as another process, also between two looks
            left = self.guards()
            assert time.monotonic() < deadline, list(map(procfs.describe, left))
            nobody = 0 if left else nobody + 1
            for each in left:
                procfs.ends_within(each, deadline - time.monotonic())

    def dies_with_its_guard(self) -> None:
        for each in self.guards():
            procfs.end(each)
        self.supervisor.process.kill()
        self.supervisor.ends()

    def nothing_is_left(self) -> bool:
        return self.supervisor.lines.are_over(PATIENCE) and not os.path.exists(self.home)

    def close(self) -> None:
        self.supervisor.close()

    def __enter__(self) -> Attacked:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def sweeps(options: dict) -> None:
    allgone.run(["true"], **options)


def sweep(place: str) -> None:
    """A next supervisor comes, which is a janitor, and succeeds in what it does itself."""
    with Supervisor(sweeps, CGROUP, env={"ALLGONE_CGROUP": place}) as supervisor:
        supervisor.succeeds()


@pytest.fixture(params=["guard", "janitor"])
def end(request: pytest.FixtureRequest, place: str) -> Callable[[Attacked], None]:
    """The end of a supervisor, and of what it left by its guard or by a janitor."""

    def by_guard(attacked: Attacked) -> None:
        attacked.dies()

    def by_janitor(attacked: Attacked) -> None:
        attacked.dies_with_its_guard()
        sweep(place)

    return by_guard if request.param == "guard" else by_janitor


DEEP = """
import sys
depth, name = int(sys.argv[1]), sys.argv[2]
os.chdir(own_cgroup())
for n in range(depth):
    os.mkdir(name)
    os.chdir(name)
if fork() == 0:
    with open("cgroup.procs", "w") as f:
        f.write("0")
    ready()
sleep_on()
"""


@pytest.mark.parametrize(("depth", "name"), [(1000, "d"), (1000, "d" * 200)], ids=["short", "long"])
def test_a_tree_a_thousand_deep_is_ended_and_removed(
    place: str, bystanders: Bystanders, end: Callable[[Attacked], None], depth: int, name: str
) -> None:
    """Also where the kernel itself can't say the path: it is longer than PATH_MAX."""
    with Attacked(place, DEEP, str(depth), name) as attacked:
        end(attacked)
        assert attacked.nothing_is_left()
    assert bystanders.are_all_there()


WIDE = """
import sys
count, where = int(sys.argv[1]), sys.argv[2]
os.chdir(own_cgroup() + where)
for n in range(count):
    os.mkdir(f"c{n}")
    if n % (count // 20) == 0 and fork() == 0:
        with open(f"c{n}/cgroup.procs", "w") as f:
            f.write("0")
        sleep_on()
ready()
sleep_on()
"""


@pytest.mark.parametrize("where", ["", "/.."], ids=["in its own cgroup", "beside it"])
def test_ten_thousand_cgroups_are_ended_and_removed(
    place: str, bystanders: Bystanders, end: Callable[[Attacked], None], where: str
) -> None:
    with Attacked(place, WIDE, "10000", where) as attacked:
        end(attacked)
        assert attacked.nothing_is_left()
    assert bystanders.are_all_there()


FORGES = """
import sys
own = own_cgroup()
folder = own if sys.argv[1] == "own" else os.path.dirname(own)
os.mkdir(own + "/inner")
for each in (folder, own + "/inner"):
    os.setxattr(each, sys.argv[2], os.fsencode(sys.argv[3]).replace(b"|", b"\\0"))
ready()
sleep_on()
"""
HUGE = "9" * 50_000
MARKS = [
    ("user.allgone.leader", "{bystander}"),
    ("user.allgone.leader", HUGE),
    ("user.allgone.leader", "-1"),
    ("user.allgone.containment", "1 17.0 1 9 1 10 10|sh"),
    ("user.allgone.containment", "1 nan 0 15 0 inf inf"),
    ("user.allgone.containment", "1 1 0 15 0 -5 1e999|x"),
    ("user.allgone.containment", HUGE),
    ("user.allgone.containment", "\udcff\udcfe|"),
    ("user.allgone.polite", ""),
    ("user.allgone.polite", HUGE),
    ("user.allgone.owner", "1 {bystander} 1 1"),
    ("user.allgone.else", HUGE),
]


@pytest.mark.parametrize(("mark", "value"), MARKS, ids=lambda text: text[:40].encode("ascii", "replace").decode())
@pytest.mark.parametrize("mode", ["control-group", "mixed"])
def test_marks_that_a_child_forges_on_its_own_cgroup_hit_nobody_and_save_nobody(
    place: str, bystanders: Bystanders, end: Callable[[Attacked], None], mark: str, value: str, mode: str
) -> None:
    value = value.format(bystander=bystanders.processes[0].pid)
    with Attacked(place, FORGES, "own", mark, value, policy={"kill_mode": mode, "guard_timeout": 0.1}) as attacked:
        end(attacked)
        assert attacked.nothing_is_left()
    assert bystanders.are_all_there()


OWNERS = [
    "1 {bystander} 1 1",
    "1 1 1 1",
    "2 what a later version writes",
    "",
    HUGE,
    "1 " + "9" * 300 + " 1 1",
    "\udcff",
]


@pytest.mark.parametrize("owner", OWNERS, ids=lambda text: text[:30].encode("ascii", "replace").decode())
def test_an_owner_that_a_child_forges_is_nothing_to_the_guard(place: str, bystanders: Bystanders, owner: str) -> None:
    owner = owner.format(bystander=bystanders.processes[0].pid)
    with Attacked(place, FORGES, "home", "user.allgone.owner", owner) as attacked:
        sweep(place)
        assert attacked.supervisor.process.poll() is None
        attacked.dies()
        assert attacked.nothing_is_left()
    assert bystanders.are_all_there()


@pytest.mark.parametrize("owner", OWNERS, ids=lambda text: text[:30].encode("ascii", "replace").decode())
def test_an_owner_that_a_child_forges_does_not_lead_a_janitor_to_others(
    place: str, bystanders: Bystanders, owner: str
) -> None:
    """It takes the directory for somebody else's, or it sweeps it: no more than that."""
    owner = owner.format(bystander=bystanders.processes[0].pid)
    with Attacked(place, FORGES, "home", "user.allgone.owner", owner) as attacked:
        attacked.dies_with_its_guard()
        sweep(place)
        assert attacked.supervisor.lines.are_over() == (not os.path.exists(attacked.home))
        assert bystanders.are_all_there()
        cgroups.remove_all(attacked.home)
    assert bystanders.are_all_there()


LOCKS = """
import fcntl
home = os.open(os.path.dirname(own_cgroup()), os.O_RDONLY)
try:
    fcntl.flock(home, fcntl.LOCK_SH | fcntl.LOCK_NB)
except BlockingIOError:
    pass  # it is the supervisor's
for kind in (fcntl.LOCK_EX, fcntl.LOCK_SH):
    if fork() == 0:
        ready()
        while True:
            fcntl.flock(home, kind)
ready()
sleep_on()
"""


def test_a_child_that_waits_for_the_lock_does_not_stop_the_guard(place: str, bystanders: Bystanders) -> None:
    with Attacked(place, LOCKS) as attacked:
        attacked.dies()
        assert attacked.nothing_is_left()
    assert bystanders.are_all_there()


REPLACES = """
import sys
bystander, place = sys.argv[1:3]
own = own_cgroup()
home = os.path.dirname(own)

def put(folder, pid):
    with open(folder + "/cgroup.procs", "w") as f:
        f.write(pid)

put(place, "0")
while (guard := open(home + "/guard/cgroup.procs").read().strip()) == "":
    pass
put(place, guard)
import time
for folder in (own, home + "/guard", home):
    while True:
        try:
            os.rmdir(folder)
            break
        except OSError:  # EBUSY: for a moment after they have left
            time.sleep(0.002)
os.mkdir(home)
os.mkdir(own)
put(own, bystander)
here("child")
ready()
sleep_on()
"""


@pytest.mark.parametrize("kind", ["compiled", "interpreted"])
def test_a_directory_in_the_place_of_the_supervisors_is_not_the_supervisors(
    place: str, bystanders: Bystanders, kind: str
) -> None:
    """It has another inode. The child that has left is not looked for."""
    stranger = bystanders.processes[0]
    with Attacked(place, REPLACES, str(stranger.pid), place, kind=kind) as attacked:
        child = Held(int(attacked.supervisor.lines.wait_for("child").split()[1]))
        try:
            attacked.dies()
            assert stranger.poll() is None
            assert cgroups.pids(attacked.home) == [stranger.pid]
            sweep(place)
            assert cgroups.pids(attacked.home) == [stranger.pid]
            assert child.is_alive()
        finally:
            child.end()
            child.close()
    assert bystanders.are_all_there()


HOPS = """
import sys
chains, hops = int(sys.argv[1]), int(sys.argv[2])
for _ in range(chains):
    if fork() == 0:
        for n in range(hops):  # nobody is there for long
            if fork():
                os._exit(0)
            if n == 10:
                ready()
        break
sleep_on()
"""


def test_a_child_that_forks_and_goes_all_the_time_is_not_faster(
    place: str, bystanders: Bystanders, end: Callable[[Attacked], None]
) -> None:
    with Attacked(place, HOPS, "4", "1000") as attacked:
        end(attacked)
        assert attacked.nothing_is_left()
    assert bystanders.are_all_there()


def test_a_fork_bomb_is_not_faster(place: str, bystanders: Bystanders, end: Callable[[Attacked], None]) -> None:
    path = program("fork_bomb")[-1]
    with Attacked(place, f"exec(open({path!r}).read())") as attacked:
        end(attacked)
        assert attacked.nothing_is_left()
    assert bystanders.are_all_there()
