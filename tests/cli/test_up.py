"""`allgone up`: an app runs as with Honcho, and when it ends, nothing of it is left."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from support import procfs
from support.programs import PATIENCE, UNTIL_SLEEP

from cli.command import ALLGONE, WITH_DEFAULT_SIGNALS, end
from cli.screen import Pty

# The leak check of every test is what finds processes and cgroups that are left.

FOREVER = "echo ready $$; exec sleep 1000"
IGNORES_SIGTERM = "trap '' TERM; echo ready $$; while :; do sleep 1000; done"


@dataclass(frozen=True)
class Up:
    """`allgone up` with one backend, in a directory of its own."""

    folder: Path
    backend: str

    def has(self, **types: str) -> None:
        (self.folder / "Procfile").write_text("".join(f"{name}: {command}\n" for name, command in types.items()))

    def args(self, *options: str) -> list[str]:
        return [*WITH_DEFAULT_SIGNALS, *ALLGONE, "up", "--backend", self.backend, *options]

    def run(self, *options: str, **keywords: Any) -> subprocess.CompletedProcess[str]:
        keywords = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "stdin": subprocess.DEVNULL, **keywords}
        return subprocess.run(
            self.args(*options), cwd=self.folder, text=True, timeout=PATIENCE, check=False, **keywords
        )  # fmt: skip

    @contextmanager
    def started(self, *options: str, **keywords: Any) -> Iterator[subprocess.Popen[str]]:
        keywords = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "stdin": subprocess.DEVNULL, **keywords}
        with subprocess.Popen(self.args(*options), cwd=self.folder, text=True, **keywords) as process:
            try:
                yield process
            finally:
                end(process)


@pytest.fixture(params=["cgroup", "process-group"])
def up(request: pytest.FixtureRequest, tmp_path: Path) -> Up:
    if request.param == "cgroup":
        request.getfixturevalue("cgroup_base")
    return Up(tmp_path, request.param)


@pytest.fixture
def app(tmp_path: Path) -> Up:
    """With whichever backend there is: for what has nothing to do with that."""
    return Up(tmp_path, "auto")


def said(output: str, name: str) -> list[str]:
    """What a process wrote, or the system said of it."""
    return re.findall(rf"^\d\d:\d\d:\d\d {re.escape(name)} *\| (.*)$", output, re.MULTILINE)


def until(process: subprocess.Popen[str], pattern: str) -> re.Match[str]:
    """The first line of its output that has it."""
    assert process.stdout is not None
    before = ""
    for line in process.stdout:
        before += line
        if found := re.search(pattern, line):
            return found
    raise AssertionError(f"no {pattern!r} in {before!r}")


def pids_ready(process: subprocess.Popen[str], count: int) -> list[int]:
    return [int(until(process, r"\| ready (\d+)")[1]) for _ in range(count)]


def wait_until_gone(pids: Sequence[int]) -> None:
    deadline = time.monotonic() + PATIENCE
    for pid in pids:
        while procfs.is_alive(pid):
            assert time.monotonic() < deadline, procfs.describe(pid)
            time.sleep(0.005)


# Running


def test_lines_of_all_are_shown_with_the_names_of_the_processes(up: Up) -> None:
    both = "case $HONCHO_PROCESS_NAME in web.1) read x <there ;; *) echo >there ;; esac"  # have said it before one ends
    os.mkfifo(up.folder / "there")
    up.has(web=f"echo $HONCHO_PROCESS_NAME $PORT $ANIMAL; echo error >&2; printf 'the rest'; {both}", other="exec cat")
    (up.folder / ".env").write_text("ANIMAL=giraffe\n")
    done = up.run("-c", "web=2", "web")
    assert said(done.stdout, "web.1") == ["web.1 5000 giraffe", "error", "the rest"]
    assert said(done.stdout, "web.2")[0] == "web.2 5001 giraffe"
    assert said(done.stdout, "other.1") == []
    assert done.stderr == ""
    assert [re.sub(r"\d{2,}", "PID", line) for line in said(done.stdout, "system")][:2] == [
        "web.1 started (pid=PID)",
        "web.2 started (pid=PID)",
    ]


def test_when_one_ends_all_are_stopped_and_its_status_is_ours(up: Up) -> None:
    up.has(
        web=f"trap 'echo bye; exit 7' TERM; sleep 1000 & {UNTIL_SLEEP}; echo >there; while :; do wait; done",
        worker="until read x <there; do :; done; exit 42",
    )
    os.mkfifo(up.folder / "there")
    done = up.run()
    assert done.returncode == 42
    system = said(done.stdout, "system")[2:]
    assert [re.sub(r"\d{3,}", "PID", line) for line in system] == [
        "worker.1 stopped (rc=42)",
        "sending SIGTERM to web.1 (pid PID)",
        "web.1 stopped (rc=7)",
    ]
    assert "bye" in said(done.stdout, "web.1")


def test_an_end_with_success_is_an_end_too(app: Up) -> None:
    app.has(web="exec sleep 1000", once="true")
    assert app.run().returncode == 0


def test_one_that_a_signal_ended_is_told_as_shells_tell_it(app: Up) -> None:
    app.has(web="kill -KILL $$")
    done = app.run()
    assert done.returncode == 128 + signal.SIGKILL
    assert "web.1 stopped (rc=-9)" in said(done.stdout, "system")


def test_a_command_that_is_not_found_is_the_shells_to_tell(app: Up) -> None:
    app.has(web="no-such-command")
    done = app.run()
    assert done.returncode == 127
    assert "not found" in said(done.stdout, "web.1")[0]


def test_stdin_is_nobodys(app: Up) -> None:
    app.has(web="cat; echo end")
    done = app.run(stdin=None, input="for none of them")
    assert said(done.stdout, "web.1") == ["end"]


def test_what_a_process_left_behind_is_stopped_named_and_waited_for_by_nobody(up: Up) -> None:
    """It holds the pipe, which does not delay the end."""
    up.has(web=f"setsid sleep 1000 & {UNTIL_SLEEP}; echo $!; exit 3")
    done = up.run()
    daemon = int(said(done.stdout, "web.1")[0])
    assert done.returncode == 3
    assert said(done.stdout, "system")[-1] == f"web.1 left 1 process behind, stopping: sleep (pid {daemon})"
    assert not procfs.is_alive(daemon)


def test_what_does_not_end_when_asked_is_killed_and_named(up: Up) -> None:
    up.has(web=IGNORES_SIGTERM.replace("echo", "echo >there; echo"), worker="until read x <there; do :; done")
    os.mkfifo(up.folder / "there")
    done = up.run("--timeout-stop", "200ms")
    assert done.returncode == 0
    assert re.match(r"had to kill \d process(es)?: .*sh \(pid \d+\)", said(done.stdout, "system")[-1])


def test_kill_signal_and_kill_mode(up: Up) -> None:
    beside = "(trap 'echo never' INT; echo ready; while :; do sleep 0.02; done) &"
    up.has(web=f"trap 'echo got it; exit' INT; {beside} read x <here; wait")
    os.mkfifo(up.folder / "here")
    with up.started("--kill-signal", "INT", "--kill-mode", "mixed") as process:
        until(process, "ready")
        (up.folder / "here").write_text("go on\n")
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=PATIENCE)
    assert said(output, "web.1") == ["got it"]


# Signals


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT"])
def test_a_signal_leaves_nothing_even_of_what_daemonised(up: Up, name: str) -> None:
    signum = signal.Signals[name]
    daemon = f"setsid sleep 1000 >/dev/null 2>&1 & {UNTIL_SLEEP}; echo ready $!; "
    up.has(web=daemon + FOREVER, worker=FOREVER)
    with up.started() as process:
        pids = pids_ready(process, 3)
        process.send_signal(signum)
        output, errors = process.communicate(timeout=PATIENCE)
        assert process.returncode == 128 + signum
        assert not [pid for pid in pids if procfs.is_alive(pid)]
    assert said(output, "system")[0] == f"{name} received"
    assert errors == ""


def test_a_second_signal_kills_at_once(up: Up) -> None:
    up.has(web=IGNORES_SIGTERM)
    with up.started("--timeout-stop", "1h") as process:
        pids_ready(process, 1)
        process.send_signal(signal.SIGINT)
        until(process, "sending SIGTERM")
        time.sleep(0.11)  # a second one within 0.1 s is taken for the same request
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=PATIENCE)
        assert process.returncode == 128 + signal.SIGINT
    assert said(output, "system")[0] == "SIGINT received: killing all that is left"


def test_one_who_leans_on_ctrl_c_is_heard(app: Up) -> None:
    app.has(web=IGNORES_SIGTERM)
    with app.started("--timeout-stop", "1h") as process:
        pids = pids_ready(process, 1)
        deadline = time.monotonic() + PATIENCE
        while procfs.is_alive(pids[0]):
            assert time.monotonic() < deadline
            process.send_signal(signal.SIGINT)
            time.sleep(0.02)


def test_sigkill_of_allgone_itself_leaves_nothing(up: Up) -> None:
    up.has(web=FOREVER, worker=FOREVER)
    with up.started() as process:
        pids = pids_ready(process, 2)
        process.kill()
        wait_until_gone(pids)  # by the guard


def test_what_nohup_ignores_is_ignored(app: Up) -> None:
    app.has(web=FOREVER)
    with subprocess.Popen(
        ["nohup", *app.args()[len(WITH_DEFAULT_SIGNALS) :]],
        cwd=app.folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    ) as process:  # fmt: skip
        pids_ready(process, 1)
        process.send_signal(signal.SIGHUP)
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=PATIENCE)
        assert process.returncode == 128 + signal.SIGTERM
    assert "SIGHUP" not in output


def test_ctrl_c_on_a_terminal_and_colours(up: Up, terminal: Pty) -> None:
    up.has(web=FOREVER)
    terminal.command("cd", str(up.folder))
    terminal.type(" ".join(up.args()[len(WITH_DEFAULT_SIGNALS) :]) + "\n")
    pid = int(terminal.expect(r"\x1b\[36m\S+ web\.1  \| \x1b\[0mready (\d+)\n")[1])
    terminal.type("\x03")
    terminal.expect("SIGINT received\n")
    assert terminal.status() == 130
    assert not procfs.is_alive(pid)


def test_a_terminal_that_stands_still_does_not_keep_signals_away(app: Up, terminal: Pty) -> None:
    app.has(web="trap '' TERM; echo ready $$; yes | head -c 20000; while :; do sleep 1000; done")
    terminal.command("cd", str(app.folder))
    terminal.type(" ".join(app.args("--timeout-stop", "1h")[len(WITH_DEFAULT_SIGNALS) :]) + "\n")
    pid = int(terminal.expect(r"ready (\d+)\n")[1])
    supervisor = _parent(pid)
    wait_until_all_sleep([supervisor, pid])  # nobody reads the master's side any more, and the terminal is full
    deadline = time.monotonic() + PATIENCE
    while procfs.is_alive(pid):
        assert time.monotonic() < deadline
        os.kill(supervisor, signal.SIGTERM)  # the first asks, the second kills
        time.sleep(0.15)
    terminal.expect("web.1 stopped")


def _parent(pid: int) -> int:
    with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as f:
        return int(f.read().rpartition(")")[2].split()[1])


# Output

FLOOD = "import sys\nfor n in range(int(sys.argv[1])): print(n)\nprint('flood is over', flush=True)\n"


def numbers(output: str) -> list[str]:
    return [line for line in said(output, "web.1") if line.isdecimal()]


def test_no_line_of_a_flood_is_lost(app: Up) -> None:
    (app.folder / "flood.py").write_text(FLOOD)
    app.has(web=f"{sys.executable} flood.py 100000")
    done = app.run()
    assert numbers(done.stdout) == [str(n) for n in range(100000)]


def test_a_slow_reader_loses_nothing_and_holds_nobody_up(up: Up) -> None:
    """Nobody reads until all have ended."""
    (up.folder / "flood.py").write_text(FLOOD)
    up.has(web=f"echo ready $$; exec {sys.executable} flood.py 1000000000", worker=FOREVER)
    with up.started() as process:
        pids = pids_ready(process, 2)
        wait_until_all_sleep(pids)
        process.send_signal(signal.SIGTERM)
        wait_until_gone(pids)
        output, _ = process.communicate(timeout=PATIENCE)
        assert process.returncode == 128 + signal.SIGTERM
    found = numbers(output)
    assert len(found) > 10000  # more than a pipe holds
    assert len(output) < 1 << 24  # and not all that it could have written meanwhile
    first = int(found[0])
    assert found == [str(n) for n in range(first, first + len(found))]
    assert "web.1 stopped (rc=-15)" in said(output, "system")


def wait_until_all_sleep(pids: Sequence[int]) -> None:
    """Until all of them seem to sleep for good: a flood has nowhere to go."""
    deadline = time.monotonic() + PATIENCE
    quiet = 0
    while quiet < 20:
        quiet = quiet + 1 if all(procfs.state(pid) == "S" for pid in pids) else 0
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_signal_ends_the_wait_for_a_reader(app: Up) -> None:
    (app.folder / "flood.py").write_text(FLOOD)
    app.has(web=f"echo ready $$; exec {sys.executable} flood.py 20000")
    with app.started() as process:
        pids = pids_ready(process, 1)
        wait_until_gone(pids)  # it could write all, for we took it in
        deadline = time.monotonic() + PATIENCE
        while process.poll() is None and time.monotonic() < deadline:
            process.send_signal(signal.SIGTERM)  # the first may find that end not yet noted
            time.sleep(0.15)
        assert process.returncode in (0, 128 + signal.SIGTERM)


def test_when_nobody_reads_any_more_all_are_stopped(app: Up) -> None:
    app.has(web=FOREVER, worker="read x <there; echo the last line; exec sleep 1000")
    os.mkfifo(app.folder / "there")
    with app.started() as process:
        pids = pids_ready(process, 1)
        assert process.stdout is not None
        process.stdout.close()
        (app.folder / "there").write_text("go on\n")
        assert process.wait(PATIENCE) == 128 + signal.SIGPIPE
        assert process.stderr is not None
        assert process.stderr.read() == ""
        assert not procfs.is_alive(pids[0])


def test_a_full_disk_is_told_and_ends_all(app: Up) -> None:
    app.has(web=FOREVER)
    with open("/dev/full", "w") as full:
        done = app.run(stdout=full)
    assert done.returncode == 125
    assert done.stderr == "allgone: its output can't be written: No space left on device\n"


def test_without_a_stdout_it_runs_all_the_same(app: Up) -> None:
    app.has(web="echo to nobody; exit 3")
    assert app.run(stdout=None, preexec_fn=lambda: os.close(1)).returncode == 3


def test_quiet_no_prefix_and_bytes_that_are_no_text(app: Up) -> None:
    app.has(
        web=r"printf '\377 \303\244\n'; sleep 0.2; kill -TERM $PPID; sleep 1000",
        noisy="while :; do echo noise; sleep 0.01; done",
    )
    env = {**os.environ, "PYTHONIOENCODING": "utf-8"}
    done = app.run("--no-prefix", "--quiet", "noisy", env=env)
    assert done.stdout.splitlines()[2] == "\ufffd ä"
    assert "noise" not in done.stdout


# Bad input


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["none"], "there is no process 'none' in ./Procfile; it has web"),
        (["-f", "none"], "./none: No such file or directory"),
        (["-d", "none"], "none/Procfile: No such file or directory"),
        (["-c", "web"], "--concurrency: 'web' is not NAME=NUMBER"),
        (["--name", "../x"], "name '../x' can't be used: "),
        (["--report", "none/report"], "cannot write the report none/report: No such file or directory"),
        (["--timeout-stop", "soon"], "Invalid value for '--timeout-stop': 'soon' is not a duration"),
        (["--kill-mode", "process"], "Invalid value for '--kill-mode'"),
    ],
)
def test_what_makes_no_sense_starts_nothing(app: Up, options: list[str], message: str) -> None:
    app.has(web="echo started >started")
    done = app.run(*options)
    assert (done.returncode, done.stdout) == (125, "")
    assert done.stderr.startswith(f"allgone: {message}")
    assert not (app.folder / "started").exists()


def test_a_start_that_fails_stops_what_was_started(up: Up) -> None:
    up.has(one=FOREVER, two=FOREVER)
    long = "x" * 200_000  # more than one argument may be, in the environment
    (up.folder / "sitecustomize.py").write_text(
        "from allgone._process.group import Group\n"
        "first = Group.Popen\n"
        "def fail(self, *args, env, **options):\n"
        f"    if options['name'] == 'two.1': env = {{**env, 'LONG': '{long}'}}\n"
        "    return first(self, *args, env=env, **options)\n"
        "Group.Popen = fail\n"
    )
    done = up.run(env={**os.environ, "PYTHONPATH": str(up.folder)})
    assert done.returncode == 125
    assert "Argument list too long" in done.stderr


def test_a_backend_that_cannot_be_had_is_said(tmp_path: Path) -> None:
    up = Up(tmp_path, "cgroup")
    up.has(web="echo started >started")
    done = up.run(env={**os.environ, "ALLGONE_CGROUP": "/nowhere"})
    assert done.returncode == 125
    assert "/nowhere" in done.stderr
    assert not (tmp_path / "started").exists()


# Report


def test_report_tells_of_each_process_and_of_what_was_stopped(up: Up) -> None:
    up.has(web="exec sleep 1000", worker="exit 5")
    done = up.run("--report", "report.json", "--report", "report.txt", "--name", "shop")
    told = json.loads((up.folder / "report.json").read_text())
    assert done.returncode == told["exit_status"] == told["returncode"] == 5
    assert (told["name"], told["backend"], told["args"]) == ("shop", up.backend, ["up", "web.1", "worker.1"])
    assert [(each["name"], each["returncode"]) for each in told["processes"]] == [("web.1", -15), ("worker.1", 5)]
    assert [each["pid"] for each in told["members"]] == [told["processes"][0]["pid"]]
    assert "shop" in (up.folder / "report.txt").read_text()


def test_report_tells_which_signal_it_was(app: Up) -> None:
    app.has(web=FOREVER)
    with app.started("--report", "report.json") as process:
        pids_ready(process, 1)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=PATIENCE)
    told = json.loads((app.folder / "report.json").read_text())
    assert (told["exit_status"], told["returncode"], told["stopped_because"]) == (143, -15, "SIGTERM")
