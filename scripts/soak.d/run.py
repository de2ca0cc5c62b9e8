"""One supervisor from its start to its end, as the soak sees it."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import truth
from ground import Room

_SUPERVISOR = str(Path(__file__).with_name("supervisor.py"))
# How a supervisor comes to its end: at the end of its stdin, by a signal, with its guard or after it.
FATES = {"end": 4, "term": 2, "int": 2, "kill": 5, "guard": 2, "guard, later kill": 2, "both": 3}
_FATES_WITH_SYSTEMD = {"unit": 2}
_LAST_OPERATIONS = 25
# What systemd-run says, where systemd was re-executed just then.
_REEXECUTED = (
    "Failed to wait for response: ",
    "Failed to start transient scope unit: ",
    "Warning! D-Bus connection terminated.",
)


def chosen_fate(chance: random.Random, *, systemd: bool) -> str:
    weights = FATES | (_FATES_WITH_SYSTEMD if systemd else {})
    return chance.choices(list(weights), list(weights.values()))[0]


class Run:
    """`fate`: one of FATES; "" for one that lives on."""

    def __init__(self, room: Room, kind: str, fate: str, seed: str, sabotage: str = "") -> None:
        self.room = room
        self.kind = kind
        self.fate = fate
        self.seed = seed
        self.is_up = False
        self.has_answered = False
        self.guard_was_killed = False
        self.was_ended = False  # by the soak
        self.done: Counter[str] = Counter()
        self.escapees = 0
        words = [sys.executable, _SUPERVISOR, kind, seed, room.files, "short" if fate else "long"]
        self.process = room.start([*words, *([sabotage] if sabotage else [])], delegated=kind == "delegated")

    def __str__(self) -> str:
        return f"{self.room.name} ({self.kind}, {self.fate or 'long-lived'}, seed {self.seed})"

    def fileno(self) -> int:
        assert self.process.stdout is not None
        return self.process.stdout.fileno()

    def listen(self) -> bool:
        """Take what it says, which is there; False at its end."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if line == "up\n":
            self.is_up = True
        elif line.endswith("\n"):
            answer = json.loads(line)
            self.done += Counter(answer["done"])
            self.escapees += answer["escapees"]
            self.has_answered = True
        else:  # killed in the middle of a line, or before
            return False
        return True

    def tell(self, words: str) -> None:
        assert self.process.stdin is not None
        self.has_answered = False
        try:
            self.process.stdin.write(words + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # it has ended, which its stdout says as well

    def hang_up(self) -> None:
        """The end of its stdin: it ends, when what it does is done."""
        assert self.process.stdin is not None
        self.was_ended = True
        self.process.stdin.close()

    def send(self, signum: int) -> None:
        self.was_ended |= signum not in (signal.SIGSTOP, signal.SIGCONT)
        self.process.send_signal(signum)

    def send_guards(self, signum: int) -> int:
        """To its guard, and those of supervisors below it; how many there were."""
        sent = [truth.send(pid, self.room.folder, signum, "allgone-guard") for pid in truth.guards(self.room.folder)]
        self.guard_was_killed |= signum == signal.SIGKILL and any(sent)
        return sum(sent)

    def ends(self, seconds: float) -> bool:
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def error(self) -> str:
        """What it died of, other than what the soak did to it; "" if nothing."""
        status = self.process.returncode
        said = self._text("errors")
        if not self.is_up and said.startswith(_REEXECUTED):
            return ""
        ways = {"term": "SystemExit", "unit": "SystemExit", "int": "KeyboardInterrupt"}
        if self.was_ended and (status in (0, -9, -15, 143, -2, 130) or ways.get(self.fate, "\0") in said):
            return ""
        return f"it ended with status {status}:\n{said[-3000:]}"

    def escaped(self) -> set[int]:
        """The pids of daemons that a process group can't hold."""
        return {int(each.read_text()) for each in Path(self.room.files).glob("escaped-*") if each.stat().st_size}

    def last_operations(self) -> list[str]:
        return self._text("journal").splitlines()[-_LAST_OPERATIONS:]

    def started(self) -> int:
        """Operations that it has begun, as far as it has not told."""
        return self._text("journal").count("begin ")

    def _text(self, name: str) -> str:
        try:
            return Path(self.room.files, name).read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return ""

    def close(self) -> None:
        """Raises TimeoutError where something of it can't be ended."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
        self.room.close()
        self.process.wait()
        for each in (self.process.stdin, self.process.stdout):
            if each is not None:
                try:
                    each.close()
                except BrokenPipeError:
                    pass  # something it did not live to read
