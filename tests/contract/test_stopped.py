"""`stopped()`: a fixture's process is stopped for a while, and the same object is the new one afterwards."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest
from support.backends import BackendUnderTest

import allgone

UP = ["sh", "-c", "echo up $$; exec sleep 120"]


def fixture(backend: BackendUnderTest, args: Any = UP, **options: Any) -> Any:
    options.setdefault("ready", allgone.log_line("up"))
    return allgone.process_fixture(args, **backend.options, **options)


@pytest.mark.parametrize("kept", ["memory", "file"])
def test_it_is_stopped_meanwhile_and_started_again(backend: BackendUnderTest, kept: str, tmp_path: Path) -> None:
    output = tmp_path / "output" if kept == "file" else None
    with fixture(backend, output=output, name="again") as process:
        first = process.pid
        with process.stopped() as report:
            assert report is process.report
            assert (report.returncode, process.returncode) == (-15, -15)
            assert process.members() == frozenset()
        assert process.pid != first
        assert process.members() == {process.pid}
        assert (process.returncode, process.report, process.name) == (None, None, "again")
        assert process.output() == f"up {first}\nup {process.pid}\n"
    assert process.returncode == -15
    assert process.members() == frozenset()


def test_it_is_ready_by_a_line_of_its_own_not_of_the_one_before(backend: BackendUnderTest, tmp_path: Path) -> None:
    script = f"if [ -e {tmp_path / 'was'} ]; then sleep 0.3; fi; >{tmp_path / 'was'}; echo up; exec sleep 120"
    with fixture(backend, ["sh", "-c", script]) as process:
        with process.stopped():
            pass
        assert process.output() == "up\nup\n"


def test_as_often_as_one_likes(backend: BackendUnderTest) -> None:
    with fixture(backend) as process:
        pids = {process.pid}
        for _ in range(3):
            with process.stopped():
                pass
            pids.add(process.pid)
        assert process.output().count("up") == 4
    assert len(pids) == 4


def test_a_policy_for_this_stop(backend: BackendUnderTest) -> None:
    with fixture(backend) as process, process.stopped(allgone.StopPolicy(timeout_stop=0)):
        assert process.returncode == -9


def test_a_port_is_free_meanwhile(backend: BackendUnderTest) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        serves = "import socket; s = socket.socket(fileno=3); s.accept(); __import__('time').sleep(120)"
        args = ["python3", "-S", "-c", serves]
        with fixture(backend, args, sockets=[listener], ready=allgone.tcp(listener.getsockname()[1])) as process:
            with process.stopped():
                pass
            assert process.poll() is None


def test_notifications_of_the_new_one_count(backend: BackendUnderTest) -> None:
    script = (
        "import os, socket, time; s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM);"
        "a = os.environ['NOTIFY_SOCKET']; s.connect('\\0' + a[1:] if a[0] == '@' else a);"
        "s.send(b'STATUS=%d\\nREADY=1' % os.getpid()); time.sleep(120)"
    )
    with fixture(backend, ["python3", "-S", "-c", script], ready=allgone.notify()) as process:
        first = process.notified.status
        with process.stopped():
            pass
        assert process.notified.status == str(process.pid) != first


def test_an_error_in_the_block_is_raised_and_it_is_started_again(backend: BackendUnderTest) -> None:
    with fixture(backend) as process:
        with pytest.raises(ZeroDivisionError), process.stopped():
            _ = 1 / 0
        assert process.poll() is None
        with pytest.raises(KeyboardInterrupt), process.stopped():
            raise KeyboardInterrupt
        assert process.returncode == -15


def test_one_that_does_not_come_up_again_is_stopped(backend: BackendUnderTest, tmp_path: Path) -> None:
    once = f"[ -e {tmp_path / 'was'} ] && exit 3; >{tmp_path / 'was'}; echo up; exec sleep 120"
    with fixture(backend, ["sh", "-c", once]) as process:
        with pytest.raises(allgone.ExitedBeforeReady, match="return code 3"), process.stopped():
            pass
        assert process.returncode == 3
        assert process.members() == frozenset()


def test_one_that_is_not_ready_again_is_stopped(backend: BackendUnderTest, tmp_path: Path) -> None:
    once = f"[ -e {tmp_path / 'was'} ] || {{ >{tmp_path / 'was'}; echo up; }}; exec sleep 120"
    with fixture(backend, ["sh", "-c", once], ready_timeout=1) as process:
        with pytest.raises(allgone.NotReady, match="within 1 s"), process.stopped():
            pass
        assert process.returncode == -15
        assert process.members() == frozenset()


def test_one_that_can_not_be_started_again_is_what_it_was(backend: BackendUnderTest, tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\necho up; exec sleep 120\n")
    program.chmod(0o755)
    with fixture(backend, [str(program)]) as process:
        with pytest.raises(FileNotFoundError), process.stopped():
            program.unlink()
        assert process.returncode == -15
        assert process.report.returncode == -15


def test_one_that_has_ended_by_itself_is_started_again(backend: BackendUnderTest) -> None:
    with fixture(backend, ["sh", "-c", "echo up; exit 4"]) as process:
        process.wait()
        with process.stopped() as report:
            assert report.returncode == 4
        assert process.output() == "up\nup\n"


def test_inside_another_such_block_it_is_started_once(backend: BackendUnderTest) -> None:
    with fixture(backend) as process:
        with process.stopped():
            with process.stopped():
                assert process.members() == frozenset()
            inner = process.pid
        assert process.pid == inner
        assert process.poll() is None


def test_after_its_own_block_it_can_not_be_started(backend: BackendUnderTest) -> None:
    with fixture(backend) as process:
        pass
    with pytest.raises(ValueError, match="block has been left"), process.stopped():
        pytest.fail("the body ran")
