"""Names of containments: what users may choose, and what is made up where they did not."""

from __future__ import annotations

import os
import re

MAX_NAME = 128  # bytes; a directory name may have 255, and units add a prefix and a suffix
_ALLOWED = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@:+-]*")
_RESERVED = re.compile(r"guard|(cgroup|cpu|cpuset|io|memory|pids|hugetlb|rdma|misc|dmem|irq|debug|perf_event)\..*")


def checked_name(name: str) -> str:
    """`name`, or ValueError / TypeError where it can't be the name of a cgroup directory and part of a unit name."""
    if not isinstance(name, str):
        raise TypeError(f"name must be a str, not {type(name).__name__}")
    if len(name) > MAX_NAME or not _ALLOWED.fullmatch(name) or _RESERVED.fullmatch(name):
        shown = name if len(name) <= MAX_NAME else name[:MAX_NAME] + "…"
        raise ValueError(
            f"name {shown!r} can't be used: 1 to {MAX_NAME} of the characters A-Z a-z 0-9 _ . @ : + -, starting with "
            'a letter, digit or _, and not "guard" or a cgroup file\'s name'
        )
    return name


def made_up_name(executable: object, number: int) -> str:
    """A name that tells a reader of ``systemd-cgls`` what runs there: the command's last path part and a number."""
    text = os.fsdecode(executable) if isinstance(executable, (str, bytes, os.PathLike)) else "command"
    readable = re.sub(r"[^A-Za-z0-9_.@:+]+", "-", os.path.basename(text)[:40]).strip("-.")
    return f"{number}-{readable or 'command'}"


def printable(text: str, most: int | None = None) -> str:
    """With "?" for what can't be shown safely on a terminal, and cut to `most` characters.

    Of processes and files, names are whatever somebody chose them to be: escape sequences, line ends, characters that
    turn the direction of writing, bytes that are not UTF-8.
    """
    if most is not None and len(text) > most:
        text = text[: most - 1] + "…"
    return "".join(each if each.isprintable() else "?" for each in text)
