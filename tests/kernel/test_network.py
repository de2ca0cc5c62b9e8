"""network=: a child in a network namespace of its own, and the supervisor's ways into it."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from daemons.servers import program
from support import every_point, networks
from support.backends import BackendUnderTest
from support.programs import PATIENCE
from support.supervisors import Supervisor, say
from support.tiers import missing
from support.users import spare_uid

import allgone
from allgone._linux import netns, veth

PORT = 8000
PYTHON = [sys.executable, "-S", "-c"]
# Says its name to all that connect. It listens before it says that it is ready.
SERVES = """
import socket, sys
with socket.create_server((sys.argv[1], int(sys.argv[2]))) as server:
    print("ready", flush=True)
    while True:
        connection, _ = server.accept()
        connection.sendall(sys.argv[3].encode())
        connection.close()
"""
# What it sees, tells, and whom it reaches: an errno, or what was said.
REACHES = """
import socket, sys
try:
    with socket.create_connection((sys.argv[1], int(sys.argv[2])), 20) as s:
        print(s.makefile().read())
except OSError as e:
    print(e.errno)
"""
BOTH = pytest.mark.parametrize("network", ["private", "veth"])


def serves(host: str, name: str) -> list[str]:
    return [*PYTHON, SERVES, host, str(PORT), name]


def fixture(args: list[str], backend: BackendUnderTest, **options: Any) -> Any:
    ready = allgone.log_line("ready")
    return allgone.process_fixture(args, ready=ready, **backend.options, **options)


def said_by(connection: socket.socket) -> str:
    with connection, connection.makefile() as f:
        return f.read()


def said_to(args: list[str], backend: BackendUnderTest, **options: Any) -> str:
    return backend.run(args, capture_output=True, text=True, check=True, **options).stdout.strip()


@pytest.fixture(autouse=True)
def _no_link_is_left() -> Iterator[None]:
    before = networks.links()
    yield
    assert networks.links() <= before


@pytest.fixture
def namespace() -> Iterator[netns.NetworkNamespace]:
    """One of the test's own."""
    made = netns.made(veth=False)
    yield made
    made.close()


# Ports


def test_twenty_servers_have_the_same_port_at_the_same_time(backend: BackendUnderTest, tmp_path: Path) -> None:
    server = program("redis-server") or missing("redis-server is not installed")
    args = [server, "--port", str(PORT), "--save", "", "--dir", str(tmp_path)]
    with ExitStack() as stack:
        servers = [
            stack.enter_context(
                allgone.process_fixture(
                    args, ready=allgone.tcp(PORT), network="private", output=allgone.capture(), **backend.options
                )
            )
            for _ in range(20)
        ]

        def answer(each: allgone.Popen, command: str) -> list[str]:
            connection = each.connect(PORT, timeout=PATIENCE)
            connection.sendall(f"{command}\r\nQUIT\r\n".encode())
            return said_by(connection).splitlines()

        for number, each in enumerate(servers):
            assert answer(each, f"SET name {number}") == ["+OK", "+OK"]
        for number, each in enumerate(servers):
            assert answer(each, "GET name")[1] == str(number)
        assert len({networks.of(each.pid) for each in servers} | {networks.own()}) == 21


def test_probes_look_inside_and_are_not_fooled_by_who_has_the_port_outside(backend: BackendUnderTest) -> None:
    with socket.create_server(("127.0.0.1", 0)) as stale:
        port = stale.getsockname()[1]
        for probe in (allgone.tcp(port), allgone.http(f"http://127.0.0.1:{port}/")):
            with pytest.raises(allgone.NotReady, match="Connection refused"), allgone.process_fixture(
                ["sleep", "1000"], ready=probe, ready_timeout=0.05, network="private", **backend.options
            ):  # fmt: skip
                pass


def test_http_is_asked_inside(backend: BackendUnderTest, tmp_path: Path) -> None:
    args = [sys.executable, "-m", "http.server", "--bind", "127.0.0.1", "--directory", str(tmp_path), str(PORT)]
    with allgone.process_fixture(
        args, ready=allgone.http(f"http://127.0.0.1:{PORT}/"), network="private", output=allgone.capture(),
        **backend.options,
    ) as proc:  # fmt: skip
        assert proc.poll() is None  # where nobody listens outside, that is


def test_a_callable_runs_where_the_caller_is(backend: BackendUnderTest) -> None:
    seen = []

    def ready(process: allgone.Popen) -> bool:
        seen.append(networks.own())
        return process.netns is not None

    with allgone.process_fixture(["sleep", "1000"], ready=ready, network="private", **backend.options):
        assert seen == [networks.own()]


# Private


def test_it_has_loopback_and_nothing_else(backend: BackendUnderTest) -> None:
    code = "import socket; print(socket.if_nameindex()); socket.create_server(('127.0.0.1', 0)); socket.create_server(('::1', 0), family=socket.AF_INET6)"
    assert said_to([*PYTHON, code], backend, network="private") == "[(1, 'lo')]"


def test_what_listens_inside_is_not_reached_from_outside_but_by_connect(backend: BackendUnderTest) -> None:
    with fixture(serves("0.0.0.0", "inside"), backend, network="private") as proc:
        assert said_by(proc.connect(PORT)) == "inside"
        assert said_by(proc.netns.connect(PORT, "127.0.0.2")) == "inside"
        with proc.netns.socket(socket.AF_INET, socket.SOCK_STREAM) as connection:
            connection.connect(("127.0.0.1", PORT))
            assert connection.recv(100) == b"inside"
        with pytest.raises(ConnectionRefusedError), socket.create_connection(("127.0.0.1", PORT)):
            pass
        assert proc.netns.address is proc.netns.peer_address is None


def test_what_listens_outside_is_not_reached_from_inside(backend: BackendUnderTest) -> None:
    with socket.create_server(("0.0.0.0", 0)) as outside:
        port = str(outside.getsockname()[1])
        assert said_to([*PYTHON, REACHES, "127.0.0.1", port], backend, network="private") == "111"  # ECONNREFUSED
        assert said_to([*PYTHON, REACHES, "192.0.2.1", port], backend, network="private") == "101"  # ENETUNREACH


def test_without_a_network_of_its_own_connect_is_from_ours(backend: BackendUnderTest) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, backend.Popen(["sleep", "1000"]) as proc:
        assert proc.netns is None
        proc.connect(server.getsockname()[1], timeout=PATIENCE).close()
        assert networks.of(proc.pid) == networks.own()
        proc.stop()


# veth


def test_veth_leads_both_ways(backend: BackendUnderTest) -> None:
    with fixture(serves("0.0.0.0", "inside"), backend, network="veth") as proc:
        address, peer = proc.netns.address, proc.netns.peer_address
        assert said_by(socket.create_connection((address, PORT), PATIENCE)) == "inside"
        assert said_by(proc.connect(PORT)) == "inside"
        with socket.create_server((peer, 0)) as outside, proc.netns.entered():
            outside.settimeout(PATIENCE)
            port = str(outside.getsockname()[1])
            asks = subprocess.Popen([*PYTHON, REACHES, peer, port], stdout=subprocess.PIPE, text=True)
            connection, (origin, _) = outside.accept()
            connection.sendall(b"outside")
            connection.close()
            assert asks.communicate()[0].strip() == "outside"
        assert origin == address


def test_veth_leads_to_the_supervisor_and_no_further(backend: BackendUnderTest) -> None:
    with backend.Popen(["sleep", "1000"], network="veth") as other:
        for beyond in ("192.0.2.1", other.netns.address, other.netns.peer_address):
            assert said_to([*PYTHON, REACHES, beyond, str(PORT)], backend, network="veth") == "101"  # ENETUNREACH
        other.stop()


def test_the_link_is_up_has_no_ipv6_and_is_gone_when_stop_returns(backend: BackendUnderTest) -> None:
    before = networks.links()
    with backend.Popen(["sleep", "1000"], network="veth") as proc:
        (link,) = networks.links() - before
        assert Path(f"/sys/class/net/{link}/operstate").read_text() == "up\n"
        assert not Path(f"/proc/sys/net/ipv6/conf/{link}").exists()
        proc.stop()
        assert networks.links() == before
    with pytest.raises(ValueError, match="its process was stopped"):
        proc.connect(PORT)


def test_the_link_is_gone_when_wait_returns_and_nothing_was_left_to_stop(backend: BackendUnderTest) -> None:
    before = networks.links()
    proc = backend.Popen(["true"], network="veth")
    assert proc.wait() == 0
    assert networks.links() == before


def test_what_a_stop_leaves_running_keeps_its_network_until_the_next(backend: BackendUnderTest) -> None:
    args = ["sh", "-c", "sleep 1000 & echo ready; wait"]
    before = networks.links()
    with fixture(args, backend, network="veth", policy=allgone.StopPolicy(kill_mode="process")) as proc:
        assert proc.stop().left_running
        assert len(networks.links() - before) == 1
        proc.stop(allgone.StopPolicy())
        assert networks.links() == before


def test_in_a_group_each_has_its_own_and_the_stop_of_all_ends_them(backend: BackendUnderTest) -> None:
    before = networks.links()
    with backend.group() as group:
        one, two = (group.Popen(["sleep", "1000"], network="veth") for _ in range(2))
        three = group.Popen(["sleep", "1000"])
        assert len({networks.of(each.pid) for each in (one, two, three)}) == 3
        one.stop()
        assert len(networks.links() - before) == 1
        four = group.Popen(["sh", "-c", "sleep 1000 & exit 3"], network="veth")
        assert four.wait() == 3
        assert len(networks.links() - before) == 2
        group.stop()
        assert networks.links() == before
    with pytest.raises(ValueError, match="its process was stopped"):
        two.netns.fileno()


def test_an_interface_removed_from_inside_is_no_matter(backend: BackendUnderTest) -> None:
    with backend.Popen(["sleep", "1000"], network="veth") as proc:
        with proc.netns.socket(socket.AF_NETLINK, socket.SOCK_RAW) as inside:
            veth.remove(inside, dict(map(reversed, proc.netns.call(socket.if_nameindex)))["eth0"])
        proc.stop()


def test_addresses_that_are_known_here_are_not_taken(namespace: netns.NetworkNamespace) -> None:
    from pyroute2 import IPRoute

    def address_beside(*known: str) -> str | None:
        for each in known:
            with IPRoute() as ip:
                ip.addr("add", index=1, address=each, prefixlen=16)
        try:
            made = netns.made(veth=True)
        finally:
            after.append(socket.if_nameindex())
        made.close()
        return made.address

    after: list[Any] = []
    with namespace.entered():
        assert (address_beside() or "").startswith("198.18.")
        assert (address_beside("198.18.3.4") or "").startswith("198.19.")
        with pytest.raises(OSError, match=r"198\.18\.0\.0/15, are used here"):
            address_beside("198.19.3.4")
        assert after[-1] == [(1, "lo")], "and nothing is left"


# Where the caller's thread is


@BOTH
def test_the_callers_thread_is_where_it_was_whatever_becomes_of_the_start(
    backend: BackendUnderTest, network: str
) -> None:
    before = networks.own(), networks.links()
    for args, error in (
        (["no-such-command"], FileNotFoundError),
        (["/"], PermissionError),
        (["x" * (1 << 18)], OSError),
    ):
        with pytest.raises(error):
            backend.Popen(args, network=network)
        assert (networks.own(), networks.links()) == before
    with pytest.raises(TypeError):
        backend.Popen(["true"], network=network, bufsize="x")
    assert (networks.own(), networks.links()) == before


def test_inside_the_block_the_thread_is_in_the_namespace_and_no_other_thread_is(
    namespace: netns.NetworkNamespace,
) -> None:
    home = networks.own()
    asked, answers = threading.Event(), []

    def answer() -> None:
        asked.wait(PATIENCE)
        answers.append(networks.own())

    other = threading.Thread(target=answer)
    other.start()
    with namespace.entered():
        inside = networks.own()
        assert os.fstat(namespace.fileno()).st_ino == int(inside[5:-1])
        assert subprocess.check_output(["readlink", "/proc/self/ns/net"], text=True).strip() == inside
        asked.set()
        other.join()
    assert answers == [networks.own()] == [home] != [inside]


def test_blocks_can_be_nested_and_left_by_exceptions(namespace: netns.NetworkNamespace) -> None:
    home = networks.own()
    inner = netns.made(veth=False)
    seen = []

    def raises_in(outer: netns.NetworkNamespace, then: Callable[[], object]) -> None:
        with outer.entered():
            seen.append(networks.own())
            try:
                then()
            finally:
                seen.append(networks.own())

    with pytest.raises(ZeroDivisionError):
        raises_in(namespace, lambda: raises_in(inner, lambda: 1 // 0))
    assert seen == [seen[0], seen[1], seen[1], seen[0]]
    assert len({*seen, home}) == 3
    assert networks.own() == home
    inner.close()
    with pytest.raises(ValueError, match="not held here"):
        inner.call(networks.own)


@pytest.mark.parametrize("at", [1, 2, 0, 3], ids=["on its way", "on arrival", "inside", "just back"])
def test_ctrl_c_leaves_the_thread_where_it_was(
    namespace: netns.NetworkNamespace, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    home, setns, calls = networks.own(), netns._setns(), 0

    def interrupted(fd: int, kind: int) -> None:
        nonlocal calls
        setns(fd, kind)
        calls += 1
        if calls == at:
            signal.raise_signal(signal.SIGINT)

    inside = networks.own if at else partial(signal.raise_signal, signal.SIGINT)
    monkeypatch.setattr(netns, "_setns", lambda: interrupted)
    with pytest.raises(KeyboardInterrupt):
        namespace.call(inside)
    assert networks.own() == home


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # for the file that a signal keeps from getting a name
def test_signals_that_raise_at_any_time_leave_the_thread_where_it_was(namespace: netns.NetworkNamespace) -> None:
    home, interrupted = networks.own(), 0

    def raises(*_: object) -> None:
        raise InterruptedError

    before = signal.signal(signal.SIGALRM, raises)
    try:
        for each in range(500):
            try:
                signal.setitimer(signal.ITIMER_REAL, 0.00001 * (each % 50 + 1))
                for _ in range(50):
                    namespace.call(os.getpid)
                signal.setitimer(signal.ITIMER_REAL, 0)
            except InterruptedError:
                interrupted += 1
            assert networks.own() == home
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert interrupted


def test_a_thread_that_can_not_come_back_is_an_error(namespace: netns.NetworkNamespace) -> None:
    user = spare_uid()
    raised: list[Exception] = []

    def loses_its_rights() -> None:
        from ctypes import CDLL

        try:
            with namespace.entered():
                CDLL(None).syscall(117, user, user, user)  # setresuid, of this thread alone
        except allgone.AllgoneError as e:
            raised.append(e)

    thread = threading.Thread(target=loses_its_rights)
    thread.start()
    thread.join()
    assert "this thread can't go back to its network namespace" in str(raised[0])


@BOTH
def test_under_an_event_loop(backend: BackendUnderTest, network: str) -> None:
    async def starts_and_stops() -> str:
        with fixture(serves("127.0.0.1", "inside"), backend, network=network) as proc:
            loop = asyncio.get_running_loop()
            return said_by(await loop.run_in_executor(None, proc.connect, PORT))

    assert asyncio.run(starts_and_stops()) == "inside"


def starts_its_first_from_inside(options: dict, go: int) -> None:
    from allgone._linux import netns

    with netns.made(veth=False).entered(), allgone.Popen(["sleep", "1000"], **options) as proc:
        say("child", proc.pid)
        os.read(go, 1)
        proc.stop()


def test_a_guard_is_born_outside(backend: BackendUnderTest) -> None:
    told, tell = os.pipe()
    with Supervisor(starts_its_first_from_inside, backend, told, pass_fds=(told,)) as supervisor:
        os.close(told)
        child = int(supervisor.lines.wait_for("child").split()[1])
        guards = every_point.guards_of(supervisor.process.pid)
        assert [networks.of(each) for each in guards] == [networks.own()] != [networks.of(child)]
        os.close(tell)
        supervisor.succeeds()


# With other options


@BOTH
@pytest.mark.parametrize("how", ["user", "preexec_fn", "shell", "guard", "positional"])
def test_other_options_work_with_it(backend: BackendUnderTest, network: str, how: str) -> None:
    see = "readlink /proc/self/ns/net"
    options: dict[str, Any] = {
        "user": {"user": spare_uid(), "group": 65534, "extra_groups": []},
        "preexec_fn": {"preexec_fn": os.getpid},
        "shell": {"shell": True},
        "guard": {"guard": False},
        "positional": {},
    }[how]
    args = see if how == "shell" else ["sh", "-c", see]
    with backend.Popen(args, -1, stdout=subprocess.PIPE, text=True, network=network, **options) as proc:
        seen = proc.stdout.read().strip()
        assert os.fstat(proc.netns.fileno()).st_ino == int(seen[5:-1])
    assert seen != networks.own()


def holds_many(options: dict, count: int, go: int) -> None:
    from concurrent.futures import ThreadPoolExecutor

    def start(_: int) -> allgone.Popen:
        return allgone.Popen(["sleep", "1000"], network="veth", **options)

    with ThreadPoolExecutor(count) as threads:
        started = list(threads.map(start, range(count)))
    for each in started:
        say("address", each.netns.address, each.netns.peer_address)
    say("all")
    os.read(go, 1)
    for each in started:
        each.stop()
    say("stopped", len(os.listdir("/proc/self/fd")) < 20)


def test_many_at_once_in_threads_of_two_processes_have_addresses_of_their_own(backend: BackendUnderTest) -> None:
    before = networks.links()
    told, tell = os.pipe()
    with ExitStack() as stack:
        stack.callback(os.close, told)
        both = [stack.enter_context(Supervisor(holds_many, backend, 25, told, pass_fds=(told,))) for _ in range(2)]
        for each in both:
            each.lines.wait_for("all")
        lines = [line.split() for each in both for line in each.lines.read if line.startswith("address")]
        assert len({address for _, *pair in lines for address in pair}) == 100
        assert len(networks.links() - before) == 50
        os.close(tell)
        for each in both:
            each.succeeds()
            assert each.lines.wait_for("stopped") == "stopped True"
    assert networks.links() == before


def test_threads_start_and_connect_at_the_same_time(backend: BackendUnderTest) -> None:
    def one(number: int) -> tuple[str, str]:
        with fixture(serves("127.0.0.1", str(number)), backend, network="private") as proc:
            return said_by(proc.connect(PORT)), networks.own()

    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(one, range(16))) == [(str(number), networks.own()) for number in range(16)]


def test_a_socket_from_inside_outlives_the_stop_and_holds_the_namespace(backend: BackendUnderTest) -> None:
    with backend.Popen(["sleep", "1000"], network="private") as proc, networks.Watched(proc.pid) as watched:
        listens = proc.netns.socket()
        listens.bind(("127.0.0.1", PORT))
        listens.listen()
        connects = proc.connect(PORT)
        accepted, _ = listens.accept()
        proc.stop()
        with accepted, connects, listens:
            accepted.sendall(b"still")
            assert connects.recv(10) == b"still"
            assert not watched.is_gone(within=0)
        assert watched.is_gone()


def test_a_fork_of_the_supervisor_does_not_hold_it(backend: BackendUnderTest) -> None:
    with backend.Popen(["sleep", "1000"], network="private") as proc, networks.Watched(proc.pid) as watched:
        pid = every_point.fork()
        if pid == 0:
            every_point.exits_with(signal.pause)
        try:
            proc.stop()
            assert watched.is_gone()
        finally:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
