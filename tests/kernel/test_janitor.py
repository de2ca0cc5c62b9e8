"""The janitor: what lost its supervisor and its guard is ended and removed; what anybody takes care of is left alone."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from support import cgroups, users
from support.backends import BackendUnderTest
from support.cgroupv2 import freeze, says, wait_until, write
from support.delegation import NOBODY, delegated
from support.programs import PATIENCE, PROGRAMS, Held, command
from support.supervisors import Supervisor, say

import allgone

CGROUP = BackendUnderTest("cgroup", sweep=False)
DEAF = ["sh", "-c", "trap '' TERM; sleep 1000 & setsid sleep 1000 & wait"]


@pytest.fixture
def place(cgroup_base: str) -> Iterator[str]:
    """A cgroup directory of the test's own, for supervisors to work below."""
    folder = f"{cgroup_base}/place"
    os.mkdir(folder)
    yield folder
    cgroups.remove_all(folder)


def starts(options: dict, args: list[str], guard: bool, count: int = 1) -> None:
    processes = [allgone.Popen(args, stdin=subprocess.DEVNULL, guard=guard, **options) for _ in range(count)]
    for each in processes:
        while len(each.members()) < 3:
            time.sleep(0.001)
        for pid in each.members():
            say("member", pid)
    say("home", os.path.dirname(processes[0]._containment.where()))
    signal.pause()


def starts_and_execs(options: dict, args: list[str], guard: bool) -> None:
    process = allgone.Popen(args, stdin=subprocess.DEVNULL, guard=guard, **options)
    while len(process.members()) < 3:
        time.sleep(0.001)
    for pid in process.members():
        say("member", pid)
    home = os.path.dirname(process._containment.where())
    os.execvp("sh", ["sh", "-c", f"echo home {home}; exec sleep 1000"])


class Owner:
    """A supervisor with a tree of processes, and what becomes of both."""

    def __init__(
        self,
        place: str,
        *more: object,
        function: Callable[..., object] = starts,
        args: list[str] = DEAF,
        guard: bool = True,
        before: tuple[str, ...] = (),
        **options: object,
    ) -> None:
        self.lines: list[str] = []
        if before:
            options["executable"] = before[0]
        self.supervisor = Supervisor(function, CGROUP, args, guard, *more, env={"ALLGONE_CGROUP": place}, **options)
        self.members: list[Held] = []
        self.guard: Held | None = None
        try:
            self.home = self.supervisor.lines.wait_for("home").split()[1]
            said = [line.split() for line in self.supervisor.lines.read]
            self.members = [Held(int(words[1])) for words in said if words[0] == "member"]
            if guard:
                wait_until(self.home + "/guard", lambda: says(self.home + "/guard", "populated"))
                self.guard = Held(*cgroups.pids(self.home + "/guard"))
        except BaseException:
            self.close()
            raise

    @property
    def pid(self) -> int:
        return self.supervisor.process.pid

    def dies(self) -> None:
        self.supervisor.process.kill()
        self.supervisor.ends()

    def dies_with_its_guard(self, first: str = "guard") -> None:
        assert self.guard is not None
        os.kill(self.guard.pid, signal.SIGSTOP)  # or else it would be faster than we are
        if first == "supervisor":
            self.dies()
        self.guard.end()
        if first == "guard":
            self.dies()

    def is_untouched(self) -> bool:
        return os.path.isdir(self.home) and all(each.is_alive() for each in self.members)

    def is_gone(self) -> bool:
        return not os.path.exists(self.home) and all(each.ends_within(PATIENCE) for each in self.members)

    def close(self) -> None:
        self.supervisor.close()
        for each in (*self.members, *filter(None, [self.guard])):
            each.end()
            each.close()

    def __enter__(self) -> Owner:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def sweeps(options: dict, most_fds: int = 0) -> None:
    import logging

    class Said(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            say("log", record.name, record.levelname, record.getMessage())

    logging.getLogger().addHandler(Said())
    if most_fds:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most_fds, most_fds))  # noqa: F821
    allgone.run(["true"], **options)


@contextmanager
def next_supervisor(place: str, **options: object) -> Iterator[Supervisor]:
    """One that starts something, and so is a janitor."""
    with Supervisor(sweeps, CGROUP, env={"ALLGONE_CGROUP": place}, **options) as supervisor:
        yield supervisor


def logged(place: str, *arguments: object) -> list[str]:
    """What the next supervisor logs, as ``LOGGER LEVEL text``."""
    with Supervisor(sweeps, CGROUP, *arguments, env={"ALLGONE_CGROUP": place}) as supervisor:
        supervisor.succeeds()
        assert supervisor.lines.are_over(PATIENCE)
        return [line.removeprefix("log ") for line in supervisor.lines.read]


@pytest.fixture
def point() -> Iterator[Path]:
    """A directory that everybody can reach, to mount something on."""
    made = Path(tempfile.mkdtemp())
    made.chmod(0o755)
    yield made
    made.rmdir()


@pytest.fixture
def gc(place: str, point: Path) -> Callable[..., list[str]]:
    """`allgone gc`, which sees no other cgroups than those of this test; what it prints."""

    def run(*words: str, before: tuple[str, ...] = ()) -> list[str]:
        done = subprocess.run(only_here(place, point, *before, sys.executable, "-m", "allgone", "gc", *words),
                              capture_output=True, text=True, timeout=2 * PATIENCE)  # fmt: skip
        assert (done.returncode, done.stderr) == (0, "")
        mine = [line for line in done.stdout.splitlines() if not line.startswith("left alone")]
        return [line.replace(str(point), place) for line in mine]

    return run


def only_here(place: str, point: Path, *words: str) -> list[str]:
    return ["sh", str(PROGRAMS / "only_here.sh"), place, str(point), *words]


def names(text: str, owner: Owner) -> bool:
    """Whether what a janitor said names the home, the dead supervisor, and each process."""
    return text.startswith(f"{owner.home}, of process {owner.pid}, which is gone: ") and all(
        f"(pid {each.pid})" in text for each in owner.members
    )


# What nobody takes care of


@pytest.mark.parametrize("first", ["guard", "supervisor"])
def test_what_lost_supervisor_and_guard_is_swept_by_the_next_supervisor_who_logs_what_and_whose(
    place: str, first: str
) -> None:
    with Owner(place) as owner:
        owner.dies_with_its_guard(first)
        assert owner.is_untouched()
        (line,) = logged(place)
        assert owner.is_gone()
        assert line.startswith("allgone WARNING removed ")
        assert names(line.removeprefix("allgone WARNING removed "), owner)
        assert logged(place) == []
    assert cgroups.tree(place) == [place]


@pytest.mark.parametrize("first", ["guard", "supervisor"])
def test_what_lost_both_is_swept_by_gc_and_only_named_by_a_dry_run(
    place: str, gc: Callable[..., list[str]], first: str
) -> None:
    with Owner(place) as owner:
        owner.dies_with_its_guard(first)
        (would,) = gc("--dry-run")
        assert owner.is_untouched()
        assert would.startswith("would remove ")
        assert names(would.removeprefix("would remove "), owner)
        (done,) = gc()
        assert owner.is_gone()
        assert done == would.replace("would remove", "removed")
        assert gc() == []


def test_what_had_no_guard_is_stale_as_soon_as_its_supervisor_is_gone(place: str, gc: Callable[..., list[str]]) -> None:
    with Owner(place, guard=False) as owner:
        assert gc() == []
        assert logged(place) == []
        assert owner.is_untouched()
        owner.dies()
        (line,) = gc()
        assert names(line.removeprefix("removed "), owner)
        assert owner.is_gone()


def test_many_stale_homes_with_whatever_is_in_them_are_swept_at_once(place: str) -> None:
    with ExitStack() as stack:
        many = stack.enter_context(Owner(place, 20, guard=False))
        frozen = stack.enter_context(Owner(place, guard=False))
        nested = stack.enter_context(Owner(place, guard=False))
        deep = f"{nested.home}/1-sh/a/b"
        os.makedirs(deep)
        write(deep, "cgroup.procs", str(nested.members[0].pid))
        freeze(frozen.home + "/1-sh")
        empty = stack.enter_context(Owner(place, guard=False))
        cgroups.write(empty.home + "/1-sh/cgroup.kill", "1")
        for each in (many, frozen, nested, empty):
            each.dies()
        lines = logged(place)
        for each in (many, frozen, nested, empty):
            assert each.is_gone()
        assert len(lines) == 4
        assert sum("nothing ran in it" in line for line in lines) == 1


def test_a_member_whose_main_thread_has_ended_is_ended(place: str) -> None:
    zombie = ["sh", "-c", f"{' '.join(command('zombie_leader'))} & sleep 1000 & wait"]
    with Owner(place, guard=False, args=zombie) as owner:
        owner.supervisor.lines.wait_for("ready")
        owner.dies()
        assert len(logged(place)) == 1
        assert owner.is_gone()


def test_a_janitor_with_few_file_descriptors_sweeps_many_containments(place: str) -> None:
    with Owner(place, 40, guard=False) as owner:
        owner.dies()
        (line,) = logged(place, 40)
        assert owner.is_gone()
        assert names(line.removeprefix("allgone WARNING removed "), owner)


# Whose owner lives, or whom somebody takes care of


def is_left_alone(owner: Owner, place: str, gc: Callable[..., list[str]]) -> bool:
    assert logged(place) == []
    assert gc("--dry-run") == []
    assert gc() == []
    return owner.is_untouched()


def test_a_supervisor_that_lives_keeps_what_it_has_also_without_a_guard(
    place: str, gc: Callable[..., list[str]]
) -> None:
    with Owner(place) as guarded, Owner(place, guard=False) as unguarded:
        assert is_left_alone(guarded, place, gc)
        assert unguarded.is_untouched()
        assert guarded.guard is not None
        guarded.guard.end()
        assert is_left_alone(guarded, place, gc)
        assert unguarded.is_untouched()


def test_a_home_whose_lock_somebody_holds_is_left_alone(place: str, gc: Callable[..., list[str]]) -> None:
    with Owner(place, guard=False) as owner:
        owner.dies()
        fd = os.open(owner.home, os.O_RDONLY)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            assert is_left_alone(owner, place, gc)
        finally:
            os.close(fd)
        assert len(logged(place)) == 1
        assert owner.is_gone()


def test_a_home_whose_guard_lives_is_its_guards(place: str, gc: Callable[..., list[str]]) -> None:
    """A guard that is slow, here: stopped."""
    with Owner(place) as owner:
        assert owner.guard is not None
        os.kill(owner.guard.pid, signal.SIGSTOP)
        owner.dies()
        assert is_left_alone(owner, place, gc)
        os.kill(owner.guard.pid, signal.SIGCONT)
        assert all(each.ends_within(PATIENCE) for each in owner.members)
        assert owner.guard.ends_within(PATIENCE)


def starts_in_two_places(options: dict, args: list[str], guard: bool, places: list[str], input: int) -> None:
    policy = allgone.StopPolicy(timeout_stop=30, guard_timeout=30)
    for place in places:
        backend = allgone.CgroupBackend(place)
        process = allgone.Popen(args, stdin=input, policy=policy, backend=backend)
        while len(process.members()) < 2:
            time.sleep(0.001)
    say("home", os.path.dirname(process._containment.where()))
    signal.pause()


def test_what_a_guard_is_at_work_on_is_not_a_janitors_wherever_it_is(place: str) -> None:
    """The guard itself is in the ``guard/`` of one directory, and has others to care for as well."""
    places = [f"{place}/{n}" for n in range(2)]
    for each in places:
        os.mkdir(each)
    slow = ["sh", "-c", "trap 'echo heard; read x; echo done; exit' TERM; while :; do sleep 1000 & wait; done"]
    reader, writer = os.pipe()
    try:
        with Owner(
            place, places, reader, function=starts_in_two_places, args=slow, guard=False, pass_fds=[reader]
        ) as owner:
            lines = owner.supervisor.lines
            owner.dies()
            lines.wait_for("heard")
            assert logged(places[0]) == []
            assert logged(places[1]) == []
            os.write(writer, b"1\n2\n")
            assert lines.are_over(PATIENCE)
            assert lines.read.count("done") == 2, lines.read
    finally:
        os.close(reader)
        os.close(writer)
    assert comes_to_be(lambda: all(cgroups.tree(each) == [each] for each in places))


def comes_to_be(is_so: Callable[[], bool]) -> bool:
    """Wait until a directory is gone: there is no event for that."""
    deadline = time.monotonic() + PATIENCE
    while not is_so() and time.monotonic() < deadline:
        time.sleep(0.002)
    return is_so()


def test_an_owner_that_has_become_another_program_lives(place: str, gc: Callable[..., list[str]]) -> None:
    with Owner(place, function=starts_and_execs, guard=False) as owner:
        assert is_left_alone(owner, place, gc)
        owner.dies()
        assert len(logged(place)) == 1
        assert owner.is_gone()


IN_A_NAMESPACE = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")
OWNER_THERE = """
import allgone, os, signal
process = allgone.Popen(["sh", "-c", "sleep 1000 & wait"], guard=False, backend="cgroup")
while len(process.members()) < 2: pass
print(os.path.dirname(process._containment.where()), flush=True)
signal.pause()
"""


def test_an_owner_in_another_pid_namespace_lives_and_when_it_does_not_its_home_is_swept(
    place: str, gc: Callable[..., list[str]]
) -> None:
    with subprocess.Popen(
        [*IN_A_NAMESPACE, sys.executable, "-c", OWNER_THERE],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, env={**os.environ, "ALLGONE_CGROUP": place},
    ) as owner:  # fmt: skip
        try:
            assert owner.stdout is not None
            home = owner.stdout.readline().rstrip()
            members = [Held(pid) for pid in cgroups.pids(home)]
            assert len(members) == 2
            assert logged(place) == []
            assert gc() == []
            assert all(each.is_alive() for each in members)
            # It is pid 1 there, and what it has started ends with it: something from here stays in its place.
            stranger = subprocess.Popen(["sleep", "1000"])
            write(home + "/1-sh", "cgroup.procs", str(stranger.pid))
        finally:
            owner.kill()
    owner.wait()
    try:
        for each in members:
            assert each.ends_within(PATIENCE)
            each.close()
        (line,) = logged(place)
        assert line.startswith(
            f"allgone WARNING removed {home}, of process 1, which is gone: sleep (pid {stranger.pid})"
        )
        assert stranger.wait(PATIENCE) == -signal.SIGKILL
        assert not os.path.exists(home)
    finally:
        stranger.kill()
        stranger.wait()


SWEEPS_THERE = """
import allgone, logging
logging.basicConfig(format="%(message)s", level=logging.INFO)
allgone.run(["true"], backend="cgroup")
"""


def test_an_owner_outside_of_the_janitors_pid_namespace_lives(place: str) -> None:
    """The janitor has no number for it, and one of its own has the same perhaps."""

    def sweep() -> str:
        done = subprocess.run(
            [*IN_A_NAMESPACE, sys.executable, "-c", SWEEPS_THERE],
            capture_output=True, text=True, env={**os.environ, "ALLGONE_CGROUP": place}, timeout=2 * PATIENCE,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stderr

    with Owner(place, guard=False) as owner, Owner(place) as guarded:
        assert sweep() == ""
        assert owner.is_untouched()
        assert guarded.guard is not None
        os.kill(guarded.guard.pid, signal.SIGSTOP)
        guarded.dies()
        assert sweep() == ""
        assert guarded.is_untouched()
        guarded.guard.end()
        owner.dies()
        said = sweep()
        assert f"of process {owner.pid}, which is gone" in said
        assert f"of process {guarded.pid}, which is gone" in said
        assert owner.is_gone()
        assert guarded.is_gone()


REUSED = """
import logging, os, signal, subprocess, sys
import allgone

owner = subprocess.Popen([sys.executable, "-c", '''
import allgone, os, signal
allgone.Popen(["sleep", "1000"], guard=False, backend="cgroup")
print("up", flush=True)
signal.pause()
'''], stdout=subprocess.PIPE)
owner.stdout.readline()
owner.kill()
owner.wait()
owner.stdout.close()

def take_its_number(*words):
    for _ in range(100):  # somebody else may be faster, but for who is in this namespace
        with open("/proc/sys/kernel/ns_last_pid", "w") as f:
            f.write(str(owner.pid - 1))
        taken = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
        if taken.pid == owner.pid:
            return taken
        taken.kill()
        taken.communicate()
    sys.exit("its number can't be had")

janitor = '''
import allgone, logging
logging.basicConfig(format="%(message)s", level=logging.INFO, force=True)
logging.getLogger().handlers[0].setStream(__import__("sys").stdout)
allgone.run(["true"], backend="cgroup")
'''
if sys.argv[1] == "a stranger":
    stranger = take_its_number("sleep", "1000")
    print(owner.pid, flush=True)
    print(subprocess.run([sys.executable, "-c", janitor], stdout=subprocess.PIPE, text=True).stdout, end="", flush=True)
    print("stranger", stranger.poll(), flush=True)
    stranger.kill()
    stranger.communicate()
else:
    itself = take_its_number(sys.executable, "-c", janitor)
    print(owner.pid, flush=True)
    print(itself.communicate()[0], end="", flush=True)
    print("stranger", itself.returncode or None, flush=True)
"""


@pytest.mark.parametrize("who", ["a stranger", "the janitor"])
def test_when_the_dead_owners_number_is_anothers_the_home_is_stale_and_the_other_is_not_hit(
    place: str, who: str
) -> None:
    done = subprocess.run(
        [*IN_A_NAMESPACE, sys.executable, "-c", REUSED, who],
        capture_output=True, text=True, env={**os.environ, "ALLGONE_CGROUP": place}, timeout=2 * PATIENCE,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    pid, swept, stranger = done.stdout.splitlines()
    assert swept.startswith(f"removed {place}/allgone-{pid}-")
    assert f", of process {pid}, which is gone: sleep (pid " in swept
    assert stranger == "stranger None"
    assert cgroups.tree(place) == [place]


# Other users


@pytest.fixture
def users_place(place: str) -> Iterator[str]:
    """In `place`, a cgroup that belongs to nobody."""
    with delegated(place) as folder:
        yield folder


LEAVES_ITS_HOME = """
import allgone, os, signal
process = allgone.Popen(["sh", "-c", "sleep 1000 & wait"], guard=False, backend="cgroup", stdout=-3)
while len(process.members()) < 2: pass
print(*process.members(), flush=True)
print(os.path.dirname(process._containment.where()), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
AS_NOBODY = ("setpriv", "--reuid", str(NOBODY), "--regid", str(NOBODY), "--clear-groups")


@contextmanager
def left_by_nobody(folder: str) -> Iterator[tuple[str, list[Held]]]:
    """What a supervisor of another user has left, in its own cgroup: the directory, the processes."""
    users.may_run(NOBODY, sys.executable, "-c", "import allgone.cli")
    enter = 'echo $$ > "$0/cgroup.procs" && exec "$@"'
    words = ["sh", "-c", enter, f"{folder}/supervisor", *AS_NOBODY, sys.executable, "-c", LEAVES_ITS_HOME]
    environment = {**os.environ, "ALLGONE_CGROUP": folder, "PYTHONPATH": str(Path(allgone.__file__).parent.parent)}
    done = subprocess.run(words, stdout=subprocess.PIPE, text=True, timeout=2 * PATIENCE, env=environment)
    pids, home = done.stdout.splitlines()
    members = [Held(int(pid)) for pid in pids.split()]
    try:
        yield home, members
    finally:
        for each in members:
            each.end()
            each.close()


def test_another_users_home_is_not_roots_to_sweep_and_is_its_own(
    users_place: str, gc: Callable[..., list[str]]
) -> None:
    with left_by_nobody(users_place) as (home, members):
        assert gc() == []
        assert gc("--dry-run") == []
        assert logged(users_place) == []
        assert os.path.isdir(home)
        assert all(each.is_alive() for each in members)
        (line,) = gc(before=AS_NOBODY)
        assert line.startswith(f"removed {home}, of process ")
        assert all(each.ends_within(PATIENCE) for each in members)
        assert not os.path.exists(home)


def test_roots_home_is_not_another_users_to_sweep(place: str, gc: Callable[..., list[str]]) -> None:
    users.may_run(NOBODY, sys.executable, "-c", "import allgone.cli")
    with Owner(place, guard=False) as owner:
        owner.dies()
        assert gc(before=AS_NOBODY) == []
        assert gc("--dry-run", before=AS_NOBODY) == []
        assert owner.is_untouched()


# Several at once


@pytest.mark.parametrize("count", [2, 8])
@pytest.mark.parametrize("what", ["gc", "supervisors"])
def test_janitors_at_the_same_time_do_not_fight(place: str, point: Path, count: int, what: str) -> None:
    """Each home is swept by one, who names all its processes; the others don't mind."""
    with ExitStack() as stack:
        owners = [stack.enter_context(Owner(place, guard=False)) for _ in range(3)]
        for each in owners:
            each.dies()
        if what == "gc":
            words = only_here(place, point, sys.executable, "-m", "allgone", "gc")
            prefix = "removed "
        else:
            words = [
                sys.executable,
                "-W",
                "error",
                "-c",
                SWEEPS_THERE.replace("=logging.INFO", "=30, stream=__import__('sys').stdout"),
            ]
            prefix = "removed "
        janitors = [
            stack.enter_context(subprocess.Popen(
                words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                env={**os.environ, "ALLGONE_CGROUP": place},
            ))
            for _ in range(count)
        ]  # fmt: skip
        said = [each.communicate(timeout=2 * PATIENCE) for each in janitors]
        assert [each.returncode for each in janitors] == [0] * count
        assert [errors for _, errors in said] == [""] * count
        lines = [line.replace(str(point), place) for out, _ in said for line in out.splitlines()]
        lines = [line.removeprefix(prefix) for line in lines if line.startswith(prefix)]
        assert len(lines) == 3, lines
        for each in owners:
            assert sum(names(line, each) for line in lines) == 1
            assert each.is_gone()


# What is nobody's home


@pytest.mark.parametrize("inside", [False, True], ids=["empty", "with a process in it"])
@pytest.mark.parametrize(
    "name", ["allgone-4711-0badcafe", "allgone-4711-0badcafe.scope", "allgone-test-1", "allgone-x", "allgone"]
)
def test_a_directory_without_a_mark_that_has_just_been_made_is_left_alone(
    place: str, gc: Callable[..., list[str]], name: str, inside: bool
) -> None:
    folder = f"{place}/{name}"
    os.makedirs(folder + "/1-sh")
    os.mkdir(folder + "/guard")
    with subprocess.Popen(["sleep", "1000"]) as bystander:
        try:
            if inside:
                write(folder + "/1-sh", "cgroup.procs", str(bystander.pid))
            assert logged(place) == []
            assert gc() == []
            assert os.path.isdir(folder + "/1-sh")
            assert bystander.poll() is None
        finally:
            bystander.kill()


def test_the_directory_of_a_scope_that_systemd_has_forgotten_is_removed(
    place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It tries once, and the directory can be busy for a moment after the last process's end."""
    from allgone._upkeep import janitor

    monkeypatch.setattr(janitor, "_stopped", lambda folder: [])  # no systemd here: as if it had, and knew it no more
    with Owner(place) as owner:
        owner.dies_with_its_guard()
        scope = f"{place}/{os.path.basename(owner.home)}.scope"
        os.mkdir(scope)  # a cgroup can't be renamed
        os.mkdir(scope + "/guard")
        os.setxattr(scope, "user.allgone.owner", os.getxattr(owner.home, "user.allgone.owner"))
        swept = janitor.sweep(scope)
        assert swept is not None
        assert swept.left == ()
        assert not os.path.exists(scope)
        janitor.sweep(owner.home)
