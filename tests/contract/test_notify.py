"""`ready=notify()`: what a process tells by sd_notify(3), whose word counts, and the watchdog."""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from support.backends import BACKENDS, BackendUnderTest
from support.programs import PATIENCE, PROGRAMS, Held
from support.tiers import missing

import allgone
from allgone._core.stop import Wait
from allgone._linux import pidfd
from allgone._linux.notify import NotifySocket
from allgone._process import driver
from allgone._process.fixture import FixtureProcess
from allgone._process.notify import Notifications

TELLS = (
    f"import os, signal, sys, time; sys.path.insert(0, {str(PROGRAMS)!r}); from unruly import *; from tells import *\n"
)
KERNEL = tuple(map(int, os.uname().release.split("-")[0].split(".")[:2]))
SLEEPS_ON = "\nsleep_on()"


def script(text: str, *words: object) -> list[str]:
    return [sys.executable, "-S", "-B", "-c", TELLS + text, *map(str, words)]


def fixture(backend: BackendUnderTest, text: str, *words: object, ready: Any = None, **options: Any) -> Any:
    return allgone.process_fixture(
        script(text, *words), ready=ready or allgone.notify(), ready_timeout=options.pop("ready_timeout", PATIENCE),
        **backend.options, **options,
    )  # fmt: skip


@pytest.fixture
def line(tmp_path: Path) -> Any:
    """A FIFO, its path as a str, and how to wait for what is written to it."""
    path = tmp_path / "line"
    os.mkfifo(path)
    return path


SAYS_TO_LINE = "\nwith open(sys.argv[1], 'w') as f: f.write({})\n"


def sockets_left() -> list[str]:
    with open("/proc/net/unix", encoding="utf-8", errors="replace") as f:
        return [entry for entry in f if f"@allgone/notify/{os.getpid()}-" in entry]


def test_ready_when_it_says_so(backend: BackendUnderTest) -> None:
    text = "tell('STATUS=loading'); tell('READY=1\\nSTATUS=serving')" + SLEEPS_ON
    with fixture(backend, text) as process:
        assert process.notified == allgone.Notified(ready=True, status="serving")
        assert sockets_left()
    assert process.returncode == -15
    assert process.notified.status == "serving"
    assert sockets_left() == []


def test_one_probe_serves_many_starts(backend: BackendUnderTest) -> None:
    probe = allgone.notify()
    for _ in range(2):
        with fixture(backend, "tell('READY=1')" + SLEEPS_ON, ready=probe) as process:
            assert process.notified.ready


def test_without_it_nothing_is_notified_and_the_environment_stays(
    backend: BackendUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", "/of/the/supervisor")
    with allgone.process_fixture(
        ["sh", "-c", "echo $NOTIFY_SOCKET; exec sleep 100"], ready=allgone.log_line("^/of/the/supervisor$"),
        **backend.options,
    ) as process:  # fmt: skip
        assert process.notified is None


def test_the_supervisors_own_manager_hears_nothing(
    backend: BackendUnderTest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as managers:
        managers.bind(str(tmp_path / "managers"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "managers"))
        monkeypatch.setenv("WATCHDOG_USEC", "1000000")
        monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
        text = "tell('READY=1\\nSTATUS=%s' % [v for v in os.environ if v.startswith('WATCHDOG')])" + SLEEPS_ON
        with fixture(backend, text) as process:
            assert process.notified.status == "[]"
        with pytest.raises(BlockingIOError):
            managers.recv(100, socket.MSG_DONTWAIT)


@pytest.mark.parametrize("env", [None, {b"NOTIFY_SOCKET": b"/elsewhere"}, {"NOTIFY_SOCKET": "/elsewhere", "A": "b"}])
def test_ours_takes_the_place_of_one_given(backend: BackendUnderTest, env: Any) -> None:
    text = "tell('READY=1\\nSTATUS=%s' % os.environ.get('A'))" + SLEEPS_ON
    with fixture(backend, text, env=env) as process:
        assert process.notified.status == str((env or {}).get("A"))


def test_it_is_waited_for_and_not_asked_again_and_again(
    backend: BackendUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses = []

    def wait_for(wait: Wait) -> None:
        pauses.append(wait.deadline - time.monotonic())
        driver_wait_for(wait)

    driver_wait_for = driver.wait_for
    monkeypatch.setattr(driver, "wait_for", wait_for)
    with fixture(backend, "time.sleep(0.3); tell('READY=1')" + SLEEPS_ON, ready_timeout=1000):
        assert pauses
        assert min(pauses) > 500


# Whose word counts


@pytest.mark.parametrize("who", ["child", "daemon"])
def test_what_it_started_may_say_it(backend: BackendUnderTest, who: str) -> None:
    daemon = "os.setsid()\nif fork(): os._exit(0)\n" if who == "daemon" else ""
    text = f"if fork(): sleep_on()\n{daemon}tell('READY=1\\nSTATUS=%d' % os.getpid())" + SLEEPS_ON
    with outliving(backend, who == "daemon"), fixture(backend, text) as process:
        sender = Held(int(process.notified.status))
        assert sender.pid != process.pid
    try:
        assert sender.is_alive() is (who == "daemon" and not backend.ends_daemons)
    finally:
        sender.end()
        sender.close()


@contextmanager
def outliving(backend: BackendUnderTest, daemon: bool) -> Iterator[None]:
    if daemon and not backend.ends_daemons:
        with pytest.warns(allgone.EscapedProcessWarning):
            yield
    else:
        yield


def test_a_daemon_may_say_it_when_its_leader_has_ended(backend: BackendUnderTest) -> None:
    text = "if fork(): os._exit(0)\ntime.sleep(0.2); tell('READY=1')" + SLEEPS_ON
    with fixture(backend, text) as process:
        assert process.returncode == 0
        assert process.members()


def test_a_leader_that_has_ended_after_its_word_was_ready(backend: BackendUnderTest) -> None:
    with fixture(backend, "tell('READY=1')") as process:
        assert process.wait(PATIENCE) == 0
    assert process.notified.ready


def test_the_word_of_a_stranger_does_not_count(
    backend: BackendUnderTest, line: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "allgone")

    def stranger() -> None:
        address = line.read_text()
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.sendto(b"READY=1\nSTATUS=lies", address.replace("@", "\0", 1))

    thread = threading.Thread(target=stranger)
    thread.start()
    text = SAYS_TO_LINE.format("os.environ['NOTIFY_SOCKET']") + "tell('STATUS=truth')" + SLEEPS_ON
    try:
        with (
            pytest.raises(allgone.NotReady, match=rf"'truth'; ignored, .*: what came from process {os.getpid()}\)"),
            fixture(backend, text, line, ready_timeout=2),
        ):
            pytest.fail("the body ran")
    finally:
        thread.join()
    assert f"ignored a message of process {os.getpid()}, which is not of it" in caplog.text


def started(backend: BackendUnderTest, text: str) -> tuple[FixtureProcess, Notifications]:
    """A process that is heard when the test says so."""
    heard = Notifications(None)
    process = FixtureProcess(script(text), _notifications=heard, stdout=subprocess.PIPE, **backend.options)
    return process, heard


def test_a_sender_that_is_gone_by_then_is_known_by_its_cgroup(backend: BackendUnderTest) -> None:
    process, heard = started(
        backend, "pid = fork()\nif not pid: tell('READY=1'); os._exit(0)\nos.waitpid(pid, 0); say(pid)" + SLEEPS_ON
    )
    try:
        with process:
            sender = int(process.stdout.readline())
            heard.hear()
            found = (heard.notified.ready, heard.ignored)
            assert found in ((True, []), (False, [sender]))
            if backend.name == "cgroup" and KERNEL >= (6, 18):
                assert found == (True, [])
            if backend.name != "cgroup" or KERNEL < (6, 13):
                assert found == (False, [sender])
            process.stop()
    finally:
        heard.close()


def test_a_zombies_word_counts(backend: BackendUnderTest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the kernel tells nothing but the pid."""
    monkeypatch.setattr(pidfd, "cgroup_id", lambda fd: None)
    process, heard = started(
        backend,
        "pid = fork()\nif not pid: tell('READY=1'); os._exit(0)\nos.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)\n"
        "say('zombie')" + SLEEPS_ON,
    )
    try:
        with process:
            assert process.stdout.readline() == b"zombie\n"
            heard.hear()
            assert (heard.notified.ready, heard.ignored) == (True, [])
            process.stop()
    finally:
        heard.close()


# What is told when it is not ready


def test_what_it_told_is_in_the_error(backend: BackendUnderTest) -> None:
    text = "tell('STATUS=waiting for the database\\nERRNO=111')" + SLEEPS_ON
    expected = r"notify\(\) was not true within 2 s \(status 'waiting for the database', errno 111 \(Connection refused"
    with pytest.raises(allgone.NotReady, match=expected), fixture(backend, text, ready_timeout=2):
        pytest.fail("the body ran")


def test_what_ends_before_it_is_ready_has_its_last_words(backend: BackendUnderTest) -> None:
    text = "tell('STATUS=no config'); tell('STOPPING=1\\nEXIT_STATUS=3'); sys.exit(3)"
    expected = r"return code 3 before notify\(\) was true \(status 'no config', exit status 3, it is stopping\)"
    with pytest.raises(allgone.ExitedBeforeReady, match=expected), fixture(backend, text):
        pytest.fail("the body ran")


def test_the_time_out_is_extended() -> None:
    text = "tell('EXTEND_TIMEOUT_USEC=60000000'); time.sleep(2.2); tell('READY=1')" + SLEEPS_ON
    with fixture(BACKENDS[1], text, ready_timeout=2) as process:
        assert process.notified.ready


def test_an_extension_that_is_not_repeated_ends_as_well() -> None:
    began = time.monotonic()
    text = "tell('EXTEND_TIMEOUT_USEC=2500000')" + SLEEPS_ON
    with pytest.raises(allgone.NotReady), fixture(BACKENDS[1], text, ready_timeout=2):
        pytest.fail("the body ran")
    assert time.monotonic() - began >= 2.5


@pytest.mark.parametrize("malformed", [
    b"\0", b"READY", b"READY=", b"READY=2", b"=1", b"\n\n", b"READY=1\0STATUS=x", b"READY=1" + 5000 * b"x", b"\xff\xfe",
    b"EXTEND_TIMEOUT_USEC=-1\nERRNO=x\nWATCHDOG_USEC=1.5\nSTATUS=\xff\xfe\n\xff=\xff", b"ERRNO=" + 30 * b"9",
])  # fmt: skip
def test_what_is_malformed_does_no_harm(backend: BackendUnderTest, malformed: bytes) -> None:
    text = f"tell({malformed!r}); tell(b''); tell('STATUS=before'); hand_over('BARRIER=1'); say('told')" + SLEEPS_ON
    process, heard = started(backend, text)
    try:
        with process:
            heard.flow()
            assert process.stdout.readline() == b"told\n"
            assert heard.notified == allgone.Notified(status="before")
            process.stop()
    finally:
        heard.close()


@pytest.mark.parametrize("message", ["BARRIER=1", "FDSTORE=1\\nFDNAME=x", "READY=1"])
def test_fds_are_closed(backend: BackendUnderTest, message: str) -> None:
    with fixture(backend, f"hand_over('{message}'); tell('READY=1')" + SLEEPS_ON):
        pass


# After it is ready


def test_nobody_has_to_ask_for_what_it_tells(backend: BackendUnderTest, line: Path) -> None:
    """Nobody reads: after ten messages it would sleep."""
    text = "tell('READY=1')\nfor i in range(100): tell('STATUS=%d' % i)\nhand_over('BARRIER=1')"
    with fixture(backend, text + SAYS_TO_LINE.format("'done'") + SLEEPS_ON, line) as process:
        assert line.read_text() == "done"
        assert process.notified == allgone.Notified(ready=True, status="99")


def test_reloading_lasts_until_it_is_ready_again(backend: BackendUnderTest, line: Path) -> None:
    text = "tell('READY=1'); tell('RELOADING=1'); hand_over('BARRIER=1')" + SAYS_TO_LINE.format("'on'")
    text += "signal.sigwait([signal.SIGUSR1]); tell('READY=1'); hand_over('BARRIER=1')" + SAYS_TO_LINE.format("'off'")
    with fixture(backend, "signal.pthread_sigmask(0, [signal.SIGUSR1])\n" + text + SLEEPS_ON, line) as process:
        assert line.read_text() == "on"
        assert process.notified.reloading
        process.send_signal(signal.SIGUSR1)
        assert line.read_text() == "off"
        assert not process.notified.reloading


@pytest.mark.parametrize("ready", [True, False])
def test_its_last_words_are_heard(backend: BackendUnderTest, ready: bool, tmp_path: Path) -> None:
    """And it does not wait for a reader, whatever it is stopped for."""
    text = (
        "def stop(*_):\n for i in range(50): tell('STOPPING=1\\nSTATUS=%d' % i)\n open(sys.argv[1], 'w'); os._exit(0)\n"
        f"signal.signal(signal.SIGTERM, stop); tell('READY={ready:d}')" + SLEEPS_ON
    )
    stopped = tmp_path / "stopped"
    try:
        with fixture(backend, text, stopped, ready_timeout=PATIENCE if ready else 2) as process:
            pass
    except allgone.NotReady:
        assert not ready
    else:
        assert process.notified == allgone.Notified(ready=True, status="49", stopping=True)
        assert process.returncode == 0
    assert stopped.exists()


# The watchdog


def test_what_falls_silent_is_ended(backend: BackendUnderTest, caplog: pytest.LogCaptureFixture) -> None:
    with (
        pytest.raises(allgone.WatchdogTimeout, match=r"no WATCHDOG=1 came for 0.3 s\nlast output:\nsilent"),
        fixture(
            backend, "say('silent'); tell('READY=1')" + SLEEPS_ON, ready=allgone.notify(watchdog=0.3),
            output=allgone.capture(),
        ) as process,
    ):  # fmt: skip
        assert process.wait(PATIENCE) == -signal.SIGABRT
    assert "no WATCHDOG=1 came for 0.3 s: SIGABRT" in caplog.text
    assert process.report.ended_from_outside == ""


def test_what_ignores_sigabrt_is_killed(backend: BackendUnderTest) -> None:
    text = "deaf(signal.SIGABRT); tell('READY=1')" + SLEEPS_ON
    policy = allgone.StopPolicy(timeout_stop=0.2)
    with (
        pytest.raises(allgone.WatchdogTimeout),
        fixture(backend, text, ready=allgone.notify(watchdog=0.1), policy=policy) as process,
    ):
        assert process.wait(PATIENCE) == -signal.SIGKILL


@pytest.mark.parametrize("mode", ["control-group", "mixed"])
def test_sigabrt_goes_to_whom_kill_mode_says(backend: BackendUnderTest, mode: Any, line: Path) -> None:
    text = (
        "if not fork(): signal.signal(signal.SIGABRT, lambda *_: open(sys.argv[1], 'w').write('heard')); sleep_on()\n"
        "signal.signal(signal.SIGABRT, lambda *_: os._exit(7)); tell('READY=1')" + SLEEPS_ON
    )
    policy = allgone.StopPolicy(kill_mode=mode)
    heard = "heard" if mode == "control-group" else None
    with (
        pytest.raises(allgone.WatchdogTimeout),
        fixture(backend, text, line, ready=allgone.notify(watchdog=0.5), policy=policy) as process,
    ):
        assert (heard and line.read_text(), process.wait(PATIENCE)) == (heard, 7)


@pytest.mark.parametrize(
    ("told", "why"),
    [("WATCHDOG=trigger", "it sent WATCHDOG=trigger"), ("WATCHDOG_USEC=1000", "no WATCHDOG=1 came for 0.001 s")],
)
def test_it_may_ask_for_it(backend: BackendUnderTest, told: str, why: str) -> None:
    text = f"tell('READY=1'); tell('{told}')" + SLEEPS_ON
    with pytest.raises(allgone.WatchdogTimeout, match=why), fixture(backend, text) as process:
        assert process.wait(PATIENCE) == -signal.SIGABRT


def test_it_may_call_it_off(backend: BackendUnderTest) -> None:
    text = "tell('READY=1\\nWATCHDOG_USEC=0')" + SLEEPS_ON
    with fixture(backend, text, ready=allgone.notify(watchdog=0.1)) as process, pytest.raises(allgone.TimeoutExpired):
        process.wait(0.5)


def test_it_is_told_how_often(backend: BackendUnderTest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WATCHDOG_PID", "1")
    text = "tell('READY=1\\nSTATUS=%s' % [os.environ['WATCHDOG_USEC'], int(os.environ['WATCHDOG_PID']) == os.getpid()])"
    with fixture(backend, text + SLEEPS_ON, ready=allgone.notify(watchdog=77.5)) as process:
        assert process.notified.status == "['77500000', True]"


def test_what_has_ended_by_itself_was_not_silent(backend: BackendUnderTest) -> None:
    with fixture(backend, "tell('READY=1')", ready=allgone.notify(watchdog=0.1)) as process:
        assert process.wait(PATIENCE) == 0
        time.sleep(0.3)


def test_while_it_is_stopped_it_may_be_silent(backend: BackendUnderTest) -> None:
    text = "signal.signal(signal.SIGTERM, lambda *_: (time.sleep(0.8), os._exit(0))); tell('READY=1')" + SLEEPS_ON
    with fixture(backend, text, ready=allgone.notify(watchdog=0.5)) as process:
        pass
    assert process.returncode == 0


def test_an_error_of_the_body_is_not_replaced(backend: BackendUnderTest) -> None:
    text = "tell('READY=1')" + SLEEPS_ON
    with pytest.raises(ZeroDivisionError), fixture(backend, text, ready=allgone.notify(watchdog=0.1)) as process:
        assert process.wait(PATIENCE) / 0


# When the machine refuses


def test_without_a_socket_nothing_is_started(backend: BackendUnderTest, monkeypatch: pytest.MonkeyPatch) -> None:
    class NoAddress(socket.socket):
        def bind(self, address: Any) -> None:
            raise OSError("no address")

    monkeypatch.setattr(NotifySocket.__init__, "__defaults__", (NoAddress,))
    with (
        pytest.raises(OSError, match="no address"),
        allgone.process_fixture(["/nonexistent"], ready=allgone.notify(), **backend.options),
    ):
        pytest.fail("the body ran")


def test_without_a_thread_everything_is_stopped(backend: BackendUnderTest, monkeypatch: pytest.MonkeyPatch) -> None:
    def start(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    with (
        pytest.raises(RuntimeError, match="can't start new thread"),
        fixture(backend, "tell('READY=1')" + SLEEPS_ON),
    ):
        pytest.fail("the body ran")


def test_a_fork_of_the_supervisor_leaves_the_socket_to_it(backend: BackendUnderTest, line: Path) -> None:
    text = "signal.pthread_sigmask(0, [signal.SIGUSR1]); tell('READY=1'); signal.sigwait([signal.SIGUSR1])\n"
    text += "tell('STATUS=still heard'); hand_over('BARRIER=1')" + SAYS_TO_LINE.format("'done'") + SLEEPS_ON
    with fixture(backend, text, line) as process:
        pid = os.fork()
        if pid == 0:
            process._notifications.before_stop()
            process._notifications.close()
            os._exit(0)
        os.waitpid(pid, 0)
        process.send_signal(signal.SIGUSR1)
        assert line.read_text() == "done"
        assert process.notified.status == "still heard"


# What others make of it


def test_systemd_notify_is_understood(backend: BackendUnderTest) -> None:
    if not os.path.exists("/usr/bin/systemd-notify"):
        missing("systemd-notify is not installed")
    tells = ["sh", "-c", "/usr/bin/systemd-notify --ready --status=up; exec sleep 100"]
    with allgone.process_fixture(tells, ready=allgone.notify(), **backend.options) as process:
        assert process.notified == allgone.Notified(ready=True, status="up")


def test_a_frozen_process_is_not_silent(backend: BackendUnderTest) -> None:
    if backend.name != "cgroup":
        pytest.skip("only cgroups can be frozen")
    text = "tell('READY=1')\nwhile True:\n    tell('WATCHDOG=1')\n    time.sleep(0.02)"
    with fixture(backend, text, ready=allgone.notify(watchdog=2.0)) as process:
        with process.frozen(), pytest.raises(allgone.TimeoutExpired):
            process.wait(4.5)
        assert process.returncode is None
    assert process.returncode == -signal.SIGTERM
