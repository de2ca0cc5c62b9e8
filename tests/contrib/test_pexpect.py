"""pexpect's spawn, contained: a terminal of its own, pexpect's own promises, and the daemon goes too."""

from __future__ import annotations

import signal

import pexpect
import pytest
from support import procfs
from support.backends import BackendUnderTest
from support.programs import UNTIL_SLEEP

import allgone
from allgone.contrib.pexpect import spawn

pytestmark = pytest.mark.usefixtures("enters_by_itself")


def options(backend: BackendUnderTest) -> dict[str, object]:
    return {"backend": backend.name, "sweep": backend.name == "process-group", "timeout": 30}


def test_a_daemon_is_gone_after_close(backend: BackendUnderTest) -> None:
    script = f"setsid sleep 1000 & {UNTIL_SLEEP}; echo daemon $!.; read line"
    with spawn("sh", ["-c", script], **options(backend)) as child:
        child.expect(r"daemon (\d+)\.")
        daemon = int(child.match[1])
        assert procfs.is_alive(daemon)
    assert not procfs.is_alive(daemon)
    assert child.report is not None
    assert child.report.backend == backend.name


def test_it_has_a_terminal_of_its_own_with_job_control(backend: BackendUnderTest) -> None:
    with spawn("sh", ["-c", "tty; stty size; trap 'echo interrupted; exit 5' INT; sleep 1000 & echo ready; wait"],
               dimensions=(40, 123), **options(backend)) as child:  # fmt: skip
        child.expect("/dev/pts/")
        child.expect("40 123")
        child.expect("ready")
        child.sendintr()
        child.expect("interrupted")
        child.expect(pexpect.EOF)
    assert (child.exitstatus, child.signalstatus) == (5, None)


def test_what_is_sent_arrives_and_echo_can_be_off(backend: BackendUnderTest) -> None:
    with spawn("cat", echo=False, encoding="utf-8", **options(backend)) as child:
        child.sendline("hello")
        child.expect("hello")
        child.sendeof()
        child.expect(pexpect.EOF)
        assert "hello" not in child.before
        assert child.wait() == 0


@pytest.mark.parametrize("how", ["terminate", "kill"])
def test_status_of_one_that_a_signal_ended(backend: BackendUnderTest, how: str) -> None:
    child = spawn("sleep 1000", **options(backend))
    if how == "terminate":
        assert child.terminate()
    else:
        child.kill(signal.SIGHUP)
    assert child.wait() is None
    child.close()
    assert (child.exitstatus, child.signalstatus, child.isalive()) == (None, signal.SIGHUP, False)


def test_environment_directory_and_preexec_fn_are_passed_on(backend: BackendUnderTest, tmp_path: object) -> None:
    def before() -> None:
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)

    with spawn("sh", ["-c", "echo $ANIMAL; pwd; kill -USR1 $$; echo alive"], cwd=str(tmp_path), preexec_fn=before,
               env={"ANIMAL": "giraffe", "PATH": "/usr/bin:/bin"}, **options(backend)) as child:  # fmt: skip
        child.expect("giraffe")
        child.expect_exact(str(tmp_path))
        child.expect("alive")


def test_what_is_not_there_is_pexpects_error_and_what_makes_no_sense_ours(backend: BackendUnderTest) -> None:
    with pytest.raises(pexpect.ExceptionPexpect, match="not found"):
        spawn("no-such-command", **options(backend))
    with pytest.raises(TypeError, match="policy must be a StopPolicy"):
        spawn("true", policy=3, **options(backend))


def test_the_policy_counts_for_what_is_left(backend: BackendUnderTest) -> None:
    policy = allgone.StopPolicy(timeout_stop=0.1)
    stubborn = "setsid sh -c \"trap '' TERM HUP; echo ready; while :; do sleep 1000; done\" & read line"
    with spawn("sh", ["-c", stubborn], policy=policy, **options(backend)) as child:
        child.expect("ready")
    assert child.report is not None
    assert child.report.killed
