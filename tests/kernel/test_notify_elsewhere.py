"""notify() and sockets= for a process that is another user's, or has a network or a root directory of its own."""

from __future__ import annotations

import os
import socket
import sys
from typing import Any

import pytest
from support.backends import BackendUnderTest
from support.programs import PATIENCE
from support.users import spare_uid

import allgone

# Without this repository, which others may not be able to read.
TELLS = """
import os, socket, sys
def tell(text):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as s:
        s.sendto(text.encode(), os.environ["NOTIFY_SOCKET"].replace("@", "\\0", 1))
"""
READY = "tell('READY=1\\nSTATUS=%d' % os.getuid()); sys.stdin.read()"
SERVES = """
server = socket.socket(fileno=3)
tell("READY=1")
while True:
    server.accept()[0].close()
"""
PYTHON = ["/usr/bin/python3" if os.path.exists("/usr/bin/python3") else sys.executable, "-S", "-c"]


def fixture(backend: BackendUnderTest, text: str, **options: Any) -> Any:
    options = {"ready": allgone.notify(), "ready_timeout": PATIENCE, **options}
    return allgone.process_fixture([*PYTHON, TELLS + text], stdin=allgone.PIPE, **backend.options, **options)


def test_another_user_is_heard(backend: BackendUnderTest) -> None:
    uid = spare_uid()
    with fixture(backend, READY, user=uid, group=uid, extra_groups=[]) as process:
        assert process.notified.status == str(uid)


def test_a_process_in_another_root_directory_is_heard(backend: BackendUnderTest, tmp_path: Any) -> None:
    with fixture(backend, f"os.chroot({str(tmp_path)!r}); os.chdir('/'); {READY}") as process:
        assert process.notified.ready


def test_a_process_in_another_pid_namespace_is_heard(backend: BackendUnderTest) -> None:
    text = "import ctypes; ctypes.CDLL(None).unshare(0x20000000); os.fork() and os.wait(); " + READY
    with fixture(backend, text) as process:
        assert process.notified.ready


@pytest.mark.parametrize("network", ["private", "veth"])
def test_a_process_in_a_network_of_its_own_is_heard(backend: BackendUnderTest, network: Any) -> None:
    with fixture(backend, "tell('STATUS=x'); " + READY, network=network) as process:
        assert process.netns is not None
        assert process.notified.ready


def test_what_leaves_its_network_is_not(backend: BackendUnderTest) -> None:
    """The limit of an abstract socket; docs/reference.md says so."""
    text = (
        "import ctypes; tell('STATUS=still here'); ctypes.CDLL(None).unshare(0x40000000)\n"
        "try: tell('READY=1')\nexcept ConnectionRefusedError: sys.exit(7)"
    )
    with pytest.raises(allgone.ExitedBeforeReady, match="still here") as raised, fixture(backend, text):
        pytest.fail("the body ran")
    assert raised.value.returncode == 7


@pytest.mark.parametrize("ready", ["notify", "listening"])
def test_a_socket_of_our_network_serves_from_another(backend: BackendUnderTest, ready: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        probe = allgone.notify() if ready == "notify" else allgone.listening(port)
        text = SERVES if ready == "notify" else SERVES.replace('tell("READY=1")', "")
        with (
            fixture(backend, text, network="private", sockets=[server], ready=probe),
            socket.create_connection(("127.0.0.1", port), PATIENCE) as client,
        ):
            assert client.recv(1) == b""
