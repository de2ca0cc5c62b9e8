"""The exit status is that of env(1) and timeout(1), which are run beside."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import procfs, users
from support.programs import PATIENCE, UNTIL_SLEEP

from cli.command import PYTHON, Allgone


@pytest.fixture
def commands(tmp_path: Path) -> Path:
    """A directory with files to execute."""
    (tmp_path / "not-executable").write_text("true\n")
    for name, text in (("no-interpreter-line", 'exit "$1"\n'), ("no-such-interpreter", "#!/nonexistent/interpreter\n")):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    return tmp_path


def status_of(*args: str, cwd: Path) -> int:
    return subprocess.run(
        args, cwd=cwd, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False,
        timeout=PATIENCE,
    ).returncode  # fmt: skip


@pytest.mark.parametrize(
    "command",
    [
        "true", "sh -c 'exit 7'", "sh -c 'exit 255'", "sh -c 'kill -TERM $$'", "sh -c 'kill -KILL $$'",
        "sh -c 'kill -INT $$'", "sh -c 'kill -SEGV $$'", "sh -c 'kill -QUIT $$'", "sh -c 'kill -PIPE $$'",
        "sh -c 'exit 124'", "no-such-command", "./no-such-file", "./not-executable", "./not-executable/x", ".", "''",
        "./no-interpreter-line 9", "./no-such-interpreter",
    ],
)  # fmt: skip
def test_is_that_of_env_and_timeout(allgone: Allgone, command: str, commands: Path) -> None:
    # Through a shell, for one that was left by a signal is as good as one that exited with 128+N.
    def through_shell(*prefix: str) -> int:
        return status_of("sh", "-c", " ".join(prefix) + f" {command}; exit $?", cwd=commands)

    expected = through_shell("env")
    assert expected == through_shell("timeout", "60")
    assert through_shell(*allgone.args()) == expected


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL, signal.SIGSEGV])
def test_ends_by_the_signal_that_ended_the_command(allgone: Allgone, signum: signal.Signals, tmp_path: Path) -> None:
    assert status_of("timeout", "60", "sh", "-c", f"kill -{int(signum)} $$", cwd=tmp_path) == -signum
    done = allgone.run("sh", "-c", f"kill -{int(signum)} $$", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (-signum, "")
    assert not list(tmp_path.iterdir())  # no core file of its own


def test_as_pid_1_of_a_container_it_exits_with_128_and_the_signal(allgone: Allgone) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root, to make a pid namespace")
    done = subprocess.run(
        ["unshare", "--pid", "--fork", "--mount-proc", *allgone.args("sh", "-c", "kill -TERM $$")],
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 128 + signal.SIGTERM


def test_time_out_is_124(allgone: Allgone) -> None:
    assert status_of("timeout", "0.1", "sleep", "1000", cwd=Path("/")) == 124
    done = allgone.run("sh", "-c", "sleep 1000 & wait", options=["--timeout", "100ms"])
    assert done.returncode == 124
    assert done.stderr.startswith("allgone: time-out after 100ms: stopped sh (pid ")
    assert done.stderr.count("\n") == 1


def test_time_out_is_124_also_where_sigkill_was_needed(allgone: Allgone) -> None:
    done = allgone.run(
        "sh", "-c", "trap '' TERM; while :; do sleep 0.1; done", options=["--timeout=50ms", "--timeout-stop=50ms"]
    )
    assert done.returncode == 124


def test_command_that_ends_by_itself_is_not_held_up_by_its_time_limit(allgone: Allgone) -> None:
    assert allgone.run("true", options=["--timeout", "1h"]).returncode == 0


@pytest.mark.usefixtures("searchable_path")
def test_what_cannot_be_run_is_named(allgone: Allgone, commands: Path) -> None:
    done = allgone.run("no-such-command", "x", cwd=commands)
    assert done.stderr == "allgone: cannot run no-such-command: No such file or directory\n"
    done = allgone.run("./not-executable", cwd=commands)
    assert done.stderr == "allgone: cannot run ./not-executable: Permission denied\n"


def test_vanished_cgroup_is_an_own_failure_and_not_the_commands(cgroup_base: str) -> None:
    done = Allgone("cgroup").run("true", env={**os.environ, "ALLGONE_CGROUP": cgroup_base + "/none"})
    assert done.returncode == 125
    assert "no such directory (create it, or unset ALLGONE_CGROUP)" in done.stderr


@pytest.fixture
def become_root() -> Iterator[Path]:
    """A program that anybody may run, and that runs its arguments as root; its directory is open to all."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to make a program that becomes root")
    with tempfile.TemporaryDirectory(prefix="allgone-test-") as folder:
        os.chmod(folder, 0o777)
        program = Path(folder, "become-root")
        shutil.copy(shutil.which("setpriv") or "", program)
        program.chmod(0o4755)
        yield program


def test_a_process_that_cannot_be_stopped_is_named_and_is_an_own_failure(become_root: Path) -> None:
    """One that became root: an ordinary user's SIGKILL does not reach it."""
    users.may_run(65534, PYTHON, "-c", "import allgone.cli")
    hasty = (
        "import sys, allgone._core.stop as s; s.KILL_TIMEOUT = 0.2\n"
        "from allgone.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    script = f"$0 --reuid 0 --regid 0 --clear-groups sleep 1000 >/dev/null 2>&1 & echo $!; {UNTIL_SLEEP}"
    report = become_root.with_name("report")
    as_nobody = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"]
    allgone = [PYTHON, "-c", hasty, "run", "--backend=process-group", "--timeout-stop=50ms", "--report", str(report)]
    done = subprocess.run(
        [*as_nobody, *allgone, "--", "sh", "-c", script, str(become_root)],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PATIENCE, check=False,
    )  # fmt: skip
    assert done.stdout, done.stderr
    survivor = int(done.stdout)
    procfs.end(survivor)  # an orphan that the init of the test run adopts, and reaps only at its end
    assert done.returncode == 125, done.stderr
    assert done.stderr.startswith(f"allgone: could not stop sleep (pid {survivor}). ")
    assert json.loads(report.read_text())["exit_status"] == 125
