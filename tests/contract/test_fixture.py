"""`process_fixture`: ready before the body runs, by each probe; what is raised where that does not come; the output."""

from __future__ import annotations

import os
import re
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from support import procfs
from support.backends import BackendUnderTest

import allgone

SERVES = """
import http.server, sys
class Handler(http.server.BaseHTTPRequestHandler):
    asked = 0
    def do_GET(self):
        Handler.asked += 1
        self.send_response(200 if Handler.asked > 2 else 503)
        self.end_headers()
server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
with open(sys.argv[1], "w") as f: f.write(str(server.server_port))
server.serve_forever()
"""
SAYS_UP = ["sh", "-c", "echo one; echo it is up; exec sleep 1000"]


def fixture(backend: BackendUnderTest, args: Any, **options: Any) -> Any:
    return allgone.process_fixture(args, **backend.options, **options)


def test_a_line_of_the_output(backend: BackendUnderTest) -> None:
    with fixture(backend, SAYS_UP, ready=allgone.log_line("is u.$")) as process:
        assert process.output() == "one\nit is up\n"
        assert process.returncode is None
    assert process.returncode == -15
    assert process.members() == frozenset()


def test_a_line_that_comes_in_pieces_and_without_an_end(backend: BackendUnderTest) -> None:
    script = "printf 'it is'; sleep 0.2; printf ' up'; exec sleep 1000 2>&1"
    with fixture(backend, ["sh", "-c", script], ready=allgone.log_line("it is up")) as process:
        assert process.output() == "it is up"


@pytest.mark.parametrize("kept", ["memory", "file"])
def test_one_probe_serves_many_starts(backend: BackendUnderTest, kept: str, tmp_path: Path) -> None:
    """Each is looked at from its first line, however far the one before had come."""
    probe = allgone.log_line("it is up")
    for _ in range(3):
        output = tmp_path / "output" if kept == "file" else allgone.capture()
        with fixture(backend, SAYS_UP, ready=probe, output=output, ready_timeout=5) as process:
            assert process.output() == "one\nit is up\n"


def test_a_path_that_comes_to_exist(backend: BackendUnderTest, tmp_path: Path) -> None:
    path = tmp_path / "up"
    with fixture(backend, ["sh", "-c", f"sleep 0.1; >{path}; exec sleep 1000"], ready=allgone.path_exists(path)):
        assert path.exists()


def test_an_answer_over_http_and_a_connection(backend: BackendUnderTest, tmp_path: Path) -> None:
    told = tmp_path / "port"
    args = [sys.executable, "-S", "-c", SERVES, str(told)]
    with fixture(backend, args, ready=lambda: told.exists() and told.read_text(), output=tmp_path / "log") as process:
        port = int(told.read_text())
        assert allgone.tcp(port)(process, process._output)
        with pytest.raises(OSError, match="503"):
            allgone.http(f"http://127.0.0.1:{port}/")(process, process._output)


def test_a_server_that_is_not_ready_at_first_is_asked_again(backend: BackendUnderTest, tmp_path: Path) -> None:
    told = tmp_path / "port"

    def answers(process: allgone.Popen) -> bool:
        return (
            told.exists()
            and bool(told.read_text())
            and allgone.http(f"http://127.0.0.1:{told.read_text()}/")(process, None)
        )

    args = [sys.executable, "-S", "-c", SERVES, str(told)]
    with fixture(backend, args, ready=answers, output=allgone.capture()) as process:
        assert process.output().count('"GET / HTTP/1.1" 503') == 2


def test_a_daemon_whose_leader_has_ended_well_is_waited_for(backend: BackendUnderTest, tmp_path: Path) -> None:
    script = f"(sleep 0.3; >{tmp_path / 'up'}; exec sleep 1000) & exit 0"
    with fixture(backend, ["sh", "-c", script], ready=allgone.path_exists(tmp_path / "up")) as process:
        assert process.members()
    assert process.members() == frozenset()


def test_what_is_never_ready_is_stopped_and_its_output_told(backend: BackendUnderTest) -> None:
    began = time.monotonic()
    with (
        pytest.raises(allgone.NotReady, match=r"'up'\) was not true within 0.3 s") as raised,
        fixture(backend, ["sh", "-c", "echo $$; exec sleep 1000"], ready=allgone.log_line("up"), ready_timeout=0.3),
    ):
        pytest.fail("the body ran")
    assert time.monotonic() - began >= 0.3
    assert isinstance(raised.value, TimeoutError)
    assert not procfs.is_alive(int(raised.value.tail))


def test_what_a_probe_last_said_is_told(backend: BackendUnderTest) -> None:
    def probe() -> bool:
        raise OSError("no such luck")

    with (
        pytest.raises(allgone.NotReady, match=r"\(last: no such luck\)"),
        fixture(backend, ["sleep", "1000"], ready=probe, ready_timeout=0.1),
    ):
        pytest.fail("the body ran")


def test_any_other_error_of_a_probe_arrives_at_once(backend: BackendUnderTest) -> None:
    with pytest.raises(ZeroDivisionError), fixture(backend, ["sleep", "1000"], ready=lambda: 1 / 0):
        pytest.fail("the body ran")


@pytest.mark.parametrize("kept", ["memory", "file"])
def test_what_ends_before_it_is_ready_is_an_error_at_once(backend: BackendUnderTest, kept: str, tmp_path: Path) -> None:
    output = tmp_path / "output" if kept == "file" else None
    with (
        pytest.raises(allgone.ExitedBeforeReady, match=re.escape("log_line('up')")) as raised,
        fixture(backend, ["sh", "-c", "echo why; exit 3"], ready=allgone.log_line("up"), output=output),
    ):
        pytest.fail("the body ran")
    assert raised.value.returncode == 3
    assert raised.value.tail == "why\n"


def test_a_last_line_counts_though_the_process_has_ended(backend: BackendUnderTest) -> None:
    with fixture(backend, ["sh", "-c", "echo up"], ready=allgone.log_line("up")) as process:
        process.wait()


def test_only_the_end_of_much_output_is_kept(backend: BackendUnderTest) -> None:
    """And the process does not wait for anybody to read it."""
    script = "i=0; while [ $i -lt 30000 ]; do echo line $i; i=$((i+1)); done; echo done; exec sleep 1000"
    with fixture(
        backend, ["sh", "-c", script], ready=allgone.log_line("done"), output=allgone.capture(max_bytes=1000)
    ) as process:
        assert len(process.output()) == 1000
        assert process.output().endswith("line 29999\ndone\n")


def test_output_that_comes_while_the_body_runs_is_kept(backend: BackendUnderTest) -> None:
    with fixture(backend, ["cat"], ready=lambda: True, stdin=allgone.PIPE, output=allgone.capture()) as process:
        process.stdin.write(b"x" * 1_000_000 + b"end")
        process.stdin.close()
        process.wait(30)
    assert process.output().endswith("xend")
    assert len(process.output()) == 1_000_003


def test_output_is_kept_as_soon_as_it_is_written(backend: BackendUnderTest) -> None:
    """Though a thread reads it, which has its own time."""
    reader, writer = os.pipe()
    script = f"while read word; do echo $word; echo $word >/dev/fd/{writer}; done"
    with fixture(
        backend,
        ["sh", "-c", script],
        ready=lambda: True,
        stdin=allgone.PIPE,
        output=allgone.capture(),
        pass_fds=(writer,),
    ) as process:
        for n in range(200):
            process.stdin.write(b"%d\n" % n)
            process.stdin.flush()
            assert os.read(reader, 10) == b"%d\n" % n
            assert process.output().endswith(f"{n}\n")
    os.close(reader)
    os.close(writer)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"ready": 8000}, TypeError),
        ({"ready_timeout": -1}, ValueError),
        ({"ready_timeout": "1"}, TypeError),
        ({"output": 1}, TypeError),
    ],
)
def test_bad_input_starts_nothing(
    backend: BackendUnderTest, options: Any, error: type[Exception], tmp_path: Path
) -> None:
    with pytest.raises(error), fixture(backend, ["touch", str(tmp_path / "started")], **options):
        pytest.fail("the body ran")
    assert list(tmp_path.iterdir()) == []
