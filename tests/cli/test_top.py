"""`allgone top` on a real terminal."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator

import pytest
from support.programs import command

from cli.command import ALLGONE, Allgone, lines
from cli.screen import PROMPT, Tmux

DEAF = ("sh", "-c", "trap '' TERM; echo ready; sleep 1000; sleep 1000; sleep 1000")


@pytest.fixture
def screen(tmux: Tmux) -> Iterator[Tmux]:
    tmux.resize(160, 40)
    yield tmux
    tmux.keys("q")
    tmux.expect(lambda text: text.rstrip().endswith(PROMPT.rstrip()), "the prompt is back")


def watch(screen: Tmux, *options: str) -> None:
    # The terminal of the other tests can do nothing.
    screen.keys("-l", f"clear; TERM=screen-256color {' '.join([*ALLGONE, 'top', '--interval=200ms', *options])}")
    screen.keys("Enter")
    screen.expect(lambda text: "Quit" in text, "the footer")


def row(text: str, name: str) -> str:
    """Of the table; below it is where the containment is."""
    return next((line for line in text.splitlines() if re.match(rf"\s*[^/\s]+/{name} ", line)), "")


def test_it_shows_containments_and_what_is_in_them(allgone: Allgone, screen: Tmux) -> None:
    listens = command("listens", "tcp", "127.0.0.1", "0")
    name = f"shown-{os.getpid()}"
    with allgone.started(*listens, options=["--name", name]) as process:
        assert lines(process.stdout, 1) == ["ready"]
        watch(screen, name)
        text = screen.expect(
            lambda text: re.search(r"listens on tcp 127\.0\.0\.1:\d+", text) and row(text, name), "the row, its ports"
        )
        assert re.search(rf"/{name} +live +2 ", row(text, name))
        assert text.count("listens.py tcp 127.0.0.1 0") >= 2  # the tree
        assert "1 containments, 2 processes" in text
    screen.expect(lambda text: not row(text, name), "it is gone from the screen when it ends")


def test_k_kills_and_s_stops_after_a_question(allgone: Allgone, screen: Tmux) -> None:
    name = f"ended-{os.getpid()}"
    with allgone.started(*DEAF, options=["--name", name]) as process:
        assert lines(process.stdout, 1) == ["ready"]
        watch(screen, name)
        screen.expect(lambda text: row(text, name), "the row")
        screen.keys("k")
        screen.expect(lambda text: re.search(rf"Kill \S*{name}\?", text), "the question")
        screen.keys("n")
        screen.expect(lambda text: "(y/n)" not in text, "no question any more")
        assert process.poll() is None
        screen.keys("k")
        screen.expect(lambda text: "(y/n)" in text, "the question again")
        screen.keys("y")
        screen.expect(lambda text: not row(text, name), "the row is gone")
        assert process.wait(20) == -9
    with allgone.started("sh", "-c", "trap 'exit 7' TERM; echo ready; while :; do sleep 0.1; done", options=["--name", name]) as process:  # fmt: skip
        assert lines(process.stdout, 1) == ["ready"]
        screen.expect(lambda text: row(text, name), "the row")
        screen.keys("s")
        screen.expect(lambda text: re.search(rf"Stop \S*{name}\?", text), "the question")
        screen.keys("y")
        assert process.wait(20) == 7


def test_f_freezes_and_thaws(allgone: Allgone, screen: Tmux) -> None:
    name = f"frozen-{os.getpid()}"
    with allgone.started("sh", "-c", "echo ready; cat; echo over", options=["--name", name], stdin=subprocess.PIPE) as process:  # fmt: skip
        assert lines(process.stdout, 1) == ["ready"]
        watch(screen, name)
        screen.expect(lambda text: row(text, name), "the row")
        screen.keys("f")
        if allgone.backend == "process-group":
            screen.expect(lambda text: "is a process group" in text, "why not")
        else:
            screen.expect(lambda text: " frozen " in row(text, name), "it is frozen")
            screen.keys("f")
            screen.expect(lambda text: " live " in row(text, name), "it goes on")
        process.stdin.close()
        assert process.stdout.read() == "over\n"


def test_names_that_mean_harm_are_text(allgone: Allgone, screen: Tmux) -> None:
    name = f"hostile-{os.getpid()}"
    code = "import sys; print('ready', flush=True); sys.stdin.read()"
    words = (sys.executable, "-c", code, "[red]\x1b[31m\x1b]0;title\x07\u202e[/red][bold")
    with allgone.started(*words, options=["--name", name], stdin=subprocess.PIPE) as process:
        assert lines(process.stdout, 1) == ["ready"]
        watch(screen, name)
        screen.expect(lambda text: text.count("[red]?[31m?]0;title??[/red][bold") >= 1, "the command as it is")


def test_nobody_there_is_an_empty_screen(screen: Tmux) -> None:
    watch(screen, "nobody-is-called-so")
    screen.expect(lambda text: "0 containments, 0 processes" in text, "an empty list")
    screen.keys("k", "s", "f")
    screen.expect(lambda text: "0 containments" in text, "keys have nothing to do")


def test_without_textual_it_says_what_to_install() -> None:
    code = "import sys; sys.modules['textual'] = None; from allgone.cli import main; sys.exit(main(['top']))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 125
    assert "pip install 'allgone[top]'" in done.stderr
