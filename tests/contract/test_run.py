"""run, call, check_call, check_output: what is captured, who is waited for, and that nothing is left."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support import procfs
from support.actors import Actor
from support.backends import BackendUnderTest
from support.programs import UNTIL_SLEEP, Started, command

import allgone

SHORT = allgone.StopPolicy(timeout_stop=0.3)
LONG = 60  # seconds that nothing here may come near to
MEGABYTES = 5_000_000


@pytest.fixture(autouse=True)
def _returns_soon() -> object:
    began = time.monotonic()
    yield
    assert time.monotonic() - began < LONG


def python(code: str) -> list[str]:
    return [sys.executable, "-S", "-c", code]


def test_it_returns_when_the_leader_has_ended_with_what_it_wrote(backend: BackendUnderTest) -> None:
    done = backend.run(["sh", "-c", f"sleep 1000 & {UNTIL_SLEEP}; echo hi; echo ho >&2; exit 3"], capture_output=True)
    assert (done.stdout, done.stderr, done.returncode) == (b"hi\n", b"ho\n", 3)
    assert [p.name for p in done.report.members] == ["sleep"]


def test_what_the_rest_writes_while_it_is_asked_to_end_is_kept(backend: BackendUnderTest) -> None:
    actors = Actor("leader", (Actor("worker"),), ends_first=True)
    done = backend.run(command("actors", actors.to_json()), capture_output=True)
    assert done.stdout.endswith(b"ready\nworker SIGTERM\n")


def test_a_time_out_ends_the_tree_and_carries_the_output_so_far(backend: BackendUnderTest) -> None:
    began = time.monotonic()
    with pytest.raises(allgone.TimeoutExpired) as caught:
        backend.run(
            ["sh", "-c", "echo $$; echo oh >&2; sleep 1000 & wait"], capture_output=True, timeout=0.2, policy=SHORT
        )
    assert time.monotonic() - began < 10
    assert caught.value.stderr == b"oh\n"
    assert caught.value.timeout == 0.2
    assert not procfs.is_alive(int(caught.value.output))


def test_a_time_out_that_nobody_heeds_ends_within_timeout_stop(backend: BackendUnderTest) -> None:
    deaf = command("ignores_sigterm")
    timeout = time_to_get_ready(backend, deaf)
    began = time.monotonic()
    with pytest.raises(allgone.TimeoutExpired, match=rf"timed out after {re.escape(str(timeout))} seconds") as caught:
        backend.run(deaf, capture_output=True, timeout=timeout, policy=SHORT)
    assert timeout + SHORT.timeout_stop <= time.monotonic() - began < timeout + 10
    assert b"ready\n" in caught.value.output


def time_to_get_ready(backend: BackendUnderTest, args: list[str]) -> float:
    """Seconds that are enough for it here and now, and would be on a machine that is five times as busy."""
    began = time.monotonic()
    with Started(backend.Popen, args):
        return round(max(0.3, 5 * (time.monotonic() - began)), 1)


@pytest.mark.parametrize("timeout", [0, -1])
def test_a_time_out_of_nothing_or_less_expires_at_once(backend: BackendUnderTest, timeout: float) -> None:
    with pytest.raises(allgone.TimeoutExpired):
        backend.run(["sleep", "1000"], timeout=timeout)


def test_an_escapee_that_holds_the_pipe_does_not_make_it_wait(tmp_path: Path) -> None:
    plain = BackendUnderTest("process-group", sweep=False)
    outside = tmp_path / "outside"  # the leader ends when this is there, which is when the other has left
    script = 'setsid sh -c \'echo hi; mkfifo "$0"; exec sleep 100\' "$0" & until [ -p "$0" ]; do sleep 0.01; done'
    with pytest.warns(allgone.EscapedProcessWarning, match=r"(sh|sleep) \(pid \d+\)"):
        done = plain.run(["sh", "-c", script, str(outside)], capture_output=True)
    (escapee,) = done.report.escapees
    procfs.end(escapee.pid)


def test_an_escapee_that_floods_the_pipe_does_not_make_it_wait() -> None:
    plain = BackendUnderTest("process-group", sweep=False)
    with pytest.warns(allgone.EscapedProcessWarning, match=r"python[\d.]* \(pid \d+\)"):
        done = plain.run(command("floods", "setsid"), capture_output=True)
    (escapee,) = done.report.escapees
    procfs.end(escapee.pid)


def test_a_flood_on_both_pipes_is_stopped_by_the_time_out(backend: BackendUnderTest) -> None:
    for timeout in (0.3, 3, 30):  # within which it has to begin
        with pytest.raises(allgone.TimeoutExpired) as caught:
            backend.run(command("floods"), capture_output=True, timeout=timeout, policy=SHORT)
        if caught.value.stderr:
            break
    assert b"ready" in caught.value.output
    assert caught.value.stderr


def test_input_reaches_stdin_which_then_ends(backend: BackendUnderTest) -> None:
    assert backend.run(["cat"], input=b"to and fro", capture_output=True).stdout == b"to and fro"


def test_input_none_leaves_stdin_alone_and_empty_input_ends_it(backend: BackendUnderTest) -> None:
    assert backend.run(["cat"], stdin=allgone.DEVNULL, capture_output=True).stdout == b""
    assert backend.run(["cat"], input=b"", capture_output=True).stdout == b""


def test_large_input_and_output_on_all_pipes_do_not_block_each_other(backend: BackendUnderTest) -> None:
    code = "import sys; x = sys.stdin.buffer.read(); sys.stderr.buffer.write(x[::-1]); sys.stdout.buffer.write(x)"
    data = bytes(range(250)) * (MEGABYTES // 250)
    done = backend.run(python(code), input=data, capture_output=True)
    assert done.stdout == data
    assert done.stderr == data[::-1]


def test_an_echo_of_large_input_does_not_block(backend: BackendUnderTest) -> None:
    data = b"x" * MEGABYTES
    assert backend.run(["cat"], input=data, stdout=allgone.PIPE).stdout == data


def test_a_command_that_does_not_read_its_input_is_no_error(backend: BackendUnderTest) -> None:
    assert backend.run(["true"], input=b"x" * MEGABYTES).returncode == 0


def test_text_is_encoded_and_decoded_with_universal_newlines(backend: BackendUnderTest) -> None:
    done = backend.run(["cat"], input="a\r\nß\rc\n", capture_output=True, encoding="utf-16")
    assert done.stdout == "a\nß\nc\n"
    assert backend.run(["printf", "1\\r\\n2"], capture_output=True, text=True).stdout == "1\n2"


def test_undecodable_output_is_treated_as_errors_says(backend: BackendUnderTest) -> None:
    done = backend.run(["printf", "\\377"], stdout=allgone.PIPE, encoding="utf-8", errors="replace")
    assert done.stdout == "�"
    with pytest.raises(UnicodeDecodeError):
        backend.run(["printf", "\\377"], stdout=allgone.PIPE, encoding="utf-8")


def test_stderr_may_go_where_stdout_goes(backend: BackendUnderTest) -> None:
    done = backend.run(["sh", "-c", "echo 1; echo 2 >&2; echo 3"], stdout=allgone.PIPE, stderr=allgone.STDOUT)
    assert done.stdout == b"1\n2\n3\n"
    assert done.stderr is None


def test_check_raises_with_the_output_when_nothing_is_left(backend: BackendUnderTest) -> None:
    with pytest.raises(allgone.CalledProcessError) as caught:
        backend.run(["sh", "-c", "sleep 1000 & echo $!; exit 4"], capture_output=True, check=True)
    assert caught.value.returncode == 4
    assert not procfs.is_alive(int(caught.value.output))


def test_a_leader_that_is_killed_has_a_negative_return_code(backend: BackendUnderTest) -> None:
    assert backend.run(["sh", "-c", "kill -KILL $$"]).returncode == -signal.SIGKILL


def test_contradicting_arguments_are_refused_before_anything_starts(backend: BackendUnderTest) -> None:
    with pytest.raises(ValueError, match="input"):
        backend.run(["cat"], input=b"", stdin=allgone.PIPE)
    with pytest.raises(ValueError, match="capture_output"):
        backend.run(["cat"], capture_output=True, stdout=allgone.PIPE)


def test_str_input_to_a_pipe_of_bytes_is_refused_and_leaves_nothing(backend: BackendUnderTest) -> None:
    with pytest.raises(TypeError):
        backend.run(["cat"], input="text", capture_output=True)


def test_call_check_call_and_check_output_leave_nothing(backend: BackendUnderTest) -> None:
    leaves = ["sh", "-c", "sleep 1000 & echo hi; exit 3"]
    quiet = {"stdout": allgone.DEVNULL, **backend.options}
    assert allgone.call(leaves, **quiet) == 3
    with pytest.raises(allgone.CalledProcessError):
        allgone.check_call(leaves, **quiet)
    with pytest.raises(allgone.CalledProcessError) as caught:
        allgone.check_output(leaves, **backend.options)
    assert caught.value.output == b"hi\n"
    assert allgone.check_call(["true"], **backend.options) == 0
    assert allgone.check_output(["cat"], input="in", text=True, **backend.options) == "in"


def test_call_that_times_out_stops_the_tree(backend: BackendUnderTest) -> None:
    with pytest.raises(allgone.TimeoutExpired):
        allgone.call(["sh", "-c", "sleep 1000 & wait"], timeout=0.2, policy=SHORT, **backend.options)


def test_the_result_is_as_the_standard_library_has_it(backend: BackendUnderTest) -> None:
    ours = backend.run(["echo", "x"], stdout=allgone.PIPE)
    theirs = subprocess.run(["echo", "x"], stdout=subprocess.PIPE, check=False)
    assert isinstance(ours, subprocess.CompletedProcess)
    assert (ours.args, ours.returncode, ours.stdout, ours.stderr) == (
        theirs.args, theirs.returncode, theirs.stdout, theirs.stderr,
    )  # fmt: skip
