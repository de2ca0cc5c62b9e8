"""``console`` blocks: commands after ``$``, and what they print."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

TIMEOUT = 60  # seconds for one command
_NUMBER = re.compile(r"\d+(?:\.\d+)?")


@dataclass(frozen=True)
class Step:
    """A command, and the lines shown below it (none: whatever it prints will do)."""

    command: str
    shown: str


def steps(text: str) -> list[Step]:
    """``$ command`` (going on below after a backslash, with ``> ``), followed by its output."""
    found: list[Step] = []
    for line in text.splitlines():
        if line.startswith("$ "):
            found.append(Step(line[2:], ""))
        elif not found:
            raise ValueError(f"a console block must begin with a command, not {line!r}")
        elif line.startswith("> ") and not found[-1].shown:
            found[-1] = Step(f"{found[-1].command}\n{line[2:]}", "")
        else:
            found[-1] = Step(found[-1].command, found[-1].shown + line + "\n")
    return found


@dataclass(frozen=True)
class Varying:
    """What may be otherwise than shown: numbers, and which of these names stands where one of them does."""

    numbers: bool = False
    names: tuple[str, ...] = ()

    def pattern(self, text: str) -> str:
        """What a text without ``…`` must match."""
        parts = []
        for part in re.split(rf"({_NUMBER.pattern}|[A-Za-z]+)", text):
            if part in self.names:
                parts.append(f"(?:{'|'.join(map(re.escape, self.names))})")
            elif self.numbers and _NUMBER.fullmatch(part):
                parts.append(f"(?:{_NUMBER.pattern})")
            else:
                parts.append(re.escape(part))
        return "".join(parts)


def pattern(shown: str, varying: Varying) -> re.Pattern[str]:
    """What output must match: ``…`` stands for anything in its line, alone in a line for any lines; blanks at ends of
    lines and how many there are between words do not matter."""
    lines = []
    for line in shown.splitlines():
        if line.strip() == "…":
            lines.append(r"(?:.*\n)*?")
            continue
        words = [".*?".join(map(varying.pattern, word.split("…"))) for word in line.split()]
        lines.append(r"[ \t]*" + r"[ \t]+".join(words) + r"[ \t]*\n")
    return re.compile("".join(lines))


def run(step: Step, folder: Path, environment: dict[str, str], varying: Varying) -> None:
    """Run it; AssertionError unless it succeeds and prints what is shown."""
    done = subprocess.run(
        ["bash", "-c", step.command],
        cwd=folder, env=environment, timeout=TIMEOUT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, check=False,
    )  # fmt: skip
    said = f"$ {step.command}\n{done.stdout}"
    assert done.returncode == 0, f"{said}exit status {done.returncode}"
    if step.shown:
        printed = done.stdout if done.stdout.endswith("\n") else done.stdout + "\n"
        wanted = pattern(step.shown, varying)
        assert wanted.fullmatch(printed), f"{said}-- but the page shows:\n{step.shown}"
