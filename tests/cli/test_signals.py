"""Without a terminal: signals sent to `allgone run` reach the command once, and lead to an end."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from support import procfs
from support.programs import PATIENCE

from cli.command import (
    ALLGONE,
    WITH_DEFAULT_SIGNALS,
    Allgone,
    held,
    lines,
    tells_signals,
    wait_for_state,
    wait_until_watching,
)


@pytest.mark.parametrize("name", ["SIGHUP", "SIGINT", "SIGQUIT", "SIGTERM", "SIGUSR1", "SIGUSR2", "SIGWINCH"])
def test_is_passed_on_to_the_command_once(allgone: Allgone, name: str) -> None:
    with allgone.started(*tells_signals()) as process:
        lines(process.stdout, 1)
        wait_until_watching(process.pid)
        process.send_signal(getattr(signal, name))
        if name != "SIGUSR2":
            assert lines(process.stdout, 1) == [name]
            process.send_signal(signal.SIGUSR2)
        assert process.communicate(timeout=PATIENCE) == ("SIGUSR2\n", "")
        assert process.returncode == 0


def test_reaches_the_command_and_not_what_it_started(allgone: Allgone) -> None:
    with allgone.started(*tells_signals("beside")) as process:
        beside = int(lines(process.stdout, 2)[0].split()[1])
        process.send_signal(signal.SIGTERM)
        assert lines(process.stdout, 1) == ["SIGTERM"]
        assert procfs.is_alive(beside)
        process.send_signal(signal.SIGUSR2)
        assert process.wait(PATIENCE) == 0
        assert not procfs.is_alive(beside)


def test_after_sigterm_the_command_has_time_for_an_end_of_its_own(allgone: Allgone) -> None:
    with allgone.started(*tells_signals("end=TERM", "linger=0.3")) as process:
        lines(process.stdout, 1)
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 0


def test_a_command_that_ends_by_sigterm_ends_allgone_by_sigterm(allgone: Allgone) -> None:
    with allgone.started("sh", "-c", "echo ready; exec sleep 1000") as process:
        lines(process.stdout, 1)
        process.send_signal(signal.SIGTERM)
        assert process.communicate(timeout=PATIENCE)[1] == ""
        assert process.returncode == -signal.SIGTERM


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_a_second_request_stops_the_tree(allgone: Allgone, second: signal.Signals) -> None:
    options = ["--kill-signal=KILL", "--timeout-stop=1h"]
    with allgone.started(*tells_signals("beside"), options=options) as process:
        beside = int(lines(process.stdout, 2)[0].split()[1])
        process.send_signal(signal.SIGTERM)
        assert lines(process.stdout, 1) == ["SIGTERM"]
        time.sleep(0.11)  # a second one within 0.1 s is taken for the same request
        process.send_signal(second)
        said = process.communicate(timeout=PATIENCE)[1]
        assert said.startswith(f"allgone: stopped the command, for {second.name} came again: ")
        assert f"sleep (pid {beside})" in said
        assert process.returncode == -signal.SIGKILL


def test_the_third_does_not_wait_for_timeout_stop(allgone: Allgone) -> None:
    with allgone.started(*tells_signals(), options=["--timeout-stop=1h"]) as process:
        lines(process.stdout, 1)
        for _ in range(2):
            process.send_signal(signal.SIGTERM)  # the second is passed on by the stop, to all
            assert lines(process.stdout, 1) == ["SIGTERM"]
            time.sleep(0.11)
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == -signal.SIGKILL


def test_timeout_stop_after_sigterm_the_tree_is_stopped(allgone: Allgone) -> None:
    with allgone.started(*tells_signals("beside"), options=["--timeout-stop=150ms"]) as process:
        lines(process.stdout, 2)
        process.send_signal(signal.SIGTERM)
        said = process.communicate(timeout=PATIENCE)[1]
        assert said.startswith("allgone: stopped the command, for it did not end within 150ms of SIGTERM: python")
        assert process.returncode == -signal.SIGKILL


@pytest.mark.parametrize("name", ["SIGHUP", "SIGQUIT", "SIGUSR1"])
def test_what_may_mean_anything_does_not_lead_to_a_stop(allgone: Allgone, name: str) -> None:
    """SIGHUP reloads a daemon, SIGQUIT makes a JVM dump its threads."""
    with allgone.started(*tells_signals(), options=["--timeout-stop=50ms"]) as process:
        lines(process.stdout, 1)
        for _ in range(3):
            process.send_signal(getattr(signal, name))
            assert lines(process.stdout, 1) == [name]
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.2)
        process.send_signal(signal.SIGUSR2)
        assert process.wait(PATIENCE) == 0


def test_timeout_1_sends_it_twice_and_that_is_one_request(allgone: Allgone) -> None:
    """It signals its child, then its whole group; the command gets to end in its own time all the same."""
    command = allgone.args(*tells_signals("end=TERM", "linger=0.3"))
    args = [*WITH_DEFAULT_SIGNALS, "timeout", "--kill-after=20", "1000", *command]
    with subprocess.Popen(
        args, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        lines(process.stdout, 1)
        process.send_signal(signal.SIGTERM)  # to timeout(1): the same as when its time is up
        assert process.communicate(timeout=PATIENCE) == ("SIGTERM\n", "")


def test_kill_0_by_a_script_reaches_each_process_of_its_group_once(allgone: Allgone) -> None:
    """The cgroup backend leaves the command in allgone's process group, so allgone gets it, too."""
    script = "trap 'count=$((count + 1))' USR1; echo ready; read line; kill -USR1 0; echo sent; read line; echo $count"
    with allgone.started("sh", "-c", script, stdin=subprocess.PIPE, start_new_session=True) as process:
        assert process.stdin is not None
        lines(process.stdout, 1)
        wait_until_watching(process.pid)
        process.stdin.write("\n")
        process.stdin.flush()
        lines(process.stdout, 1)
        assert process.communicate("\n", timeout=PATIENCE) == ("1\n", "")


def test_a_command_that_signals_its_group_at_once_is_still_the_leader(allgone: Allgone) -> None:
    """Not its launcher, which may be in that group for a moment more. (Being so early it may get it twice.)"""
    for _ in range(5):
        done = allgone.run("sh", "-c", "trap 'got=1' USR1; kill -USR1 0; exit $((got + 1))", start_new_session=True)
        assert (done.returncode, done.stderr) == (2, "")


def test_nohup_stays_in_force_for_the_command_too(allgone: Allgone) -> None:
    args = [*WITH_DEFAULT_SIGNALS, "nohup", *allgone.args(*tells_signals())]
    with subprocess.Popen(
        args, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        command = int(lines(process.stdout, 1)[0].split()[1])
        for pid in (process.pid, command):
            os.kill(pid, signal.SIGHUP)
        process.send_signal(signal.SIGUSR2)
        assert process.communicate(timeout=PATIENCE)[0] == "SIGUSR2\n"
        assert process.returncode == 0


def test_the_command_gets_no_blocked_signals_and_default_dispositions(allgone: Allgone) -> None:
    status = "grep -E '^Sig(Blk|Ign|Cgt)' /proc/self/status"
    bare = subprocess.run(["sh", "-c", status], stdout=subprocess.PIPE, text=True, check=True)
    assert allgone.run("sh", "-c", status).stdout == bare.stdout


def test_sigterm_before_the_command_is_started_starts_nothing(allgone: Allgone) -> None:
    """Held in the choice of the backend, which comes first."""
    with held("allgone._backends.choose", "backend", allgone, "echo", "started") as process:
        process.send_signal(signal.SIGTERM)
        assert process.communicate("\n", timeout=PATIENCE)[0] == ""
        assert process.returncode == -signal.SIGTERM


def test_sigterm_while_the_command_is_being_started_reaches_it(allgone: Allgone) -> None:
    """Held between fork and the return of Popen, where signals are not yet blocked."""
    with held("allgone._process.popen:Popen", "_adopt", allgone, "sleep", "1000") as process:
        process.send_signal(signal.SIGTERM)
        process.communicate("\n", timeout=PATIENCE)
        assert process.returncode == -signal.SIGTERM


def test_nested_sigterm_ends_all(allgone: Allgone) -> None:
    inner = [*ALLGONE, "run", "--", *tells_signals("end=TERM", "linger=0.1")]
    with allgone.started(*inner) as process:
        lines(process.stdout, 1)
        process.send_signal(signal.SIGTERM)
        assert process.communicate(timeout=PATIENCE) == ("SIGTERM\n", "")
        assert process.returncode == 0


def test_kill_tstp_stops_the_command_and_kill_cont_continues_it(allgone: Allgone) -> None:
    # In a group of its own: the kernel drops SIGTSTP in an orphaned one, as that of the tests may be (setpgid(2)).
    script = "echo $$; read line; echo end"
    with allgone.started("sh", "-c", script, stdin=subprocess.PIPE, preexec_fn=os.setpgrp) as process:
        command = int(lines(process.stdout, 1)[0])
        wait_until_watching(process.pid)
        process.send_signal(signal.SIGTSTP)
        wait_for_state(command, "T")
        process.send_signal(signal.SIGCONT)
        assert process.communicate("\n", timeout=PATIENCE)[0] == "end\n"


def test_a_stopped_command_does_not_keep_the_time_limit_from_working(allgone: Allgone) -> None:
    done = allgone.run("sh", "-c", "kill -STOP $$", options=["--timeout", "200ms"])
    assert done.returncode == 124


def test_orphans_that_end_while_the_command_runs_do_not_stay_as_zombies(allgone: Allgone, tmp_path: Path) -> None:
    script = "mkfifo end; (sh -c 'echo $$; read line <end' &); read line"
    with allgone.started("sh", "-c", script, stdin=subprocess.PIPE, cwd=tmp_path) as process:
        orphan = int(lines(process.stdout, 1)[0])
        (tmp_path / "end").write_text("now\n")
        wait_for_state(orphan, "")
        assert process.poll() is None
        assert process.communicate("\n", timeout=PATIENCE) == ("", "")
