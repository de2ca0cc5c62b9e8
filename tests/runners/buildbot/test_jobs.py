"""Builds that leave something behind, hang, are stopped or take too long: nothing is left, and the log says so."""

from __future__ import annotations

import re
import sys

import pytest
from support.buildbot import BIN, CANCELLED, FAILURE, FILES, PAGE, SUCCESS, SiteInside

from docs import pages

JOB = [sys.executable, str(FILES / "job.py")]
STUBBORN = pytest.mark.parametrize("program", ["ignores_sigterm", "double_fork_daemon", "wipes_its_traces", "respawns"])
"""What is still there after the SIGTERM that Buildbot sends to the process group."""


@pytest.mark.parametrize(
    "program", ["double_fork_daemon", "ignores_sigterm", "fork_bomb", "hopper", "respawns", "forking_server"]
)
def test_what_a_step_has_left_is_stopped_and_named_in_its_log(site: SiteInside, program: str) -> None:
    build = site.force([*JOB, "0", program], run_options=["--timeout-stop", "1s"])
    assert build.result() == SUCCESS
    assert site.running() == []
    assert re.search(r"eallgone: stopped \d+ process(es)? that the command left behind: python", build.log())


def test_the_exit_status_is_the_commands_own(site: SiteInside) -> None:
    build = site.force(["sh", "-c", "exit 7"])
    assert build.result() == FAILURE
    assert "hprogram finished with exit code 7" in build.log()
    assert "eallgone" not in build.log()


def test_a_port_that_was_held_is_free_for_the_next_build(site: SiteInside, port: int) -> None:
    for _ in range(3):
        build = site.force([*JOB, "0", "listens", "--daemon", "tcp", "127.0.0.1", str(port)])
        assert build.result() == SUCCESS, build.logs()


@STUBBORN
def test_a_build_that_somebody_stops_leaves_nothing(site: SiteInside, program: str) -> None:
    build = site.force([*JOB, "stay", program], run_options=["--timeout-stop", "1s"])
    build.is_ready()
    build.stop()
    assert build.result() == CANCELLED
    assert site.running() == []
    assert "hcommand interrupted, attempting to kill" in build.log()
    assert "eallgone: stopped " in build.log()


@pytest.mark.parametrize("program", ["ignores_sigterm", "wipes_its_traces"])
@pytest.mark.parametrize("limit", ["timeout", "maxTime"])
def test_a_step_that_takes_too_long_leaves_nothing(site: SiteInside, program: str, limit: str) -> None:
    build = site.force([*JOB, "stay", program], run_options=["--timeout-stop", "1s"], **{limit: 10})
    build.is_ready()
    assert build.result() == FAILURE
    assert site.running() == []
    assert "hcommand timed out: 10 seconds " in build.log()
    assert "eallgone: stopped " in build.log()


@STUBBORN
def test_the_time_limit_of_allgone_run_names_all(site: SiteInside, program: str) -> None:
    build = site.force([*JOB, "stay", program], run_options=["--timeout", "2s", "--timeout-stop", "1s"])
    assert build.result() == FAILURE
    assert site.running() == []
    assert "eallgone: time-out after 2s: stopped python" in build.log()
    assert "hprogram finished with exit code 124" in build.log()


def test_too_many_lines_are_no_way_out(site: SiteInside) -> None:
    build = site.force([*JOB, "stay", "floods"], max_lines=100)
    assert build.result() == FAILURE
    assert site.running() == []


@STUBBORN
def test_without_sigtermtime_the_guard_ends_what_buildbot_does_not_reach(site: SiteInside, program: str) -> None:
    build = site.force([*JOB, "stay", program], sigtermTime=None)
    build.is_ready()
    build.stop()
    assert build.result() == CANCELLED
    site.is_clean()
    assert "eallgone" not in build.log()
    assert "what it had started was ended" in site.sh("journalctl --identifier=allgone-guard --lines=1")


def test_sigtermtime_too_short_for_a_whole_stop_leaves_nothing_either(site: SiteInside) -> None:
    build = site.force([*JOB, "stay", "ignores_sigterm"], sigtermTime=1)
    build.is_ready()
    build.stop()
    assert build.result() == CANCELLED
    site.is_clean()


def test_with_a_terminal_it_is_the_same(site: SiteInside) -> None:
    build = site.force([*JOB, "stay", "ignores_sigterm"], run_options=["--timeout-stop", "1s"], usePTY=True)
    build.is_ready()
    build.stop()
    assert build.result() == CANCELLED
    assert site.running() == []


def test_a_report_can_be_a_log_of_the_step(site: SiteInside) -> None:
    build = site.force(
        [*JOB, "0", "double_fork_daemon"], run_options=["--report", "report.txt"], logfiles={"report": "report.txt"}
    )
    assert build.result() == SUCCESS
    assert re.search(r"stopped|left", build.log("report")), build.logs()


def test_steps_of_other_kinds_are_contained_by_the_mix_in(site: SiteInside) -> None:
    build = site.force(kind="others")
    assert build.result() == SUCCESS, build.logs()
    logs = build.logs()
    for name in ("stdio", "first", "second"):
        assert "eallgone: stopped 1 process that the command left behind: " in logs[name], logs
    assert "said: '/bin/sh said'" in logs["property changes"]


def test_what_is_wrong_with_the_options_is_in_the_log(site: SiteInside) -> None:
    build = site.force(["true"], run_options=["--timeout", "soon"])
    assert build.result() == FAILURE
    assert "eallgone: " in build.log()
    assert "soon" in build.log()


def test_options_in_one_string_are_an_error_of_the_configuration(site: SiteInside) -> None:
    code = "from allgone.contrib.buildbot import ShellCommand; ShellCommand(command='true', run_options='--timeout 5m')"
    done = site.inside.run(f"{BIN}/python", "-c", code, check=False)
    assert "run_options must be a list, not '--timeout 5m'" in done.stderr


def test_the_step_is_called_as_its_own_command(site: SiteInside) -> None:
    build = site.force(["sh", "-c", "exit 0"])
    assert build.result() == SUCCESS
    assert "'sh -c ...'" in [each["state_string"] for each in build.steps()]


def test_the_examples_of_the_page_are_a_configuration(site: SiteInside) -> None:
    code = "from buildbot.plugins import steps, util\nfactory = util.BuildFactory()\n"
    code += "".join(each.text for each in pages.blocks(PAGE) if each.language == "python")
    done = site.inside.run(
        f"{BIN}/python", "-W", "error::DeprecationWarning:allgone", "-c", code + "print(len(factory.steps))"
    )
    assert done.stdout == "6\n"


def test_where_no_cgroup_can_be_had_a_step_fails_and_says_why(undelegated: SiteInside) -> None:
    build = undelegated.force(["echo", "ran"])
    assert build.result() == FAILURE
    assert "oran\n" not in build.log()
    assert "eallgone: " in build.log()
    assert "Delegate=yes" in build.log()
