"""Listening in a network namespace of one's own making, and sockets that were handed on to others."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from support.backends import BACKENDS, BackendUnderTest
from support.delegation import as_nobody
from support.programs import command
from support.tiers import missing

import allgone

PORT = 18473


@pytest.fixture(params=BACKENDS, ids=lambda each: each.label)
def any_backend(request: pytest.FixtureRequest, cgroup_base: str) -> BackendUnderTest:
    return request.param


@pytest.fixture
def unshare() -> str:
    return shutil.which("unshare") or missing("unshare (util-linux) is not installed")


def test_it_may_listen_in_a_namespace_that_it_made_itself(any_backend: BackendUnderTest, unshare: str) -> None:
    words = [unshare, "--net", *command("listens", "tcp", "127.0.0.1", str(PORT))]
    with (
        allgone.process_fixture(words, ready=allgone.listening(PORT), **any_backend.options) as process,
        socket.create_server(("127.0.0.1", PORT)),  # the same port, here
    ):
        assert process.listening() == (allgone.ListeningSocket("tcp", "127.0.0.1", PORT),)
    assert process.report.ports == (allgone.Port("tcp", "127.0.0.1", PORT, released=True),)


def test_nobody_here_is_in_the_way_of_what_lives_in_another_namespace(
    any_backend: BackendUnderTest, unshare: str
) -> None:
    words = [unshare, "--net", *command("listens", "tcp", "127.0.0.1", str(PORT))]
    with any_backend.Popen(words, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        with socket.create_server(("127.0.0.1", PORT)):
            assert process.listening(PORT)
            assert len(process.listening()) == 1
        process.stop()


_UNPRIVILEGED = """
import allgone
with allgone.process_fixture({words}, ready=allgone.listening({port}), backend="process-group") as process:
    print(process.listening())
"""
_LISTENS = "import signal, socket; s = socket.create_server(('', {port})); signal.alarm(120); signal.pause()"


def by_nobody(cgroup: str, *words: str) -> str:
    """What a supervisor that is an ordinary user's prints."""
    path = os.pathsep.join([str(Path(allgone.__file__).parent.parent), sysconfig.get_path("platlib")])
    return as_nobody(_UNPRIVILEGED.format(words=words, port=PORT), cgroup, PYTHONPATH=path)


def test_an_ordinary_user_whose_child_made_itself_a_user_namespace(cgroup_base: str, unshare: str) -> None:
    """We may not enter that one."""
    words = [unshare, "--user", "--map-root-user", "--net"]
    if subprocess.run([*words, "true"], capture_output=True, user="nobody", check=False).returncode:
        missing("no user namespaces for ordinary users here")
    printed = by_nobody(cgroup_base, *words, "/usr/bin/python3", "-c", _LISTENS.format(port=PORT))
    assert printed == f"(ListeningSocket(proto='tcp', address='0.0.0.0', port={PORT}),)\n"


def test_an_ordinary_user_is_told_of_a_holder_whom_he_may_not_see(cgroup_base: str) -> None:
    with socket.create_server(("127.0.0.1", PORT)), pytest.raises(AssertionError) as failed:
        by_nobody(cgroup_base, "true")
    assert f"PortTaken: tcp 127.0.0.1:{PORT} is taken by a process of user 0 that this user may not see" in str(failed)


def test_a_port_that_somebody_outside_was_given_is_not_released(any_backend: BackendUnderTest, tmp_path: Path) -> None:
    ours, its = socket.socketpair()
    code = "import socket, sys; s = socket.create_server(('127.0.0.1', 0)); " \
        "socket.send_fds(socket.socket(fileno=int(sys.argv[1])), [b'!'], [s.fileno()]); sys.stdin.read()"  # fmt: skip
    with (
        ours,
        any_backend.Popen(
            [sys.executable, "-c", code, str(its.fileno())], stdin=subprocess.PIPE, pass_fds=[its.fileno()]
        ) as process,
    ):
        its.close()
        _, fds, _, _ = socket.recv_fds(ours, 1, 1)
        with socket.socket(fileno=fds[0]) as given:
            port = given.getsockname()[1]
            assert process.listening(port)
            report = process.stop()
    assert report.ports == (allgone.Port("tcp", "127.0.0.1", port, released=False),)
    assert f"tcp 127.0.0.1 port {port} (still held)" in str(report)


def test_pyroute2_is_imported_by_nobody_who_does_not_ask() -> None:
    code = (
        "import sys, allgone\n"
        "with allgone.process_fixture(['sleep', '1000'], ready=lambda: True): pass\n"
        "assert not any('pyroute2' in name or name == 'ipaddress' for name in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONWARNINGS": "error"})


def test_in_a_network_of_its_own_every_port_is_free(any_backend: BackendUnderTest) -> None:
    words, ready = command("listens", "tcp", "127.0.0.1", str(PORT)), allgone.listening(PORT)
    with (
        socket.create_server(("127.0.0.1", PORT)),
        allgone.process_fixture(words, ready=ready, network="private", **any_backend.options) as one,
        allgone.process_fixture(words, ready=ready, network="private", **any_backend.options) as two,
    ):
        assert one.listening() == two.listening() == (allgone.ListeningSocket("tcp", "127.0.0.1", PORT),)
        one.connect(PORT).close()
    assert [port.released for port in one.report.ports] == [True]
