"""The same under a real terminal emulator: a window of tmux."""

from __future__ import annotations

import re
import shlex

from cli.command import Allgone, tells_signals
from cli.screen import PROMPT, Tmux


def prompts(screen: str) -> int:
    return len(re.findall(f"^{PROMPT}", screen + " ", re.MULTILINE))


def test_ctrl_c_ctrl_z_fg_and_size(allgone: Allgone, tmux: Tmux) -> None:
    line = shlex.join(allgone.args(*tells_signals("end=QUIT")))
    tmux.keys("-l", line)
    tmux.keys("Enter")
    tmux.expect(lambda screen: "ready" in screen, "the start")
    tmux.keys("C-c")
    tmux.expect(lambda screen: screen.count("SIGINT") == 1, "SIGINT")
    tmux.keys("C-z")
    tmux.expect(lambda screen: "Stopped" in screen and prompts(screen) == 2, "the stop")
    tmux.keys("fg", "Enter")
    tmux.expect(lambda screen: screen.count("allgone run") >= 3, "fg")
    tmux.resize(100, 40)
    tmux.expect(lambda screen: screen.count("SIGWINCH") == 1, "SIGWINCH")
    tmux.keys("C-\\")
    screen = tmux.expect(lambda screen: "SIGQUIT" in screen and prompts(screen) == 3, "the end")
    assert [screen.count(name) for name in ("SIGINT", "SIGWINCH", "SIGQUIT")] == [1, 1, 1]


def test_an_interactive_shell_leaves_nothing_behind(allgone: Allgone, tmux: Tmux) -> None:
    tmux.keys("-l", shlex.join(allgone.args("bash", "--norc", "--noprofile", "-i")))
    tmux.keys("Enter")
    tmux.keys("-l", "PS1='inn''er> '")
    tmux.keys("Enter")
    tmux.expect(lambda screen: screen.endswith("inner>"), "the inner prompt")
    tmux.keys("-l", "setsid sleep 1000 & sleep 1000 & sh -c 'echo runni''ng; exec sleep 1000'")
    tmux.keys("Enter")
    tmux.expect(lambda screen: "\nrunning" in screen, "the job in the foreground")
    tmux.keys("C-z")
    tmux.expect(lambda screen: "Stopped" in screen, "the inner stop")
    tmux.keys("exit", "Enter")
    tmux.expect(lambda screen: "There are stopped jobs." in screen, "bash's objection")
    tmux.keys("exit", "Enter")
    screen = tmux.expect(lambda screen: prompts(screen) == 2, "the outer prompt")
    assert "allgone: stopped " in screen
