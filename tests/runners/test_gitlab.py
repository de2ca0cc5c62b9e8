"""docs/ci/gitlab.md: scripts started as the shell executor and the custom executor of gitlab-runner do it.

From executors/shell/shell.go, helpers/process/{commander,killer_unix}.go and the custom executor's documentation: a process
group, the script on stdin or in a file; SIGTERM to the group, then SIGKILL.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.ci import JOB, Run, Site
from support.programs import PATIENCE

SYSTEM_FAILURE, BUILD_FAILURE = 2, 1


@pytest.fixture
def site(tmp_path: Path, cgroup_base: str, port: int) -> Site:
    made = Site(tmp_path, "gitlab.md", port)
    made.environment |= {
        "CUSTOM_ENV_CI_JOB_ID": "7",
        "BUILD_EXIT_CODE_FILE": str(tmp_path / "exit-code"),
        "BUILD_FAILURE_EXIT_CODE": str(BUILD_FAILURE),
        "SYSTEM_FAILURE_EXIT_CODE": str(SYSTEM_FAILURE),
    }
    # The runner, for `start`: it says which bash it would take.
    made.place("/usr/bin/gitlab-runner", '#!/bin/sh\necho "runner $*"\ncommand -v bash\n')
    made.place("/job.sh", JOB)
    return made


@contextmanager
def by_shell_executor(site: Site, script: str) -> Iterator[Run]:
    """``bash -l``, found in the PATH that `start` gives to the runner, with the script as its stdin."""
    started = subprocess.run(
        [site.root / "etc/ci/gitlab/start"], env=site.environment, capture_output=True, text=True, check=True
    )
    runner, bash = started.stdout.splitlines()
    assert runner.startswith("runner run --config ")
    assert bash == f"{site.root}/etc/ci/gitlab/bin/bash"
    path = f"{os.path.dirname(bash)}:{site.environment['PATH']}"
    placed = site.place("/script.sh", script)
    with (
        placed.open(encoding="utf-8") as stdin,
        site.start(
            bash, "-l", stdin=stdin, env={**site.environment, "PATH": path}, start_new_session=False, process_group=0
        ) as run,
    ):
        yield run


@contextmanager
def by_custom_executor(site: Site, script: str) -> Iterator[Run]:
    placed = site.place("/script.sh", script)
    run_exec = site.root / "etc/ci/gitlab/run"
    assert f'run_exec = "{run_exec}"' in (site.root / "var/lib/ci/gitlab/config.toml").read_text(encoding="utf-8")
    with site.start(str(run_exec), str(placed), "build_script", stdin=subprocess.DEVNULL, process_group=0) as run:
        yield run


EXECUTORS = pytest.mark.parametrize("executor", [by_shell_executor, by_custom_executor])


@EXECUTORS
def test_what_a_script_leaves_behind_is_stopped_and_named(executor, site: Site) -> None:
    with executor(site, JOB) as run:
        run.wait_for_job()
        run.let_go()
        assert run.process.wait(PATIENCE) == 0
        run.assert_nothing_is_left()
        assert "that the command left behind" in run.text()


@EXECUTORS
def test_a_cancelled_script_leaves_nothing(executor, site: Site) -> None:
    with executor(site, JOB) as run:
        run.wait_for_job()
        os.killpg(run.process.pid, signal.SIGTERM)
        assert run.process.wait(PATIENCE) != 0
        run.assert_nothing_is_left()


@EXECUTORS
def test_a_script_whose_time_to_end_is_over_leaves_nothing(executor, site: Site) -> None:
    with executor(site, JOB) as run:
        run.wait_for_job()
        os.killpg(run.process.pid, signal.SIGKILL)
        run.assert_nothing_is_left(PATIENCE)


@pytest.mark.parametrize("status", [0, 3])
def test_the_exit_status_of_a_script_stays_what_it_was(status: int, site: Site) -> None:
    with by_shell_executor(site, f"exit {status}\n") as run:
        assert run.process.wait(PATIENCE) == status


def test_the_jobs_own_bash_is_the_machines(site: Site) -> None:
    with by_shell_executor(site, "command -v bash\n") as run:
        assert run.process.wait(PATIENCE) == 0
        assert f"{site.root}/etc/ci" not in run.text()


@pytest.mark.parametrize(("script", "status", "noted"), [("exit 0", 0, None), ("exit 3", BUILD_FAILURE, "3")])
def test_the_custom_executor_is_told_of_a_failed_script(
    script: str, status: int, noted: str | None, site: Site
) -> None:
    with by_custom_executor(site, script) as run:
        assert run.process.wait(PATIENCE) == status
    file = site.root / "exit-code"
    assert (file.read_text().strip() if file.exists() else None) == noted


def test_the_custom_executor_is_told_where_there_can_be_no_cgroup(site: Site, tmp_path: Path) -> None:
    site.environment["ALLGONE_CGROUP"] = str(tmp_path)
    with by_custom_executor(site, "echo ran") as run:
        assert run.process.wait(PATIENCE) == SYSTEM_FAILURE
        assert "ran" not in run.text().split()
