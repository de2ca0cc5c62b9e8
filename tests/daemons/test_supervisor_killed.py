"""Real servers whose supervisor is killed, crashes or is out of memory: they are gone, and their ports are free."""

from __future__ import annotations

import ctypes
import faulthandler
import os
import resource
import signal
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import pytest
from support import every_point, procfs
from support.backends import BackendUnderTest
from support.programs import PATIENCE, Held, Lines
from support.tiers import missing

import allgone

from .servers import SERVERS, FreePort, Server
from .test_daemons import assert_free

MOST_MEMORY = 192 << 20
MEMORY_V1 = Path("/sys/fs/cgroup/memory")


def is_killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def segfaults() -> None:
    ctypes.string_at(0)


def aborts() -> None:
    os.abort()


def runs_out_of_memory() -> None:
    Path("/proc/self/oom_score_adj").write_text("1000")  # it, and not its server
    taken = []
    while True:
        taken.append(bytearray(os.urandom(1 << 20)))


ENDS: dict[str, tuple[Callable[[], None], int]] = {
    "SIGKILL": (is_killed, signal.SIGKILL),
    "segfault": (segfaults, signal.SIGSEGV),
    "abort": (aborts, signal.SIGABRT),
    "out-of-memory": (runs_out_of_memory, signal.SIGKILL),
}


@pytest.fixture
def folder() -> Iterator[Path]:
    """Not tmp_path: PostgreSQL runs as another user, for whom pytest's folders are closed."""
    with tempfile.TemporaryDirectory(prefix="allgone-test-") as path:
        os.chmod(path, 0o755)
        yield Path(path)


@contextmanager
def little_memory() -> Iterator[Path]:
    """The cgroup.procs of a cgroup with a limit of memory. Skips where there is none."""
    if os.geteuid() != 0:
        missing("a limit of memory takes root")
    if not (MEMORY_V1 / "memory.limit_in_bytes").exists():
        missing("there is no memory controller of cgroups v1 at /sys/fs/cgroup/memory")
    made = MEMORY_V1 / f"allgone-test-{os.getpid()}"
    made.mkdir()
    try:
        (made / "memory.limit_in_bytes").write_text(str(MOST_MEMORY))
        with_swap = made / "memory.memsw.limit_in_bytes"
        if with_swap.exists():
            with_swap.write_text(str(MOST_MEMORY))
        yield made / "cgroup.procs"
    finally:
        for pid in map(int, (made / "cgroup.procs").read_text().split()):
            procfs.end(pid)
        remove(made)


def remove(memory: Path) -> None:
    """Processes that have just ended may still be in it."""
    for _ in range(1000):
        try:
            memory.rmdir()
            return
        except OSError:
            os.sched_yield()
    memory.rmdir()


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("name", ["nginx", "redis", "postgresql"])
def test_nothing_is_left_of_a_server_whose_supervisor_dies(
    name: str, end: str, backend: BackendUnderTest, folder: Path, free_port: FreePort, request: pytest.FixtureRequest
) -> None:
    """With plain process-group nothing but what has left its session, and gc lists that."""
    make, installed = SERVERS[name]
    if installed is None:
        missing(f"{name} is not installed")
    how, signum = ENDS[end]
    if end != "SIGKILL" and name != "redis" and not request.config.getoption("--run-slow"):
        pytest.skip("takes long: --run-slow")
    server = make(folder, free_port)
    base = request.getfixturevalue("cgroup_base") if backend.name == "cgroup" else None
    with ExitStack() as stack:
        memory = stack.enter_context(little_memory()) if end == "out-of-memory" else None
        reader, writer = os.pipe()
        lines = stack.enter_context(closing(Lines(reader)))
        told, tell = os.pipe()
        supervisor = every_point.fork()
        if supervisor == 0:
            os.close(tell)
            every_point.exits_with(
                lambda: supervise(server, backend, memory, writer, lambda: os.read(told, 1) and how())
            )
        os.close(writer)
        os.close(told)
        try:
            _, *pids = lines.wait_for("started").split()
            members = hold(stack, map(int, pids))
            guard = hold(stack, every_point.guards_of(supervisor))
            assert guard
            assert any(each.is_alive() for each in members)  # what daemonises may just end
            os.write(tell, b"!")
            assert procfs.ends_within(supervisor, PATIENCE)
        finally:
            os.close(tell)
            os.kill(supervisor, signal.SIGKILL)  # a child of ours, not reaped
            _, status = os.waitpid(supervisor, 0)
        assert os.waitstatus_to_exitcode(status) == -signum
        for each in guard:
            assert each.ends_within(PATIENCE)
        if backend.ends_daemons:
            left = [procfs.describe(each.pid) for each in members if not each.ends_within(PATIENCE)]
            assert not left
        else:
            listed = every_point.gc(None)
            assert {each.pid for each in members if each.is_alive()} <= set(listed)
            while left := [pid for pid in every_point.gc(None) if is_below_init(pid)]:
                for pid in left:
                    procfs.end(pid)
        assert base is None or not every_point.directories_left(base)
        assert_free(server)


def supervise(
    server: Server, backend: BackendUnderTest, memory: Path | None, writer: int, dies: Callable[[], object]
) -> int:
    faulthandler.disable()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if memory is not None:
        memory.write_text(str(os.getpid()))
    # SIGKILL keeps PostgreSQL from removing its socket and its shared memory: it is asked.
    policy = allgone.StopPolicy(timeout_stop=5, guard_timeout=5 if server.paths else 0)
    options = {**backend.options, **server.options}
    with allgone.process_fixture(
        server.args, ready=server.ready, output=allgone.capture(), policy=policy, **options
    ) as process:
        started = process.members() | process.escapees()
        os.write(writer, f"started {' '.join(map(str, started))}\n".encode())
        dies()
    return 99


def is_below_init(pid: int) -> bool:
    """Whether it was started by this test run: others' run on the machine as well."""
    try:
        with closing(Held(pid)) as held:
            return held._is_ours
    except ProcessLookupError:
        return False


def hold(stack: ExitStack, pids: Iterable[int]) -> list[Held]:
    """Those that are there. Whatever becomes of the test, they are ended."""
    found = []
    for pid in pids:
        try:
            each = Held(pid)
        except ProcessLookupError:
            continue
        stack.callback(each.close)
        stack.callback(each.end)
        found.append(each)
    return found
