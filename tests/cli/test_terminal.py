"""Under a terminal, the command is where it would be without allgone: Ctrl-C, Ctrl-Z, fg, jobs and sizes work."""

from __future__ import annotations

import os
import shlex
import signal

from support import procfs

from cli.command import ALLGONE, Allgone, tells_signals, wait_for_state, wait_until_watching
from cli.screen import PROMPT, Pty

CTRL_C, CTRL_D, CTRL_Z, CTRL_BACKSLASH = "\x03", "\x04", "\x1a", "\x1c"


def parent(pid: int) -> int:
    with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as f:
        return int(f.read().rsplit(")", 1)[1].split()[1])


def start_telling(terminal: Pty, allgone: Allgone, *options: str) -> tuple[int, int]:
    """(pid of allgone, pid of a command that tells its signals)"""
    terminal.command(*allgone.args(*tells_signals(), options=options))
    command = int(terminal.expect(r"ready (\d+)\n")[1])
    wait_until_watching(parent(command))
    return parent(command), command


def finish_telling(terminal: Pty, own: int) -> None:
    os.kill(own, signal.SIGUSR2)
    terminal.expect(r"SIGUSR2\n" + PROMPT)


def test_ctrl_c_is_one_sigint_for_the_command(allgone: Allgone, terminal: Pty) -> None:
    own, _ = start_telling(terminal, allgone)
    terminal.type(CTRL_C)
    terminal.expect("SIGINT\n")
    os.kill(own, signal.SIGUSR1)  # would come after a second SIGINT
    terminal.expect(r"^SIGUSR1\n")
    terminal.type(CTRL_BACKSLASH)
    terminal.expect("SIGQUIT\n")
    os.kill(own, signal.SIGUSR1)
    terminal.expect(r"^SIGUSR1\n")
    finish_telling(terminal, own)
    assert terminal.status() == 0


def test_ctrl_c_is_a_matter_between_terminal_and_command(allgone: Allgone, terminal: Pty) -> None:
    """However often, and whatever time goes by: a shell or an editor goes on after it."""
    own, command = start_telling(terminal, allgone, "--timeout-stop=50ms")
    for _ in range(3):
        terminal.type(CTRL_C)
        terminal.expect("SIGINT\n")
    assert not procfs.ends_within(command, 0.2)
    finish_telling(terminal, own)
    assert terminal.status() == 0


def test_ctrl_c_ends_a_loop_of_the_shell_around_allgone(allgone: Allgone, terminal: Pty) -> None:
    """bash leaves a loop only if the command was *ended* by SIGINT: exit status 130 would not do."""
    words = allgone.args("sh", "-c", "echo run''ning; exec sleep 1000")
    terminal.type(f"for i in 1 2 3; do {shlex.join(words)}; done\n")
    terminal.expect("running\n")
    terminal.type(CTRL_C)
    terminal.expect(PROMPT)
    assert terminal.status() == 130


def test_ctrl_c_reaches_a_command_that_left_for_a_session_of_its_own(allgone: Allgone, terminal: Pty) -> None:
    terminal.command(*allgone.args("setsid", *tells_signals("end=INT")))
    terminal.expect("ready ")
    terminal.type(CTRL_C)
    terminal.expect("SIGINT\n" + PROMPT)
    assert terminal.status() == 0


def test_ctrl_z_stops_the_job_and_fg_continues_it(allgone: Allgone, terminal: Pty) -> None:
    terminal.command(*allgone.args("sh", "-c", "echo $$ ready; exec cat"))
    command = int(terminal.expect(r"(\d+) ready\n")[1])
    for round_ in ("first", "second", "third"):
        terminal.type(CTRL_Z)
        terminal.expect(r"Stopped .*\n" + PROMPT)
        wait_for_state(command, "T")
        wait_for_state(parent(command), "T")
        terminal.type("fg\n")
        terminal.expect("allgone run .*\n")
        terminal.type(f"{round_}\n")
        terminal.expect(f"{round_}\n{round_}\n")  # the terminal's echo, and cat
    terminal.type(CTRL_D)
    terminal.expect(PROMPT)
    assert terminal.status() == 0


def test_ctrl_z_does_nothing_to_a_command_that_ignores_it(allgone: Allgone, terminal: Pty) -> None:
    terminal.command(*allgone.args("sh", "-c", "trap '' TSTP; echo $$ ready; read line; echo got $line"))
    wait_until_watching(parent(int(terminal.expect(r"(\d+) ready\n")[1])))
    terminal.type(CTRL_Z + "this\n")
    terminal.expect("got this\n" + PROMPT)


def test_a_command_that_suspends_itself_suspends_the_job(allgone: Allgone, terminal: Pty) -> None:
    """As editors do after Ctrl-Z, once they have put the screen in order."""
    terminal.command(*allgone.args("sh", "-c", "kill -STOP $$; echo going on"))
    terminal.expect(r"Stopped .*\n" + PROMPT)
    terminal.type("fg\n")
    terminal.expect("\ngoing on\n" + PROMPT)
    assert terminal.status() == 0


def test_a_background_job_that_reads_is_stopped_and_goes_on_in_the_foreground(allgone: Allgone, terminal: Pty) -> None:
    terminal.type(shlex.join(allgone.args("sh", "-c", "echo $$ ready; read line; echo got $line")) + " &\n")
    command = int(terminal.expect(r"(\d+) ready\n")[1])
    wait_for_state(command, "T")
    wait_for_state(parent(command), "T")
    terminal.type("fg\n")
    terminal.expect("allgone run .*\n")
    terminal.type("this\n")
    terminal.expect("got this\n" + PROMPT)


def test_an_interactive_shell_has_job_control_and_can_be_suspended(allgone: Allgone, terminal: Pty) -> None:
    terminal.command(*allgone.args("bash", "--norc", "--noprofile", "-i"))
    terminal.type("bind 'set enable-bracketed-paste off' 2>/dev/null; PS1='inn''er> '\n")
    terminal.expect("\ninner> ")
    terminal.type("sh -c 'echo runni''ng; exec cat'\n")
    terminal.expect("\nrunning\n")
    terminal.type(CTRL_Z)
    terminal.expect(r"Stopped .*\n.*inner> ")
    terminal.type("fg\n")
    terminal.expect("\nsh -c .*\n")  # what is typed before that is still the shell's
    terminal.type("again\n")
    terminal.expect("again\nagain\n")
    terminal.type(CTRL_C)
    terminal.expect("inner> ")
    for _ in range(2):
        terminal.type("suspend\n")
        terminal.expect(r"Stopped .*\n" + PROMPT)
        terminal.type("fg\n")
        terminal.expect("allgone run .*\n")
        terminal.type("echo he''re\n")
        terminal.expect("here\n.*inner> ")
    terminal.type("sleep 1000 & exit 6\n")
    terminal.expect(r"allgone: stopped 1 process that the command left behind: (sleep|bash) \(pid \d+\)\n" + PROMPT)
    assert terminal.status() == 6


def test_the_size_is_the_terminals_and_a_change_is_told_once(allgone: Allgone, terminal: Pty) -> None:
    terminal.command(*allgone.args("stty", "size"))
    terminal.expect("24 1000\n" + PROMPT)
    own, _ = start_telling(terminal, allgone)
    terminal.resize(30, 900)
    terminal.expect("SIGWINCH\n")
    os.kill(own, signal.SIGUSR1)
    terminal.expect(r"^SIGUSR1\n")
    finish_telling(terminal, own)
    terminal.command(*allgone.args("stty", "size"))
    terminal.expect("30 900\n" + PROMPT)


def test_the_command_keeps_session_and_process_group(allgone: Allgone, terminal: Pty) -> None:
    own, command = start_telling(terminal, allgone)
    assert os.getpgid(command) == os.getpgid(own) == own
    assert os.getsid(command) == os.getsid(own) == terminal.shell.pid
    finish_telling(terminal, own)


def test_when_the_terminal_is_gone_all_is_gone_though_the_command_ignores_sighup(
    allgone: Allgone, terminal: Pty
) -> None:
    script = "trap '' HUP; echo $$ ready; while :; do sleep 0.1; done"
    terminal.command(*allgone.args("sh", "-c", script, options=["--timeout-stop=100ms"]))
    command = int(terminal.expect(r"(\d+) ready\n")[1])
    own = parent(command)
    terminal.hang_up()
    assert procfs.ends_within(own, 10)
    assert not procfs.is_alive(command)


def test_nohup_and_its_command_outlive_the_terminal(allgone: Allgone, terminal: Pty) -> None:
    words = [
        "nohup",
        *allgone.args("sh", "-c", "echo $$ ready >/dev/tty; sleep 1000", options=["--timeout-stop=100ms"]),
    ]
    terminal.type(shlex.join(words) + " </dev/null >/dev/null &\n")
    command = int(terminal.expect(r"(\d+) ready\n")[1])
    own = parent(command)
    terminal.hang_up()
    assert terminal.shell.wait(10) is not None
    assert not procfs.ends_within(own, 0.3)
    assert procfs.is_alive(command)
    os.kill(own, signal.SIGTERM)
    assert procfs.ends_within(own, 10)


def test_after_a_time_out_the_terminal_is_as_it_was(allgone: Allgone, terminal: Pty) -> None:
    """A program that was killed did not put it in order; and an interactive shell still had the foreground."""
    terminal.type("stty -g\n")
    before = terminal.expect(r"\n([0-9a-f:]{30,})\n")[1]
    terminal.command(*allgone.args("sh", "-c", "stty raw -echo; exec sleep 1000", options=["--timeout=500ms"]))
    terminal.expect(r"time-out after 500ms: stopped sleep \(pid \d+\)\n")
    terminal.expect(PROMPT)
    terminal.type("stty -g\n")
    assert terminal.expect(r"\n([0-9a-f:]{30,})\n")[1] == before
    inner = shlex.join(
        allgone.args("bash", "--norc", "--noprofile", "-i", options=["--timeout=1s", "--timeout-stop=0"])
    )
    terminal.command("sh", "-c", f"{inner}; read line; echo got $line")
    terminal.expect("time-out after 1s: stopped bash .*\n")
    terminal.type("this\n")
    terminal.expect("got this\n")


def test_nested_ctrl_c_is_still_one_sigint(allgone: Allgone, terminal: Pty) -> None:
    terminal.command(*allgone.args(*ALLGONE, "run", "--", *tells_signals()))
    command = int(terminal.expect(r"ready (\d+)\n")[1])
    wait_until_watching(parent(command))
    wait_until_watching(parent(parent(command)))
    terminal.type(CTRL_C)
    terminal.expect("SIGINT\n")
    os.kill(parent(parent(command)), signal.SIGUSR1)
    terminal.expect(r"^SIGUSR1\n")
    terminal.type(CTRL_Z)
    terminal.expect(r"Stopped .*\n" + PROMPT)
    terminal.type("fg\n")
    terminal.expect("allgone run .*\n")
    os.kill(parent(parent(command)), signal.SIGUSR2)
    terminal.expect(r"SIGUSR2\n" + PROMPT)
    assert terminal.status() == 0
