"""Terminals for tests: an interactive bash under a pty, and one in a tmux window."""

from __future__ import annotations

import fcntl
import os
import re
import select
import shlex
import struct
import subprocess
import tempfile
import termios
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from support.programs import PATIENCE

from cli.command import WITH_DEFAULT_SIGNALS, end

PROMPT = "prompt> "
SHELL = (*WITH_DEFAULT_SIGNALS, "bash", "--norc", "--noprofile", "-i")
# PS1 is set by a command, in two parts, so that its echo is no prompt; not exported, so that an inner shell has another.
SET_UP = "bind 'set enable-bracketed-paste off' 2>/dev/null; export -n PS1; PS1='prompt''> '; HISTFILE=\n"


def environment() -> dict[str, str]:
    return {**os.environ, "TERM": "dumb", "PS1": "", "BASH_SILENCE_DEPRECATION_WARNING": "1"}


class Pty:
    """The master's side: `type()`, `expect()`. Leaving the block hangs up."""

    def __init__(self) -> None:
        self.master, slave = os.openpty()
        self._screen = ""
        self._seen = 0
        try:
            self.resize(24, 1000)  # no line is wrapped
            # setsid -c: the pty becomes the controlling terminal of a new session.
            self.shell = subprocess.Popen(
                ["setsid", "-c", *SHELL], stdin=slave, stdout=slave, stderr=slave, env=environment()
            )
        except BaseException:
            os.close(self.master)
            raise
        finally:
            os.close(slave)

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, keys: str) -> None:
        os.write(self.master, keys.encode())

    def expect(self, pattern: str, seconds: float = PATIENCE) -> re.Match[str]:
        """Wait until `pattern` appears behind what was found last."""
        deadline = time.monotonic() + seconds
        while (found := re.search(pattern, self._screen[self._seen :])) is None:
            if not select.select([self.master], [], [], max(0.0, deadline - time.monotonic()))[0]:
                raise AssertionError(f"no {pattern!r} within {seconds} s; the screen:\n{self._screen}")
            try:
                self._screen += os.read(self.master, 65536).decode("utf-8", "replace").replace("\r", "")
            except OSError as e:  # EIO: nobody has the other side open any more
                raise AssertionError(f"hung up before {pattern!r}; the screen:\n{self._screen}") from e
        self._seen += found.end()
        return found

    def command(self, *words: str) -> None:
        """Type a command line; its echo is read away."""
        line = shlex.join(words)
        self.type(line + "\n")
        self.expect(re.escape(line) + "\n")

    def status(self) -> int:
        """Of the last command; the shell must be at its prompt, or about to be."""
        self.type("echo st''atus=$?\n")
        return int(self.expect(r"status=(\d+)\n")[1])

    def hang_up(self) -> None:
        master, self.master = self.master, -1
        if master >= 0:
            os.close(master)

    def __enter__(self) -> Pty:
        self.type(SET_UP)
        self.expect(PROMPT)
        return self

    def __exit__(self, kind: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None) -> None:
        self.hang_up()
        try:
            self.shell.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            end(self.shell)
            raise
        finally:
            self.shell.wait()


class Tmux:
    """One window of a server of our own."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="allgone-tmux-")
        self._socket = str(Path(self._folder.name, "socket"))
        self._run("-f", "/dev/null", "new-session", "-d", "-x", "80", "-y", "24", *SHELL)

    def _run(self, *words: str) -> str:
        done = subprocess.run(
            ["tmux", "-S", self._socket, *words], env=environment(), stdout=subprocess.PIPE, text=True, check=True
        )
        return done.stdout

    def keys(self, *keys: str) -> None:
        """As ``tmux send-keys`` reads them: C-c, Enter, text."""
        self._run("send-keys", *keys)

    def screen(self) -> str:
        return self._run("capture-pane", "-p", "-J", "-S", "-").rstrip()

    def resize(self, columns: int, rows: int) -> None:
        self._run("resize-window", "-x", str(columns), "-y", str(rows))

    def expect(self, true_of: Callable[[str], object], what: str) -> str:
        """Wait until the screen is as it should be. tmux has no event for that, so look again and again."""
        deadline = time.monotonic() + PATIENCE
        while not true_of(screen := self.screen()):
            assert time.monotonic() < deadline, f"{what}: not within {PATIENCE} s; the screen:\n{screen}"
            select.select([], [], [], 0.02)
        return screen

    def __enter__(self) -> Tmux:
        try:
            self.keys("-l", SET_UP)
            self.keys("clear", "Enter")
            self.expect(lambda screen: screen == PROMPT.rstrip(), "a prompt on a clear screen")
        except BaseException:
            self.close()
            raise
        return self

    def close(self) -> None:
        subprocess.run(["tmux", "-S", self._socket, "kill-server"], check=False)
        self._folder.cleanup()

    def __exit__(self, kind: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None) -> None:
        self.close()
