"""The guard: what it is, what it outlives, and what it does when its supervisor is gone."""

from __future__ import annotations

import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from support import cgroups, init, procfs
from support.backends import BACKENDS, BackendUnderTest
from support.cgroupv2 import says, wait_until
from support.programs import PATIENCE, PROGRAMS, Held
from support.supervisors import Supervisor, say
from support.tiers import missing

import allgone
from allgone._linux import launcher

DEAF = ["sh", "-c", "trap '' TERM INT HUP QUIT; sleep 1000 & echo ready; wait"]
# Takes a moment to end, and says when it has. What it waits for does not hear SIGTERM: it might be the first to get it,
# and be started anew, too late for another.
CAREFUL = [
    "sh", "-c",
    "trap '' TERM; sleep 1000 & trap 'echo heard; sleep 0.2; echo done; kill -KILL $!; exit' TERM; echo ready; wait",
]  # fmt: skip
HARD_OF_HEARING = ["sh", "-c", "trap 'echo heard' TERM; echo ready; while :; do sleep 1000 & wait; done"]
COLLEAGUES = [
    "sh", "-c", "(trap 'echo the-other-heard' TERM; echo here; while :; do sleep 1000 & wait; done) & "
    "trap 'echo leader-heard; exit' TERM; echo ready; while :; do sleep 1000 & wait; done",
]  # fmt: skip


@pytest.fixture(params=BACKENDS[:2], ids=lambda each: each.label)
def plain(request: pytest.FixtureRequest) -> BackendUnderTest:
    """Each backend without `sweep`, which makes no difference to what the guard itself is."""
    chosen: BackendUnderTest = request.param
    if chosen.name == "cgroup":
        request.getfixturevalue("cgroup_base")
    return chosen


@pytest.fixture(params=["compiled", "interpreted"])
def kind(request: pytest.FixtureRequest) -> str:
    """Each of the two guards; for `env=` of a `Directed`."""
    if request.param == "compiled" and not os.access(launcher.COMPILED, os.X_OK):
        missing("the package was built without a compiler: no compiled guard")
    return str(request.param)


def told() -> None:
    """In a supervisor: wait until the test says `go_on()`."""
    raise AssertionError("only to be called in a supervisor")


class Directed(Supervisor):
    """A supervisor that waits when it calls `told()`. What it says it holds, `home <dir>` and `member <pid>`, is known
    here, and ended and removed in any case."""

    def __init__(
        self,
        function: Callable[..., object],
        backend: BackendUnderTest,
        *arguments: object,
        kind: str = "",
        env: dict[str, str] | None = None,
        passing: tuple[int, ...] = (),
        **options: object,
    ) -> None:
        reader, self._go = os.pipe()
        self._held: list[Held] = []
        before = f"""
def told():
    assert os.read({reader}, 1)

def show(process):
    if process.backend == "cgroup":
        say("home", os.path.dirname(process._containment.where()))
    while len(process.members()) < 2:
        time.sleep(0.001)
    for pid in process.members():
        say("member", pid)
    say("shown")
"""
        env = {**(env or {}), **({"ALLGONE_LAUNCHER": kind} if kind else {})}
        try:
            super().__init__(
                function, backend, *arguments, before=before, env=env, pass_fds=(reader, *passing), **options
            )
        except BaseException:
            os.close(self._go)
            raise
        finally:
            os.close(reader)

    def go_on(self) -> None:
        os.write(self._go, b"!")

    def members(self) -> list[Held]:
        """Those that it has shown so far."""
        self.lines.wait_for("shown")
        for line in self.lines.read:
            if line.startswith("member ") and int(line.split()[1]) not in {held.pid for held in self._held}:
                self._held.append(Held(int(line.split()[1])))
        return self._held

    def guard(self, backend: BackendUnderTest) -> Held:
        """Its one guard, once it is where it is to stay."""
        if backend.name == "cgroup":
            folder = self.home() + "/guard"
            wait_until(folder, lambda: says(folder, "populated"))
            (pid,) = cgroups.pids(folder)
            for other in set(guards_of(self.process.pid)) - {pid}:  # what it was before it was born there
                assert procfs.ends_within(other, PATIENCE)
        self._held.append(Held(guard_of(self.process.pid)))
        return self._held[-1]

    def home(self) -> str:
        return self.lines.wait_for("home").split()[1]

    def dies(self) -> None:
        self.process.kill()
        self.ends()

    def close(self) -> None:
        homes = {line.split()[1] for line in self.lines.read if line.startswith("home ")}
        try:
            super().close()
            guards_end(self.process.pid)
        finally:
            os.close(self._go)
            for held in self._held:
                held.end()
                held.close()
            for home in homes:
                cgroups.remove_all(home)


def all_pids() -> list[int]:
    return [int(each) for each in os.listdir("/proc") if each.isdigit()]


def session(pid: int) -> int:
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return 0


def guards_of(pid: int) -> list[int]:
    """The guards of a supervisor, also when they have become the program that finishes their work."""
    found = []
    for each in all_pids():
        try:
            with open(f"/proc/{each}/cmdline", "rb") as f:
                words = f.read().rstrip(b"\0").split(b"\0")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if words[-1] == b"%d" % pid and any(word.endswith(b"/guard.py") for word in words):
            found.append(each)
    return found


def guard_of(pid: int) -> int:
    """The one guard of a supervisor, once it has stayed the same: it may just go on as another process."""
    deadline = time.monotonic() + PATIENCE
    last: list[int] = []
    same = 0
    while same < 3:
        now = guards_of(pid)
        same = same + 1 if now == last and len(now) == 1 else 0
        last = now
        assert time.monotonic() < deadline, list(map(procfs.describe, now))
    return last[0]


def guards_end(pid: int) -> None:
    """Wait until no guard of that supervisor is left. (It may go on as another process, also between two looks.)"""
    deadline = time.monotonic() + PATIENCE
    nobody = 0
    while nobody < 3:
        left = guards_of(pid)
        assert time.monotonic() < deadline, list(map(procfs.describe, left))
        nobody = 0 if left else nobody + 1
        for each in left:
            procfs.ends_within(each, deadline - time.monotonic())


def all_is_gone(supervisor: Directed, backend: BackendUnderTest) -> bool:
    """Whether, when the guard has done its work, neither a process of it is left nor its directory."""
    guards_end(supervisor.process.pid)
    assert supervisor.lines.are_over(PATIENCE), supervisor.lines.read
    return backend.name != "cgroup" or not os.path.exists(supervisor.home())


def stands(options: dict, args: list[str], **popen: object) -> None:
    process = allgone.Popen(args, stdin=subprocess.DEVNULL, **popen, **options)
    show(process)  # noqa: F821
    told()


def stands_by_policy(options: dict, args: list[str], policy: dict) -> None:
    process = allgone.Popen(args, stdin=subprocess.DEVNULL, policy=allgone.StopPolicy(**policy), **options)
    show(process)  # noqa: F821
    told()


# What it is


def test_it_is_nobodys_child_in_a_session_and_a_cgroup_of_its_own(backend: BackendUnderTest, kind: str) -> None:
    with Directed(stands, backend, DEAF, kind=kind) as supervisor:
        supervisor.lines.wait_for("ready")
        supervisor.members()
        guard = supervisor.guard(backend)
        assert guard.pid not in init.children(supervisor.process.pid)
        alone = os.getsid(guard.pid)  # where it was moved to its cgroup, the number is that of what it was before
        assert [pid for pid in all_pids() if session(pid) == alone and procfs.is_alive(pid)] == [guard.pid]
        if backend.name == "cgroup":
            home = supervisor.home()
            assert home.endswith(os.path.dirname(procfs.cgroup(guard.pid)))
            assert os.path.basename(procfs.cgroup(guard.pid)) == "guard"
            assert sorted(each.name for each in os.scandir(home) if each.is_dir()) == ["1-sh", "guard"]


def test_it_has_nothing_of_the_supervisors_environment(
    plain: BackendUnderTest, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LD_LIBRARY_PATH", raising=False)
    with Directed(stands, plain, DEAF, kind=kind, env={"BUILD_ID": "by which a CI runner ends all"}) as supervisor:
        supervisor.members()
        with open(f"/proc/{supervisor.guard(plain).pid}/environ", "rb") as f:
            assert f.read() == b""


def stands_with_open_files(options: dict, args: list[str]) -> None:
    secret = os.open("/etc/passwd", os.O_RDONLY)
    os.set_inheritable(secret, True)
    for fd in os.pipe():
        os.set_inheritable(fd, True)
        say("pipe", os.readlink(f"/proc/self/fd/{fd}"))
    process = allgone.Popen(args, stdin=subprocess.DEVNULL, **options)
    show(process)  # noqa: F821
    told()


def test_it_holds_none_of_the_supervisors_files_not_even_inheritable_ones(plain: BackendUnderTest, kind: str) -> None:
    with Directed(stands_with_open_files, plain, DEAF, kind=kind) as supervisor:
        supervisor.members()
        folder = f"/proc/{supervisor.guard(plain).pid}/fd"
        held = [os.readlink(f"{folder}/{each}") for each in os.listdir(folder)]
        assert held.count("/dev/null") == 3
        others = sorted(each.partition(":")[0] for each in held if each != "/dev/null")
        assert others == ["/memfd", "anon_inode", "pipe"], held  # the register, the supervisor's pidfd, its word
        (pipe,) = (each for each in held if each.startswith("pipe:"))
        assert f"pipe {pipe}" not in supervisor.lines.read


def test_it_takes_little_memory(plain: BackendUnderTest, kind: str) -> None:
    with Directed(stands, plain, DEAF, kind=kind) as supervisor:
        supervisor.members()
        with open(f"/proc/{supervisor.guard(plain).pid}/status", encoding="ascii") as f:
            (resident,) = (int(line.split()[1]) for line in f if line.startswith("VmRSS:"))
        assert resident < (1024 if kind == "compiled" else 10 * 1024)


def starts_many(options: dict, args: list[str]) -> None:
    several = [allgone.Popen(args, stdin=subprocess.DEVNULL, **options) for _ in range(5)]
    group = allgone.Group(**options)
    several += [group.Popen(args, stdin=subprocess.DEVNULL) for _ in range(2)]
    other = "process-group" if options["backend"] == "cgroup" else "auto"
    several += [allgone.Popen(args, stdin=subprocess.DEVNULL, backend=other) for _ in range(5)]
    show(several[0])  # noqa: F821
    told()


def test_there_is_one_for_many_containments_of_both_backends(plain: BackendUnderTest, kind: str) -> None:
    with Directed(starts_many, plain, DEAF, kind=kind) as supervisor:
        supervisor.members()
        assert guard_of(supervisor.process.pid)
        supervisor.dies()
        guards_end(supervisor.process.pid)
        assert supervisor.lines.are_over(PATIENCE)


def starts_and_stops_more(options: dict, args: list[str]) -> None:
    process = allgone.Popen(args, stdin=subprocess.DEVNULL, **options)
    show(process)  # noqa: F821
    told()
    for _ in range(10):
        allgone.run(["true"], **options)
    say("done")
    told()


def test_it_sleeps_while_containments_come_and_go(plain: BackendUnderTest, kind: str) -> None:
    """Not one system call from when it is in its place on. (That the trace would show one is seen at the end of it.)"""
    if shutil.which("strace") is None:
        missing("strace is not installed")
    with Directed(starts_and_stops_more, plain, DEAF, kind=kind) as supervisor:
        supervisor.members()
        guard = supervisor.guard(plain)
        with subprocess.Popen(["strace", "-p", str(guard.pid)], stderr=subprocess.PIPE, text=True) as trace:
            try:
                attached = trace.stderr.readline()
                if "attached" not in attached:
                    missing(f"strace can't attach here: {attached}")
                supervisor.go_on()
                supervisor.lines.wait_for("done")
                assert guard.is_alive()
                supervisor.dies()
                calls = trace.stderr.read().splitlines()
            finally:
                trace.kill()
        # The first is the one that it slept in, and then it reads that the supervisor's end of the pipe is closed.
        asleep, woken, *_ = (line for line in calls if not line.startswith("strace:"))
        assert re.match(r"p?poll\(|restart_syscall\(", asleep), calls
        assert woken.startswith("read("), calls


# What it outlives


def stands_unmoved(options: dict, args: list[str]) -> None:
    heard = []
    for each in (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGTERM):
        signal.signal(each, lambda signum, _: heard.append(signum))
    process = allgone.Popen(args, stdin=subprocess.DEVNULL, **options)
    show(process)  # noqa: F821
    while len(heard) < 4:
        signal.sigtimedwait([], 1)
    say("heard", *sorted(heard))
    told()


def test_signals_to_the_supervisors_group_and_to_itself_do_not_end_it(plain: BackendUnderTest, kind: str) -> None:
    with Directed(stands_unmoved, plain, DEAF, kind=kind, start_new_session=True) as supervisor:
        supervisor.lines.wait_for("ready")
        members = supervisor.members()
        guard = supervisor.guard(plain)
        for each in (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGTERM):
            os.killpg(supervisor.process.pid, each)
        for each in (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGPIPE, signal.SIGUSR1, signal.SIGTSTP):
            os.kill(guard.pid, each)
        supervisor.lines.wait_for("heard")
        assert guard.is_alive()
        assert all(each.is_alive() for each in members)
        supervisor.dies()
        assert all_is_gone(supervisor, plain)


@pytest.mark.parametrize("signum", [signal.SIGHUP, signal.SIGQUIT, signal.SIGTERM, signal.SIGKILL])
def test_a_signal_that_ends_the_supervisors_whole_group_leaves_nothing(
    plain: BackendUnderTest, signum: signal.Signals
) -> None:
    with Directed(stands, plain, DEAF, start_new_session=True) as supervisor:
        supervisor.lines.wait_for("ready")
        supervisor.members()
        os.killpg(supervisor.process.pid, signum)
        assert supervisor.ends() == -signum
        assert all_is_gone(supervisor, plain)


def loses_its_guard(options: dict, args: list[str]) -> None:
    first = allgone.Popen(args, stdin=subprocess.DEVNULL, **options)
    show(first)  # noqa: F821
    told()
    with warnings.catch_warnings(record=True) as caught:  # noqa: F821
        warnings.simplefilter("always")  # noqa: F821
        second = allgone.Popen(args, stdin=subprocess.DEVNULL, **options)
        third = allgone.Popen(args, stdin=subprocess.DEVNULL, **options)
    for each in caught:
        say("warned", each.category.__name__, each.filename)
    say("members", len(first.members()), len(second.members()) > 0, len(third.members()) > 0)
    say("unreaped", os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT))
    told()


def test_one_that_was_killed_is_replaced_at_the_next_spawn_with_a_warning_and_knows_what_ran_before(
    backend: BackendUnderTest, kind: str
) -> None:
    with Directed(loses_its_guard, backend, DEAF, kind=kind) as supervisor:
        supervisor.lines.wait_for("ready")
        first = supervisor.members()[:]
        guard = supervisor.guard(backend)
        guard.end()
        assert all(each.is_alive() for each in first)
        supervisor.go_on()
        supervisor.lines.wait_for("members", "2", "True", "True")
        assert [line for line in supervisor.lines.read if line.startswith("warned")] == [
            "warned GuardLostWarning <string>"
        ]
        supervisor.lines.wait_for("unreaped", "None")  # such as what gives birth to a guard, and ends
        assert supervisor.guard(backend).pid != guard.pid
        supervisor.dies()
        assert all_is_gone(supervisor, backend)


def loses_its_guard_and_takes_warnings_for_errors(options: dict, args: list[str]) -> None:
    first = allgone.Popen(args, stdin=subprocess.DEVNULL, **options)
    show(first)  # noqa: F821
    told()
    try:
        allgone.Popen(args, stdin=subprocess.DEVNULL, **options)
    except allgone.GuardLostWarning:
        say("raised")
    allgone.run(["true"], **options)
    say("went on")
    told()


def test_one_that_was_killed_is_replaced_also_where_warnings_are_errors(backend: BackendUnderTest) -> None:
    with Directed(loses_its_guard_and_takes_warnings_for_errors, backend, DEAF) as supervisor:
        supervisor.lines.wait_for("ready")
        supervisor.members()
        supervisor.guard(backend).end()
        supervisor.go_on()
        supervisor.lines.wait_for("raised")
        supervisor.lines.wait_for("went", "on")
        assert guard_of(supervisor.process.pid)
        supervisor.dies()
        assert all_is_gone(supervisor, backend)


def loses_its_guards_while_it_is_a_subreaper(options: dict) -> None:
    from allgone._backends.keeper import KEEPER

    warnings.simplefilter("ignore")  # noqa: F821
    with allgone.Popen(["sleep", "100"], **options) as process:
        for _ in range(2):
            fd = os.pidfd_open(KEEPER._guard.pid)
            signal.pidfd_send_signal(fd, signal.SIGKILL)
            select.select([fd], [], [])  # noqa: F821
            os.close(fd)
            allgone.run(["true"], **options)
        say("unreaped", os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT))
        process.stop()


def test_one_that_became_a_child_of_a_subreaper_is_reaped_when_it_was_killed() -> None:
    (sweeping,) = (each for each in BACKENDS if each.options.get("sweep"))
    with Supervisor(loses_its_guards_while_it_is_a_subreaper, sweeping, before="import select") as supervisor:
        supervisor.lines.wait_for("unreaped", "None")
        supervisor.succeeds()


def ends_without_its_guard(options: dict, args: list[str]) -> None:
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # as programs do that write to pipes of others
    process = allgone.Popen(args, stdin=subprocess.DEVNULL, **options)
    show(process)  # noqa: F821
    told()
    process.stop(allgone.StopPolicy(timeout_stop=0))


def test_without_it_the_supervisor_ends_as_well_as_with_it(plain: BackendUnderTest, kind: str) -> None:
    with Directed(ends_without_its_guard, plain, DEAF, kind=kind) as supervisor:
        supervisor.lines.wait_for("ready")
        supervisor.members()
        supervisor.guard(plain).end()
        supervisor.go_on()
        supervisor.succeeds()
        assert all_is_gone(supervisor, plain)


# Its end


def returns(options: dict, args: list[str]) -> None:
    with allgone.Popen(args, stdin=subprocess.DEVNULL, **options) as process:
        show(process)  # noqa: F821
        told()
        process.stop(allgone.StopPolicy(timeout_stop=0))


def exits_with_everything_running(options: dict, args: list[str]) -> None:
    show(allgone.Popen(args, stdin=subprocess.DEVNULL, **options))  # noqa: F821
    told()
    sys.exit(0)


def exits_without_cleaning_up(options: dict, args: list[str]) -> None:
    show(allgone.Popen(args, stdin=subprocess.DEVNULL, **options))  # noqa: F821
    told()
    os._exit(0)


def exits_among_threads(options: dict, args: list[str]) -> None:
    import warnings

    warnings.simplefilter("ignore", ResourceWarning)  # of Popen objects that the interpreter's end surprises

    def start_and_stop() -> None:
        try:
            while True:
                allgone.run(["true"], **options)
        except BaseException:  # noqa: BLE001, S110  # whatever the interpreter's end makes of it
            pass

    for _ in range(20):
        threading.Thread(target=start_and_stop, daemon=True).start()  # noqa: F821
    for _ in range(20):
        threading.Thread(target=threading.Event().wait, daemon=True).start()  # noqa: F821
    show(allgone.Popen(args, stdin=subprocess.DEVNULL, **options))  # noqa: F821
    told()
    sys.exit(0)


@pytest.mark.parametrize(
    "end", [returns, exits_with_everything_running, exits_without_cleaning_up, exits_among_threads]
)
def test_it_ends_with_its_supervisor(backend: BackendUnderTest, kind: str, end: Callable[..., object]) -> None:
    with Directed(end, backend, DEAF, kind=kind) as supervisor:
        supervisor.lines.wait_for("ready")
        supervisor.members()
        guard = supervisor.guard(backend)
        supervisor.go_on()
        assert supervisor.ends() in ((0, 1, -signal.SIGABRT) if end is exits_among_threads else (0,))
        assert guard.ends_within(PATIENCE)
        assert all_is_gone(supervisor, backend)


# guard=False


def test_without_a_guard_no_process_is_started_and_the_tree_is_left(backend: BackendUnderTest, tmp_path: Path) -> None:
    with Directed(stands_unguarded, backend, DEAF) as supervisor:
        supervisor.lines.wait_for("ready")
        members = supervisor.members()
        assert guards_of(supervisor.process.pid) == []
        supervisor.dies()
        assert len(members) == 2
        assert all(each.is_alive() for each in members)
        if backend.name == "cgroup":
            assert f"removed {supervisor.home()}, of process {supervisor.process.pid}" in _gc(tmp_path)
            assert all_is_gone(supervisor, backend)


def stands_unguarded(options: dict, args: list[str]) -> None:
    show(allgone.Popen(args, stdin=subprocess.DEVNULL, guard=False, **options))  # noqa: F821
    told()


def _gc(point: Path) -> str:
    """What `allgone gc` prints where it sees no cgroups but those of this test run: others work on this machine, too."""
    if os.geteuid() != 0:
        missing("only root can hide the cgroups of others from gc")
    place = os.environ["ALLGONE_CGROUP"]
    words = ["sh", str(PROGRAMS / "only_here.sh"), place, str(point), sys.executable, "-m", "allgone", "gc"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    return done.stdout.replace(str(point), place)


# How it stops


@pytest.mark.parametrize("limits", [(30.0, 0.3), (0.3, 30.0)], ids=["by guard_timeout", "by timeout_stop"])
def test_guard_timeout_gives_time_to_end_well_and_bounds_it(
    backend: BackendUnderTest, kind: str, limits: tuple[float, float]
) -> None:
    policy = dict(zip(("timeout_stop", "guard_timeout"), limits, strict=True))
    with Directed(stands_by_policy, backend, HARD_OF_HEARING, policy, kind=kind) as supervisor:
        supervisor.lines.wait_for("ready")
        supervisor.members()
        began = time.monotonic()
        supervisor.dies()
        supervisor.lines.wait_for("heard")
        assert all_is_gone(supervisor, backend)
        assert 0.3 <= time.monotonic() - began < 15


def test_with_guard_timeout_sigterm_is_heard_and_acted_upon(backend: BackendUnderTest, kind: str) -> None:
    with Directed(
        stands_by_policy, backend, CAREFUL, {"timeout_stop": PATIENCE, "guard_timeout": PATIENCE}, kind=kind
    ) as supervisor:
        supervisor.lines.wait_for("ready")
        supervisor.members()
        supervisor.dies()
        supervisor.lines.wait_for("heard")
        supervisor.lines.wait_for("done")
        assert all_is_gone(supervisor, backend)


@pytest.mark.parametrize("mode", ["mixed", "process"])
def test_it_asks_the_leader_only_where_the_policy_says_so_and_leaves_nothing(
    backend: BackendUnderTest, kind: str, mode: str
) -> None:
    policy = {"kill_mode": mode, "timeout_stop": PATIENCE, "guard_timeout": PATIENCE}
    with Directed(stands_by_policy, backend, COLLEAGUES, policy, kind=kind) as supervisor:
        supervisor.lines.wait_for("ready")
        supervisor.lines.wait_for("here")
        supervisor.members()
        supervisor.dies()
        supervisor.lines.wait_for("leader-heard")
        assert all_is_gone(supervisor, backend)
        assert "the-other-heard" not in supervisor.lines.read


def test_it_asks_all_by_default_when_it_has_time(backend: BackendUnderTest) -> None:
    policy = {"timeout_stop": 0.5, "guard_timeout": 0.5}
    with Directed(stands_by_policy, backend, COLLEAGUES, policy) as supervisor:
        supervisor.lines.wait_for("ready")
        supervisor.lines.wait_for("here")
        supervisor.members()
        supervisor.dies()
        supervisor.lines.wait_for("leader-heard")
        supervisor.lines.wait_for("the-other-heard")
        assert all_is_gone(supervisor, backend)


def test_it_asks_nobody_by_default(plain: BackendUnderTest, kind: str) -> None:
    with Directed(stands_by_policy, plain, CAREFUL, {}, kind=kind) as supervisor:
        supervisor.lines.wait_for("ready")
        supervisor.members()
        supervisor.dies()
        assert all_is_gone(supervisor, plain)
        assert "heard" not in supervisor.lines.read


WAITS_FOR_INPUT = [
    "sh",
    "-c",
    "trap 'echo heard; read x; echo done; exit' TERM; echo ready; while :; do sleep 1000 & wait; done",
]


def waits_for_input(options: dict, args: list[str], reader: int, granted: float) -> None:
    policy = allgone.StopPolicy(timeout_stop=granted, guard_timeout=granted)
    show(allgone.Popen(args, stdin=reader, policy=policy, **options))  # noqa: F821
    told()


def starts_in_the_same_place(options: dict, args: list[str]) -> None:
    allgone.run(["true"], **options)


def test_a_supervisor_that_starts_meanwhile_does_not_cut_short_what_it_grants(
    plain: BackendUnderTest, kind: str
) -> None:
    """The janitor of one must not take what the guard of the other works on for abandoned."""
    reader, writer = os.pipe()
    try:
        arguments = (WAITS_FOR_INPUT, reader, 4 * PATIENCE)  # longer than what comes next has
        with Directed(waits_for_input, plain, *arguments, kind=kind, passing=(reader,)) as supervisor:
            supervisor.lines.wait_for("ready")
            supervisor.members()
            supervisor.dies()
            supervisor.lines.wait_for("heard")
            with Supervisor(starts_in_the_same_place, plain, []) as another:
                another.succeeds()
            os.write(writer, b"go on\n")
            supervisor.lines.wait_for("done")
            assert all_is_gone(supervisor, plain)
    finally:
        os.close(reader)
        os.close(writer)


@pytest.mark.parametrize(
    ("value", "error"),
    [(-1, ValueError), (math.nan, ValueError), ("1", TypeError), (None, TypeError), (True, TypeError)],
)
def test_a_guard_timeout_that_is_no_time_is_refused(value: object, error: type[Exception]) -> None:
    with pytest.raises(error, match="guard_timeout must be"):
        allgone.StopPolicy(guard_timeout=value)


# Forks and execs of the supervisor


def forks_and_is_killed(options: dict, args: list[str], how: str) -> None:
    process = allgone.Popen(args, stdin=subprocess.DEVNULL, **options)
    if how == "fork":
        if os.fork() == 0:
            signal.alarm(120)
            say("fork", os.getpid())
            signal.pause()
    else:
        child = multiprocessing.get_context(how).Process(target=signal.sigwait, args=([signal.SIGUSR1],))  # noqa: F821
        child.start()
        say("fork", child.pid)
    show(process)  # noqa: F821
    told()


@pytest.mark.parametrize("how", ["fork", "mp fork", "mp spawn", "mp forkserver"])
def test_a_fork_that_lives_on_keeps_nothing_alive_or_locked(backend: BackendUnderTest, how: str) -> None:
    with Directed(forks_and_is_killed, backend, DEAF, how.removeprefix("mp ")) as supervisor:
        supervisor.lines.wait_for("ready")
        fork = Held(int(supervisor.lines.wait_for("fork").split()[1]))
        try:
            members = supervisor.members()
            supervisor.dies()
            guards_end(supervisor.process.pid)
            assert all(each.ends_within(PATIENCE) for each in members)
            assert fork.is_alive()
            assert backend.name != "cgroup" or not os.path.exists(supervisor.home())
        finally:
            fork.end()
            fork.close()
        assert supervisor.lines.are_over(PATIENCE)


def execs(options: dict, args: list[str], code: str) -> None:
    show(allgone.Popen(args, stdin=subprocess.DEVNULL, **options))  # noqa: F821
    told()
    go = next(each for each in told.__code__.co_consts if isinstance(each, int))
    os.set_inheritable(go, True)
    os.execv(sys.executable, [sys.executable, "-c", code, str(go)])


EXECED = """
import os, sys
{first}
os.write(1, b"execed\\n")
os.read(int(sys.argv[1]), 1)
"""
USES_ALLGONE = """
import allgone
for backend in ("auto", "process-group"):
    allgone.run(["true"], backend=backend)
"""


@pytest.mark.parametrize("first", ["", USES_ALLGONE], ids=["without allgone", "with allgone"])
def test_a_supervisor_that_execs_is_alive_and_what_it_has_started_ends_with_what_it_has_become(
    backend: BackendUnderTest, kind: str, first: str
) -> None:
    with Directed(execs, backend, DEAF, EXECED.format(first=first), kind=kind) as supervisor:
        supervisor.lines.wait_for("ready")
        members = supervisor.members()[:]
        guard = supervisor.guard(backend)
        supervisor.go_on()
        supervisor.lines.wait_for("execed")
        # It has been told, by the end-of-file on its pipe, and sleeps again.
        assert wait_for_state(guard.pid, "S")
        assert all(each.is_alive() for each in members)
        assert guard.is_alive()
        supervisor.go_on()
        supervisor.succeeds()
        assert all_is_gone(supervisor, backend)


def wait_for_state(pid: int, state: str) -> bool:
    deadline = time.monotonic() + PATIENCE
    while procfs.state(pid) != state and time.monotonic() < deadline:
        time.sleep(0.002)  # there is no event for a process that falls asleep
    return procfs.state(pid) == state


def becomes_a_daemon(options: dict, args: list[str]) -> None:
    process = allgone.Popen(args, stdin=subprocess.DEVNULL, **options)
    show(process)  # noqa: F821
    told()
    if os.fork():
        os._exit(0)
    os.setsid()
    try:
        process.stop()
    except allgone.WrongProcess as e:
        say("refused:", e)


def test_a_daemon_that_has_started_something_before_it_became_one_is_told(backend: BackendUnderTest) -> None:
    with Directed(becomes_a_daemon, backend, DEAF) as supervisor:
        supervisor.lines.wait_for("ready")
        supervisor.members()
        supervisor.go_on()
        supervisor.succeeds()
        said = supervisor.lines.wait_for("refused:")
        assert "A daemon must start what it wants to stop when it has become one" in said
        assert all_is_gone(supervisor, backend)


def becomes_a_daemon_first(options: dict, args: list[str]) -> None:
    if os.fork():
        os._exit(0)
    os.setsid()
    process = allgone.Popen(args, stdin=subprocess.DEVNULL, **options)
    say("daemon", os.getpid())
    show(process)  # noqa: F821
    told()


def test_a_daemon_that_becomes_one_first_has_a_guard_like_any(plain: BackendUnderTest) -> None:
    with Directed(becomes_a_daemon_first, plain, DEAF) as supervisor:
        supervisor.succeeds()
        supervisor.lines.wait_for("ready")
        supervisor.members()
        daemon = int(supervisor.lines.wait_for("daemon").split()[1])
        held = Held(daemon)
        try:
            assert guard_of(daemon)
        finally:
            held.end()
            held.close()
        guards_end(daemon)
        assert all_is_gone(supervisor, plain)
