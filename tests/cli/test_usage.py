"""Usage: help, version, bad input refused before anything is started, what is imported."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from support.programs import PATIENCE

import allgone
from allgone._backends import choose
from cli.command import ALLGONE


def run(*words: str, program: tuple[str, ...] = ALLGONE, **keywords: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*program, *words], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PATIENCE, check=False,
        **keywords,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "Missing argument '-- CMD"),
        (["--timeout", "x"], "'x' is not a duration; write 10m, 5s, 1h30m, 250ms, a number of seconds, or infinity"),
        (["--timeout", "0"], "0 would stop the command at once; infinity means no limit"),
        (["--timeout", "-1s"], "'-1s' is not a duration"),
        (["--timeout-stop", ""], "'' is not a duration"),
        (["--kill-mode", "none"], "'none' is not one of 'control-group', 'mixed', 'process'"),
        (["--kill-signal", "SIGNOTHING"], "'SIGNOTHING' is not a signal; write TERM, SIGTERM or 15, say"),
        (["--kill-signal", "0"], "'0' is not a signal"),
        (["--backend", "docker"], "'docker' is not one of 'auto', 'cgroup', 'process-group'"),
        (["--no-such-option"], "--no-such-option"),
        (["--name", "../x"], "name '../x' can't be used: "),
        (["--name", ""], "name '' can't be used: "),
        (["--name", "x" * 5000], "…' can't be used: "),
        (["--report", "/nonexistent/file"], "cannot write the report /nonexistent/file: No such file or directory"),
        (["--report", "/"], "cannot write the report /: Is a directory"),
    ],
)
def test_bad_input_is_refused_clearly_before_anything_is_started(
    options: list[str], message: str, tmp_path: Path
) -> None:
    command = ["touch", str(tmp_path / "started")] if options else []
    done = run("run", *options, "--", *command)
    assert done.returncode == 125
    assert done.stderr.startswith("allgone: ")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""
    assert not (tmp_path / "started").exists()


def test_a_backend_that_is_not_available_says_why_and_what_to_do(tmp_path: Path) -> None:
    env = {**os.environ, "ALLGONE_CGROUP": str(tmp_path)}
    done = run("run", "--backend", "cgroup", "--", "true", env=env)
    assert done.returncode == 125
    assert done.stderr.startswith("allgone: backend 'cgroup' is not available here:\n  - the cgroup given (")
    assert run("run", "--", "true", env=env).returncode == 0
    assert run("run", "--", "true", env={**env, "ALLGONE_BACKEND": "cgroup"}).returncode == 125
    assert "ALLGONE_BACKEND must be one of" in run("run", "--", "true", env={**env, "ALLGONE_BACKEND": "x"}).stderr


@pytest.mark.parametrize("words", [["--help"], ["run", "--help"], ["doctor", "-h"]])
def test_help_shows_usage_and_examples(words: list[str]) -> None:
    done = run(*words)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("Usage: allgone ")
    assert words[0] == "doctor" or re.search(r"\n  Examples:\n    allgone run -- ", done.stdout)


def test_every_example_in_the_help_is_well_formed(monkeypatch: pytest.MonkeyPatch) -> None:
    import shlex

    from allgone.cli import app, job

    ran: list[job.Job] = []
    monkeypatch.setattr(job, "run", lambda each: ran.append(each) or 0)
    examples = re.findall(r"\n +allgone (run .*?)(?:  .*)?$", run("--help").stdout + run("run", "--help").stdout, re.M)
    assert len(examples) >= 7
    for example in examples:
        assert app.main(shlex.split(example)) == 0, example
    assert len(ran) == len(examples)


def test_version_is_the_packages() -> None:
    from importlib import metadata

    assert run("--version").stdout == f"allgone, version {metadata.version('allgone')}\n"


def test_the_installed_program_is_the_same_command() -> None:
    program = Path(sys.executable).with_name("allgone")
    assert run("run", "--", "sh", "-c", "exit 3", program=(str(program),)).returncode == 3


def test_the_backends_offered_are_those_there_are() -> None:
    from allgone.cli import app

    assert tuple(app.run.params[0].type.choices) == choose.NAMES  # type: ignore[attr-defined]


def test_run_imports_nothing_that_it_does_not_need() -> None:
    done = run("run", "--", "true", program=(sys.executable, "-X", "importtime", "-m", "allgone"))
    imported = {line.rsplit("|", 1)[1].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert "allgone._process.popen" in imported
    unneeded = {"psutil", "pyroute2", "pystemd", "asyncio", "json", "shutil", "socket", "allgone._backends.inspect"}
    assert imported & {*unneeded, "allgone.cli.doctor", "allgone._process.fixture", "allgone.ready"} == set()


def test_doctor_tells_which_backend_is_taken_and_why(cgroup_base: str) -> None:
    done = run("doctor")
    assert (done.returncode, done.stderr) == (0, "")
    assert (
        f'"auto" takes: cgroup\n  because: cgroups can be made and entered below {cgroup_base}: base= or ALLGONE_CGROUP names it\n'
        in done.stdout
    )
    for name in ("kernel", "pidfd", "cgroup2", "own cgroup", "cgroup.kill", "cgroup.freeze", "child subreaper",
                 "launcher", "systemd", "psutil", "pyroute2", "pystemd"):  # fmt: skip
        assert re.search(rf"^ (ok|no|--)  {re.escape(name)} ", done.stdout, re.MULTILINE), name


def test_doctor_says_what_to_do_about_what_is_missing(tmp_path: Path) -> None:
    env = {
        **os.environ,
        "ALLGONE_CGROUP": str(tmp_path),
        "ALLGONE_LAUNCHER": "interpreted",
        "ALLGONE_BACKEND": "cgroup",
    }
    done = run("doctor", env=env)
    assert done.returncode == 0  # process-group is there
    assert '"auto" takes: process-group\n  because: the cgroup given (' in done.stdout
    assert "but ALLGONE_BACKEND says cgroup" in done.stdout
    assert re.search(r"^ no  backend cgroup .*not in a cgroup2 file system\n +what to do: ", done.stdout, re.M)
    assert re.search(r"^ no  launcher .*interpreted: .*\n +what to do: unset ALLGONE_LAUNCHER", done.stdout, re.M)


def test_doctor_for_programs_says_the_same_as_json() -> None:
    told = json.loads(run("doctor", "--json").stdout)
    assert told["auto"]["backend"] in ("cgroup", "process-group")
    assert told["auto"]["why"]
    findings = {each["name"]: each for each in told["findings"]}
    assert findings["kernel"] == {"name": "kernel", "ok": True, "value": os.uname().release,
                                  "says": f"Linux {os.uname().release}", "remedy": ""}  # fmt: skip
    assert all(each["remedy"] for each in findings.values() if each["ok"] is False)


def test_doctor_fails_where_no_backend_can_work() -> None:
    without = (
        "import sys, errno, os\n"
        "def pidfd_open(*_): raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))\n"
        "os.pidfd_open = pidfd_open\n"
        "from allgone.cli import main; sys.exit(main(['doctor']))"
    )
    done = run(program=(sys.executable, "-c", without))
    assert done.returncode == 1
    assert '"auto" takes: nothing\n  because: both backends need pidfds: Function not implemented\n' in done.stdout
    assert done.stderr == ""


def test_doctor_leaves_nothing_behind_and_starts_nothing_that_stays() -> None:
    run("doctor")  # what it would leave is the leak check's to find
    assert allgone.__doc__
