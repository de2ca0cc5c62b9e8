"""Whose a listening socket is: ready when it is ours, and no mistaking a stale server's for it."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from support.backends import BackendUnderTest
from support.programs import Held, command

import allgone
from allgone._process import listening as whose


@contextmanager
def stale(*words: object) -> Iterator[subprocess.Popen[bytes]]:
    """A server of nobody's that listens there already."""
    with allgone.Popen(
        command("listens", *map(str, words)), stdout=subprocess.PIPE, name=f"stale-{Path(str(words[-1])).name}"
    ) as process:
        assert process.stdout.readline() == b"ready\n"
        yield process
        process.stop()


def server(backend: BackendUnderTest, *words: object, ready: Any, **options: Any) -> Any:
    return allgone.process_fixture(command("listens", *map(str, words)), ready=ready, **backend.options, **options)


PLACES = [
    ("tcp", "127.0.0.1", None),
    ("tcp", "127.0.0.1", "127.0.0.1"),
    ("tcp", "127.0.0.1", "localhost"),
    ("tcp", "0.0.0.0", "127.0.0.1"),
    ("tcp", "::1", "::1"),
    ("tcp", "::", "127.0.0.1"),
    ("tcp", "::ffff:127.0.0.1", "127.0.0.1"),
    ("udp", "127.0.0.1", None),
    ("udp", "::", "::1"),
]


@pytest.mark.parametrize(("proto", "address", "host"), PLACES)
def test_ready_when_what_it_started_listens(
    backend: BackendUnderTest, proto: str, address: str, host: str, port: int
) -> None:
    ready = allgone.listening(port, host, proto)
    with server(backend, proto, address, port, ready=ready) as process:
        assert process.listening(port, host, proto) == (allgone.ListeningSocket(proto, address, port),)
        assert process.listening() == process.listening(port, proto=proto)
        assert process.listening(port + 1 if port < 65535 else 1, proto=proto) == ()
    assert process.report.ports == (allgone.Port(proto, address, port, released=True),)


@pytest.mark.parametrize("way", ["absolute", "relative", "through a link", "abstract"])
def test_ready_when_it_listens_at_a_path(backend: BackendUnderTest, tmp_path: Path, way: str) -> None:
    real = tmp_path / "real"
    real.mkdir()
    (tmp_path / "link").symlink_to(real)
    bound, asked = {
        "absolute": (str(real / "socket"), str(real / "socket")),
        "relative": ("socket", str(real / "socket")),
        "through a link": (str(real / "socket"), str(tmp_path / "link/socket")),
        "abstract": (f"@{tmp_path}", f"@{tmp_path}"),
    }[way]
    with server(backend, "unix", bound, ready=allgone.listening(asked), cwd=real) as process:
        assert process.listening(asked) == (allgone.ListeningSocket("unix", bound, None),)
        if way == "abstract":
            assert process.listening("\0" + bound[1:]) == process.listening(asked)
    assert process.report.ports == (allgone.Port("unix", bound, None, released=True),)


@pytest.mark.parametrize("place", [("tcp", "127.0.0.1"), ("tcp", "::"), ("udp", "0.0.0.0")])
def test_a_stale_server_is_named_before_anything_is_started(
    backend: BackendUnderTest, tmp_path: Path, place: tuple[str, str], port: int, free_port: Callable[[], int]
) -> None:
    with stale(*place, port) as holder, stale(*place, free_port()):
        with (
            pytest.raises(allgone.PortTaken) as raised,
            allgone.process_fixture(
                ["touch", tmp_path / "started"], ready=allgone.listening(port, proto=place[0]), **backend.options
            ),
        ):
            pytest.fail("it was ready")
        assert not (tmp_path / "started").exists()
        error = raised.value
        assert {each.pid for each in error.holders} <= holder.members()
        assert error.errno == errno.EADDRINUSE
        (one,) = error.holders
        assert (one.name, one.parent) == (Path(sys.executable).name, holder.pid)
        assert abs(one.started - time.time()) < 60
        assert f"containment stale-{port} of process {os.getpid()}" in error.containment
        assert f":{port} is taken by" in str(error)
        assert f"listens.py {place[0]} {place[1]} {port}, of containment stale-{port} of" in str(error)
        assert time.strftime("since %Y-%m-%d %H:", time.localtime(one.started)) in str(error)


def test_a_stale_server_at_a_path_is_named(backend: BackendUnderTest, tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with stale("unix", path) as holder:
        with pytest.raises(allgone.PortTaken) as raised, server(
            backend, "unix", path, ready=allgone.listening(path)
        ):  # fmt: skip
            pytest.fail("it was ready")
        assert {each.pid for each in raised.value.holders} <= holder.members()
    assert path.exists()  # with nobody behind it
    path_again = allgone.listening(str(path))
    with server(backend, "unix", f"@{path}", ready=lambda: True) as process:
        assert path_again(process, None) is False


NOT_IN_THE_WAY = [
    (("tcp", "127.0.0.2"), "127.0.0.1"),
    (("tcp", "::1"), "127.0.0.1"),
    (("--only-v6", "tcp", "::"), "127.0.0.1"),
    (("udp", "127.0.0.1"), "127.0.0.1"),
]


@pytest.mark.parametrize(("place", "host"), NOT_IN_THE_WAY)
def test_others_at_other_addresses_are_not_in_the_way(
    backend: BackendUnderTest, place: tuple[str, ...], host: str, port: int
) -> None:
    with (
        stale(*place, port),
        server(backend, "tcp", host, port, ready=allgone.listening(port, host)) as process,
    ):
        assert process.listening(port) == (allgone.ListeningSocket("tcp", host, port),)


def test_who_takes_the_port_just_after_the_look_is_not_mistaken_either(
    backend: BackendUnderTest, monkeypatch: pytest.MonkeyPatch, port: int
) -> None:
    with socket.socket() as thief:

        def looked(*_: object) -> None:  # in the place of the look, for the race can't be had at will
            thief.bind(("127.0.0.1", port))
            thief.listen()

        monkeypatch.setattr(whose, "check_free", looked)
        with (
            pytest.raises(allgone.PortTaken, match=f"pid {os.getpid()}"),
            allgone.process_fixture(["sleep", "1000"], ready=allgone.listening(port), **backend.options) as process,
        ):
            pytest.fail(f"{process} was ready")


def test_a_socket_that_the_process_was_given_is_its_own(backend: BackendUnderTest) -> None:
    with socket.create_server(("127.0.0.1", 0)) as given:
        port = given.getsockname()[1]
        for how in ({"pass_fds": [given.fileno()]}, {"stdin": given.fileno()}):
            ready = allgone.listening(port)
            with allgone.process_fixture(["sleep", "1000"], ready=ready, **how, **backend.options) as process:
                assert process.listening(port) == process.listening() != ()
            assert [port.released for port in process.report.ports] == [False]  # we have it still


def test_a_daemon_listens_for_the_process_that_it_came_from(backend: BackendUnderTest, port: int) -> None:
    with ExitStack() as after:
        if not backend.ends_daemons:
            after.enter_context(pytest.warns(allgone.EscapedProcessWarning))
        with server(backend, "--daemon", "tcp", "127.0.0.1", port, ready=allgone.listening(port)) as process:
            for pid in process.escapees():
                held = Held(pid)
                after.callback(held.close)
                after.callback(held.end)
            assert process.listening(port)


def test_members_of_a_group_are_told_apart(backend: BackendUnderTest, port: int, free_port: Callable[[], int]) -> None:
    ports = sorted((port, free_port()))
    with backend.group() as group:
        processes = [
            group.Popen(command("listens", "tcp", "127.0.0.1", str(port)), stdout=subprocess.PIPE) for port in ports
        ]
        for process in processes:
            process.stdout.readline()
        for process, port in zip(processes, ports, strict=True):
            assert [each.port for each in process.listening()] == [port]
            assert process.listening(port)
        assert [each.port for each in group.listening(proto="tcp")] == ports


def test_among_500_others(backend: BackendUnderTest, port: int) -> None:
    others = [socket.create_server(("127.0.0.1", 0)) for _ in range(500)]
    try:
        with server(backend, "tcp", "127.0.0.1", port, ready=allgone.listening(port)) as process:
            assert [each.port for each in process.listening()] == [port]
            with pytest.raises(allgone.PortTaken):
                whose.check_free(whose.wanted(others[7].getsockname()[1], None, None), ())
    finally:
        for each in others:
            each.close()


def test_a_running_event_loop_is_no_hindrance(backend: BackendUnderTest, port: int) -> None:
    async def use() -> None:
        with server(backend, "tcp", "127.0.0.1", port, ready=allgone.listening(port)) as process:
            assert process.listening(port)

    asyncio.run(use())


def test_nothing_is_said_of_ports_where_nobody_asked(backend: BackendUnderTest) -> None:
    with backend.Popen(command("listens", "tcp", "127.0.0.1", "0"), stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        report = process.stop()
    assert report.ports is None


def test_the_report_tells_of_ports_in_words(backend: BackendUnderTest, port: int) -> None:
    with server(backend, "tcp", "127.0.0.1", port, ready=allgone.listening(port)) as process:
        pass
    assert f"  listened on: tcp 127.0.0.1 port {port}\n" in str(process.report)


def test_a_look_opens_nothing_that_stays_open(backend: BackendUnderTest, port: int) -> None:
    with server(backend, "tcp", "127.0.0.1", port, ready=allgone.listening(port)) as process:
        before = os.listdir("/proc/self/fd")
        for _ in range(20):
            assert process.listening(port)
            assert process.listening()
        assert len(os.listdir("/proc/self/fd")) == len(before)


def test_after_the_end_nothing_listens(backend: BackendUnderTest) -> None:
    with backend.Popen(["true"]) as process:
        pass
    assert process.listening() == ()


BAD = [
    ((0,), ValueError),
    ((65536,), ValueError),
    ((True,), TypeError),
    ((3.5,), TypeError),
    ((80, None, "sctp"), ValueError),
    ((80, None, "unix"), ValueError),
    (("/run/x", "localhost"), ValueError),
    (("/run/x", None, "udp"), ValueError),
    ((80, "no-such-host.invalid"), socket.gaierror),
]


@pytest.mark.parametrize(("arguments", "error"), BAD)
def test_what_makes_no_sense_is_refused_at_once(arguments: tuple[Any, ...], error: type[Exception]) -> None:
    with pytest.raises(error):
        allgone.listening(*arguments)


def test_a_host_needs_a_port(backend: BackendUnderTest) -> None:
    with backend.Popen(["true"]) as process, pytest.raises(ValueError, match="needs a port"):
        process.listening(host="localhost")


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_stop_does_not_fail_because_nobody_can_be_asked(
    backend: BackendUnderTest, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    def refuses(*_: object, **__: object) -> None:  # where really there are no fds left, or no CONFIG_INET_DIAG
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with backend.Popen(["sleep", "1000"]) as process:
        assert process.listening() == ()
        monkeypatch.setattr(whose, "_look_in", refuses) if when == "before" else None
        monkeypatch.setattr(whose.Held, "now", refuses) if when == "after" else None
        report = process.stop()
    assert process.returncode == -15
    assert report.ports is None
