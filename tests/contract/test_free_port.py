"""`free_port`: nobody else is given it, and any server can have it."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import socket
import socketserver
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest
from support.tiers import missing

import allgone
from allgone._linux import ports
from allgone._process import ports as reserved

MANY = """
import sys, threading, allgone
found = []
def take():
    for _ in range(25):
        found.append(allgone.free_port())
threads = [threading.Thread(target=take) for _ in range(4)]
for each in threads: each.start()
for each in threads: each.join()
print(*found, flush=True)
sys.stdin.read()
"""


def test_it_is_an_int_that_the_kernel_hands_out_to_nobody() -> None:
    with allgone.reserved_port() as port:
        assert type(port) is int  # getaddrinfo() takes no subclass
        assert port not in ports.handed_out()


def test_processes_and_threads_at_once_get_different_ones() -> None:
    running = [
        subprocess.Popen([sys.executable, "-c", MANY], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    told = [each.stdout.readline().split() for each in running]
    for each in running:
        each.communicate()
    assert [len(some) for some in told] == [100] * 4
    assert len({port for some in told for port in some}) == 400


def _begin_at(monkeypatch: pytest.MonkeyPatch, port: int) -> None:
    """The next one asked for is that, if it is free."""
    monkeypatch.setattr(reserved, "_candidates", lambda: iter(range(port, 65536)))


def test_it_is_reserved_for_the_block(monkeypatch: pytest.MonkeyPatch) -> None:
    with allgone.reserved_port() as port:
        _begin_at(monkeypatch, port)
        with allgone.reserved_port() as other:
            assert other != port
    with allgone.reserved_port() as again:
        assert again == port


def test_it_is_kept_by_a_process_and_goes_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    script = "import allgone, sys; print(allgone.free_port(), flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        port = int(holder.stdout.readline())
        _begin_at(monkeypatch, port)
        with allgone.reserved_port() as other:
            assert other != port
        holder.kill()
        holder.wait()
        with allgone.reserved_port() as again:
            assert again == port


def test_a_fork_that_lets_go_of_it_does_not_free_it(monkeypatch: pytest.MonkeyPatch) -> None:
    with allgone.reserved_port() as port:
        child = os.fork()
        if child == 0:
            reserved._locks.pop(port).close()
            os._exit(0)
        os.waitpid(child, 0)
        assert ports.locked(port) is None


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_one_that_somebody_has_bound_is_not_given(family: int, monkeypatch: pytest.MonkeyPatch) -> None:
    if family == socket.AF_INET6 and not _has_ipv6():
        missing("there is no IPv6")
    with allgone.reserved_port() as port:
        pass
    with socket.socket(family, socket.SOCK_STREAM) as bound:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(("::1" if family == socket.AF_INET6 else "127.0.0.1", port))
        assert not ports.is_free(port)
        _begin_at(monkeypatch, port)
        with allgone.reserved_port() as other:
            assert other != port


def _has_ipv6() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


def test_one_where_a_connection_lingers_is_not_given() -> None:
    """A server without SO_REUSEADDR could not bind it."""
    with allgone.reserved_port() as port:
        with socket.create_server(("127.0.0.1", port)) as server:
            client = socket.create_connection(("127.0.0.1", port))
            accepted, _ = server.accept()
            accepted.close()  # first, so that the server's end is in TIME-WAIT
            client.close()
        assert not ports.is_free(port)


def test_where_the_kernel_hands_out_all_it_is_one_of_those(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ports, "handed_out", lambda: range(1024, 65536))
    with allgone.reserved_port() as port:
        assert ports.locked(port) is None


def test_where_none_is_left_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ports, "is_free", lambda port: False)
    monkeypatch.setattr(reserved, "_FIRST", 65_000)
    with pytest.raises(OSError, match="every port") as raised:
        allgone.free_port()  # and keeps no lock: see the check for fds
    assert raised.value.errno == errno.EADDRINUSE


def test_without_fds_it_says_so() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, before[1]))
    try:
        with pytest.raises(OSError, match="Too many open files"):
            allgone.free_port()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


# Servers, several at once, each of which a thread starts that was given a port


def _servers_of(program: str, folder: Path, port: int) -> list[str]:
    if program == "python":  # does not set SO_REUSEADDR
        handler = "type('H', (socketserver.StreamRequestHandler,), {'handle': lambda self: None})"
        serve = f"socketserver.TCPServer(('127.0.0.1', {port}), {handler}).serve_forever()"
        assert not socketserver.TCPServer.allow_reuse_address
        return [sys.executable, "-S", "-c", f"import socketserver; {serve}"]
    if program == "http.server":  # does
        return [sys.executable, "-S", "-m", "http.server", "--bind", "127.0.0.1", str(port)]
    if program == "redis-server":
        return [program, "--port", str(port), "--save", "", "--dir", str(folder)]
    config = folder / "nginx.conf"
    config.write_text(
        f"daemon off; pid {folder}/pid; error_log {folder}/log; events {{}}\n"
        f"http {{ access_log off; client_body_temp_path {folder}; proxy_temp_path {folder};"
        f" fastcgi_temp_path {folder}; uwsgi_temp_path {folder}; scgi_temp_path {folder};"
        f" server {{ listen {port}; }} }}\n"
    )
    return [program, "-c", str(config), "-p", str(folder)]


@pytest.mark.parametrize("program", ["python", "http.server", "redis-server", "nginx"])
def test_servers_can_have_it(program: str, tmp_path: Path) -> None:
    if program in ("redis-server", "nginx") and shutil.which(program) is None:
        missing(f"{program} is not installed")
    with ExitStack() as stack:
        ports = [stack.enter_context(allgone.reserved_port()) for _ in range(4)]
        with allgone.start_all(*(_a_server(program, tmp_path / str(port), port) for port in ports)) as servers:
            assert [server.listening()[0].port for server in servers] == ports


def _a_server(program: str, folder: Path, port: int) -> allgone._process.fixture.ProcessFixture:
    folder.mkdir()
    return allgone.process_fixture(
        _servers_of(program, folder, port), ready=allgone.listening(port), output=allgone.capture()
    )
