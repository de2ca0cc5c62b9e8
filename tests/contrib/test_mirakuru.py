"""mirakuru's executors, contained: the daemon goes too, and mirakuru's own promises hold."""

from __future__ import annotations

import signal
import socket
import sys

import mirakuru
import pytest
from support import procfs
from support.backends import BackendUnderTest
from support.programs import UNTIL_SLEEP

import allgone
from allgone.contrib.mirakuru import Contained, SimpleExecutor, TCPExecutor

WITH_DAEMON = f"sh -c 'setsid env -i sleep 1000 & {UNTIL_SLEEP}; echo ready $!; exec sleep 1000'"


def options(backend: BackendUnderTest) -> dict[str, object]:
    return {"backend": backend.name, "sweep": backend.name == "process-group"}


def daemon_of(executor: mirakuru.SimpleExecutor) -> int:
    output = executor.output()
    assert output is not None
    return int(output.readline().split()[1])


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_a_daemon_that_cleared_its_environment_is_gone(backend: BackendUnderTest, end: str) -> None:
    executor = SimpleExecutor(WITH_DAEMON, popen_kwargs=options(backend)).start()
    daemon = daemon_of(executor)
    getattr(executor, end)()
    assert not procfs.is_alive(daemon)
    assert not executor.running()
    assert executor.report is not None
    assert executor.report.backend == backend.name


def test_stopped_stops_all_and_starts_again(backend: BackendUnderTest) -> None:
    with SimpleExecutor(WITH_DAEMON, popen_kwargs=options(backend)) as executor:
        daemon = daemon_of(executor)
        with executor.stopped():
            assert not procfs.is_alive(daemon)
        assert procfs.is_alive(daemon_of(executor))


def test_a_port_that_is_taken_is_seen_before_anything_is_started(backend: BackendUnderTest) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        host, port = taken.getsockname()
        executor = TCPExecutor("sleep 1000", host, port, popen_kwargs=options(backend))
        with pytest.raises(mirakuru.AlreadyRunning):
            executor.start()
        assert executor.process is None


def test_one_that_fails_before_it_is_ready_leaves_nothing(backend: BackendUnderTest) -> None:
    command = f"sh -c 'setsid sleep 1000 & {UNTIL_SLEEP}; exit 3'"
    executor = TCPExecutor(command, "127.0.0.1", 1, timeout=30, popen_kwargs=options(backend))
    with pytest.raises(mirakuru.ProcessExitedWithError):
        executor.start()


def test_the_policy_is_ours_to_say(backend: BackendUnderTest) -> None:
    policy = allgone.StopPolicy(timeout_stop=0.1)
    command = (
        f'{sys.executable} -c "import signal; signal.signal(15, signal.SIG_IGN); print(1, flush=True); signal.pause()"'
    )
    executor = SimpleExecutor(
        ["sh", "-c", f"setsid {command} & read line"], popen_kwargs={**options(backend), "policy": policy}
    ).start()
    output = executor.output()
    assert output is not None
    output.readline()
    executor.stop()
    assert executor.report is not None
    assert executor.report.killed


def test_the_mix_in_comes_last() -> None:
    class Own(mirakuru.TCPExecutor, Contained):
        pass

    assert Own.__mro__.index(Contained) > Own.__mro__.index(mirakuru.Executor)
    with pytest.raises(TypeError, match=r"Contained comes last: class Wrong\(TCPExecutor, Contained\)"):

        class Wrong(Contained, mirakuru.TCPExecutor):
            pass


def test_kill_by_another_signal(backend: BackendUnderTest) -> None:
    executor = SimpleExecutor("sleep 1000", popen_kwargs=options(backend)).start()
    process = executor.process
    assert process is not None
    executor.kill(sig=signal.SIGQUIT)
    assert process.returncode == -signal.SIGQUIT
