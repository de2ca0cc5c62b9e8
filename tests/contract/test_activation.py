"""`sockets=`: the command finds them as fd 3, 4, … (sd_listen_fds(3)), whatever else is open; they stay the caller's."""

from __future__ import annotations

import os
import resource
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from support import launchers
from support.backends import BackendUnderTest
from support.programs import PATIENCE
from support.users import spare_uid

import allgone

PYTHON = [sys.executable, "-S", "-c"]
# What a service sees: the variables, whether LISTEN_PID is itself, and the name of each socket; other fds than these.
SHOWS = """
import os, socket
fds = range(3, 3 + int(os.environ.get("LISTEN_FDS", "0")))
print(os.environ.get("LISTEN_FDNAMES"), os.environ.get("LISTEN_PID") == str(os.getpid()), len(fds))
print([socket.socket(fileno=os.dup(fd)).getsockname()[1] for fd in fds])
there = [int(fd) for fd in os.listdir("/proc/self/fd")]  # and that of this directory
print([fd for fd in there if fd > 2 and fd not in fds and os.path.exists(f"/proc/self/fd/{fd}")])
"""
# The same, in a supervisor of which nothing but stdio is open.
ALONE = """
import os, socket, sys
os.closerange(3, 200)
sys.path[:] = [*sys.argv[3].split(os.pathsep), *sys.path]
import allgone
made = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]
allgone.run(["true"], backend=sys.argv[1])  # what is kept from the first start on is open by now
if sys.argv[2] == "high":
    assert sorted(each.fileno() for each in made) == [3, 4, 5]
    made = [socket.socket(fileno=os.dup2(each.fileno(), 90 + number)) for number, each in enumerate(made)]
ports = [each.getsockname()[1] for each in made]
shown = allgone.check_output([sys.executable, "-S", "-c", sys.argv[4]], sockets=made[::-1], backend=sys.argv[1])
sys.stdout.buffer.write(shown)
assert shown.splitlines()[1].decode() == str(ports[::-1]), (ports, shown)
assert [each.getsockname()[1] for each in made] == ports
try:
    allgone.run(["/nonexistent"], sockets=made, backend=sys.argv[1])
except FileNotFoundError as e:
    assert e.filename == "/nonexistent"
else:
    raise AssertionError("the launcher's report is lost")
"""
SERVES = """
import os, socket
server = socket.socket(fileno=3)
while True:
    connection, _ = server.accept()
    connection.sendall(str(os.getpid()).encode())
    connection.close()
"""


@pytest.fixture(params=["compiled", "interpreted"])
def kind(request: pytest.FixtureRequest) -> str:
    """Each launcher of this machine's own architecture."""
    launchers.get(request.param, request)
    return str(request.param)


@pytest.fixture
def pair() -> Iterator[list[socket.socket]]:
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as two:
        yield [one, two]


def ports(sockets: list[socket.socket]) -> list[int]:
    return [each.getsockname()[1] for each in sockets]


def shown(backend: BackendUnderTest, **options: Any) -> list[str]:
    done = backend.run([*PYTHON, SHOWS], capture_output=True, text=True, check=True, **options)
    return done.stdout.splitlines()


@pytest.mark.usefixtures("kind")
def test_the_command_has_them_in_order(backend: BackendUnderTest, pair: list[socket.socket]) -> None:
    assert shown(backend, sockets=pair) == ["None True 2", str(ports(pair)), "[]"]
    assert shown(backend, sockets=tuple(pair[::-1])) == ["None True 2", str(ports(pair[::-1])), "[]"]


@pytest.mark.usefixtures("kind")
def test_they_have_names(backend: BackendUnderTest, pair: list[socket.socket]) -> None:
    named = {"http": pair[0], "admin.2": pair[1]}
    assert shown(backend, sockets=named) == ["http:admin.2 True 2", str(ports(pair)), "[]"]


def test_one_may_be_handed_twice_and_may_be_of_any_kind(backend: BackendUnderTest) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
        datagrams.bind(("127.0.0.1", 0))
        assert shown(backend, sockets=[datagrams, datagrams])[1] == str(ports([datagrams, datagrams]))


@pytest.mark.parametrize("where", ["low", "high"])
def test_neither_they_nor_the_launchers_own_fds_are_in_the_way(
    backend: BackendUnderTest, kind: str, where: str
) -> None:
    """Where the numbers from 3 on are the sockets' own, in another order, and where they are free for whatever is
    opened next."""
    options = {"env": {**os.environ, "ALLGONE_LAUNCHER": kind}}
    path = os.pathsep.join(sys.path)
    done = subprocess.run(
        [sys.executable, "-c", ALONE, backend.name, where, path, SHOWS], capture_output=True, text=True, **options
    )
    assert (done.stderr, done.returncode) == ("", 0)
    assert done.stdout.splitlines()[::2] == ["None True 3", "[]"]


@pytest.mark.usefixtures("kind")
def test_fds_that_are_passed_keep_their_numbers(backend: BackendUnderTest, pair: list[socket.socket]) -> None:
    reader, writer = os.pipe()
    with open(reader, "rb"), open(writer, "wb"):
        high = sorted(fd for fd in (reader, writer) if fd > 4)
        assert shown(backend, sockets=pair, pass_fds=high)[1:] == [str(ports(pair)), str(high)]


@pytest.mark.parametrize(
    "options",
    [
        {"stdin": subprocess.PIPE}, {"close_fds": False}, {"cwd": "/"}, {"start_new_session": True},
        {"restore_signals": False},
    ],
    ids=lambda options: next(iter(options)),
)  # fmt: skip
def test_they_go_with_other_options(backend: BackendUnderTest, pair: list[socket.socket], options: Any) -> None:
    assert shown(backend, sockets=pair, **options)[:2] == ["None True 2", str(ports(pair))]


@pytest.mark.usefixtures("enters_by_itself")
def test_they_go_with_preexec_fn(backend: BackendUnderTest, pair: list[socket.socket]) -> None:
    assert shown(backend, sockets=pair, preexec_fn=lambda: None)[:2] == ["None True 2", str(ports(pair))]


@pytest.mark.usefixtures("kind", "searchable_path")
def test_another_user_has_them_too(backend: BackendUnderTest, pair: list[socket.socket]) -> None:
    uid = spare_uid()
    text = 'echo $(id -u) $LISTEN_FDS; test "$LISTEN_PID" = $$ && readlink /proc/self/fd/3 /proc/self/fd/4'
    done = backend.run(
        ["sh", "-c", text], sockets=pair, user=uid, group=uid, extra_groups=[], capture_output=True, check=True
    )
    sockets = [f"socket:[{os.fstat(each.fileno()).st_ino}]" for each in pair]
    assert done.stdout.decode().split() == [str(uid), "2", *sockets]


def test_a_group_member_has_them(backend: BackendUnderTest, pair: list[socket.socket]) -> None:
    with backend.group() as group:
        process = group.Popen([*PYTHON, SHOWS], sockets=pair, stdout=subprocess.PIPE, text=True)
        assert process.stdout.read().splitlines()[:2] == ["None True 2", str(ports(pair))]
        process.stdout.close()


@pytest.mark.parametrize("env", [None, {b"LISTEN_FDS": b"4", b"A": b"b", "LISTEN_PIDFDID": "7"}])
def test_what_the_supervisor_was_given_is_not_passed_on(
    backend: BackendUnderTest, env: Any, monkeypatch: pytest.MonkeyPatch, pair: list[socket.socket]
) -> None:
    for name in ("LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PIDFDID"):
        monkeypatch.setenv(name, "4")
    monkeypatch.setenv("LISTEN_PID", str(os.getpid()))

    def variables(**options: Any) -> list[str]:
        done = backend.run(["/usr/bin/env"], capture_output=True, text=True, check=True, env=env, **options)
        return sorted(each for each in done.stdout.splitlines() if each.startswith("LISTEN_") and "PID=" not in each)

    assert variables(sockets=[]) == []
    assert variables(sockets=pair) == ["LISTEN_FDS=2"]
    assert "LISTEN_FDS=4" in variables()


def test_they_stay_the_callers(backend: BackendUnderTest, pair: list[socket.socket]) -> None:
    """The port is never free in between: the next one serves at the same."""
    port = ports(pair)[0]
    served = []
    for _ in range(2):
        with (
            allgone.process_fixture([*PYTHON, SERVES], sockets=pair[:1], **backend.options) as process,
            socket.create_connection(("127.0.0.1", port), PATIENCE) as client,
        ):
            served.append(int(client.makefile().read()))
        assert served[-1] == process.pid
        assert process.returncode == -15
    assert not os.get_inheritable(pair[0].fileno())


def test_the_caller_may_close_them_once_it_is_started(backend: BackendUnderTest) -> None:
    with ExitStack() as stack:
        with socket.create_server(("127.0.0.1", 0)) as made:
            port = made.getsockname()[1]
            process = stack.enter_context(allgone.process_fixture([*PYTHON, SERVES], sockets=[made], **backend.options))
        assert process.is_listening(allgone.listening(port)._wanted)
        with socket.create_connection(("127.0.0.1", port), PATIENCE) as client:
            assert int(client.makefile().read()) == process.pid


def test_a_socket_that_was_handed_is_its_own(backend: BackendUnderTest, pair: list[socket.socket]) -> None:
    port = ports(pair)[0]
    with allgone.process_fixture(
        [*PYTHON, SERVES], sockets=pair, ready=allgone.listening(port), **backend.options
    ) as process:
        assert [each.port for each in process.listening()] == sorted(ports(pair))
    assert [(each.port, each.released) for each in process.report.ports] == [(p, False) for p in sorted(ports(pair))]


def test_one_at_the_port_that_was_not_handed_is_somebody_elses(
    backend: BackendUnderTest, pair: list[socket.socket]
) -> None:
    ready = allgone.listening(ports(pair)[1])
    with (
        pytest.raises(allgone.PortTaken),
        allgone.process_fixture([*PYTHON, SERVES], sockets=pair[:1], ready=ready, **backend.options),
    ):
        pytest.fail("the body ran")


@pytest.mark.usefixtures("enters_by_itself")
def test_what_can_not_be_handed_is_an_error_and_nothing_runs(
    backend: BackendUnderTest, pair: list[socket.socket], tmp_path: Path
) -> None:
    def leave_no_fds() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (4, 4))

    with pytest.raises(OSError, match=r"the sockets can't be handed over: Bad file descriptor|Invalid argument"):
        backend.run(["touch", str(tmp_path / "ran")], sockets=pair, preexec_fn=leave_no_fds)
    assert list(tmp_path.iterdir()) == []


def closed() -> socket.socket:
    made = socket.socket()
    made.close()
    return made


@pytest.mark.parametrize(
    ("sockets", "error", "message"),
    [
        (7, TypeError, "sockets must be a list of sockets, or a dict"),
        ("web", TypeError, "sockets must be a list of sockets, or a dict"),
        ([3], TypeError, "3 is not a socket"),
        ([None], TypeError, "None is not a socket"),
        ([closed()], ValueError, "is closed"),
        ([sys.__stdin__], ValueError, "is not a socket"),
        ({1: closed()}, TypeError, "a name must be a str, not 1"),
        ({"": closed()}, ValueError, "1 to 255 printable ASCII characters"),
        ({"a:b": closed()}, ValueError, "without a colon"),
        ({"é": closed()}, ValueError, "printable ASCII"),
        ({"x" * 256: closed()}, ValueError, "1 to 255"),
        ({"a\n": closed()}, ValueError, "printable ASCII"),
        ({"a": closed()}, ValueError, "is closed"),
    ],
)
@pytest.mark.parametrize("start", [allgone.Popen, allgone.run])
def test_bad_input_starts_nothing(start: Any, sockets: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        start(["/nonexistent"], sockets=sockets, backend="process-group")


def test_a_number_that_is_wanted_twice_starts_nothing(pair: list[socket.socket]) -> None:
    with pytest.raises(ValueError, match=r"pass_fds: 4 is one of the fds 3 to 4 that sockets= become .*F_DUPFD, 5"):
        allgone.run(["/nonexistent"], sockets=pair, pass_fds=[4, 9])


def test_too_many_start_nothing() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    message = "1000000 are too many for RLIMIT_NOFILE, which is"
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 10_000), hard))
    try:
        with socket.socket() as one, pytest.raises(ValueError, match=message):
            allgone.run(["/nonexistent"], sockets=[one] * 1_000_000)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
