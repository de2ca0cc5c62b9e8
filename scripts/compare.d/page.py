"""What was measured, as a table for people, and in docs/comparison.md."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).parents[2]
PAGE = CHECKOUT / "docs" / "comparison.md"
BEGIN, END = "<!-- begin: made by scripts/compare --write -->\n", "<!-- end -->\n"
HEAD = (
    "started and stopped by",
    "left when stopped",
    "port",
    "ms",
    "left when the foreman had crashed",
    "left when the supervisor was killed",
)
ALL = 5


def in_words(left: Sequence[str]) -> str:
    """`left` are roles of the server's processes."""
    if not left:
        return "nothing"
    if len(left) == ALL:
        return "all 5"
    workers = sum(each.startswith("worker") for each in left)
    named = [f"{workers} worker{'s' if workers > 1 else ''}"] if workers else []
    others = [each.removeprefix("daemonised ") for each in left if not each.startswith("worker")]
    return ", ".join([*named, *others])


def cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    if row["missing"]:
        return (row["way"], f"not here: {row['missing']}", "", "", "", "")
    return (
        row["way"],
        in_words(row["left_when_stopped"]),
        "free" if row["port_is_free"] else "taken",
        f"{row['milliseconds']:.0f}",
        in_words(row["left_when_foreman_crashed"]),
        in_words(row["left_when_supervisor_killed"]),
    )


def stamp(measured: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in measured["versions"].items())
    return (
        f"Linux {measured['kernel']}, {measured['cpus']} CPUs with a load of {measured['load']:.0f}, "
        f"Python {measured['python']}, {versions}; ms: the median of {measured['rounds']}."
    )


def for_people(measured: Mapping[str, Any]) -> str:
    rows = [HEAD, *(tuple(cell.replace("`", "") for cell in cells(row)) for row in measured["rows"])]
    widths = [max(len(row[n]) for row in rows if n != 1 or not row[1].startswith("not here")) for n in range(len(HEAD))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join(
        [
            f"As {measured['user']}. {stamp(measured)}",
            "",
            lines[0],
            "  ".join("-" * width for width in widths),
            *lines[1:],
        ]
    )


def for_the_page(measured: Mapping[str, Any]) -> str:
    rows = [row for row in measured["rows"] if not row["missing"]]
    lines = [" | ".join(each) for each in (HEAD, ["---"] * len(HEAD), *map(cells, rows))]
    table = "".join(f"| {line} |\n" for line in lines)
    missing = "".join(f"\n{row['way']} is not here: {row['missing']}.\n" for row in measured["rows"] if row["missing"])
    return f"{stamp(measured)}\n\n{table}{missing}"


def write(rounds: int) -> None:
    """Measure under a systemd, as root and as a user in a login session, and put it into the page."""
    with environment() as run:
        root = run("--", *_measuring(rounds))
        user = run("--user", "guest", "--", *_measuring(rounds))
    before, rest = PAGE.read_text(encoding="utf-8").split(BEGIN)
    after = rest.split(END)[1]
    made = f"\nMeasured on {date.today()}.\n\n### As root\n\n{for_the_page(json.loads(root))}\n"
    made += f"### As an ordinary user\n\n{for_the_page(json.loads(user))}\n"
    PAGE.write_text(before + BEGIN + made + END + after, encoding="utf-8")


def _measuring(rounds: int) -> list[str]:
    return [sys.executable, f"{CHECKOUT}/scripts/compare.py", "--json", "--rounds", str(rounds)]


@contextmanager
def environment() -> Iterator[Any]:
    """A systemd of our own; gives what runs a command in it and returns what that prints."""
    script, name = CHECKOUT / "scripts" / "systemd-env", f"compare-{os.getpid()}"
    shown = {str(CHECKOUT), sys.prefix, sys.base_prefix}
    bound = [word for each in shown if not each.startswith("/usr") for word in ("--bind-ro", each)]

    def run(*words: str) -> str:
        command = [script, "run", name, "-E", "PYTHONDONTWRITEBYTECODE=1", *words]
        return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout

    subprocess.run([script, "up", name, *bound], check=True, stdout=subprocess.DEVNULL)
    try:
        run("--", "useradd", "--create-home", "guest")
        yield run
    finally:
        subprocess.run([script, "down", name], check=True, stdout=subprocess.DEVNULL)
