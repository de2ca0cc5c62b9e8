"""The launcher: which one there is, its argv prefix, what it reports."""

from __future__ import annotations

import os
import signal
import stat
import struct
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

from allgone._linux.fds import above_stdio

COMPILED = os.path.join(os.path.dirname(os.path.abspath(__file__)), "allgone-launch")
_COMMON_PYTHONS = ("/usr/bin/python3", "/usr/local/bin/python3")
_REPORT = struct.Struct("=ii")  # stage, errno or pid: launcher.c, report()
USAGE, TAG, ENTER, WAIT, EXEC, BORN, SEAL, SOCKETS = range(8)
OWN_PID = "0" * 10  # the value of LISTEN_PID and WATCHDOG_PID that the launcher writes its pid over


class Failure(NamedTuple):
    """What a launcher reports when it could not do its work: at which stage, and the errno."""

    stage: int
    error: int


class Launch(NamedTuple):
    """How a launch went: its failure, if any, and the command's pid where that is not the launcher's."""

    failure: Failure | None
    born: int | None


@dataclass(frozen=True, slots=True)
class Prefix:
    """A program to execute and the arguments that go before the user's command."""

    executable: str
    argv: tuple[str, ...]
    pass_fds: tuple[int, ...]


@cache
def kind() -> str:
    """``"compiled"`` or ``"interpreted"``, as installed, or as ALLGONE_LAUNCHER asks (for tests and odd machines)."""
    asked = os.environ.get("ALLGONE_LAUNCHER")
    if asked not in (None, "compiled", "interpreted"):
        raise ValueError(f"ALLGONE_LAUNCHER must be compiled or interpreted, not {asked!r}")
    return asked or ("compiled" if os.access(COMPILED, os.X_OK) else "interpreted")


@cache
def _source() -> str:
    with open(os.path.join(os.path.dirname(COMPILED), "interpreted_launcher.py"), encoding="utf-8") as f:
        return f.read()


def program() -> str:
    """The file that is executed."""
    return COMPILED if kind() == "compiled" else sys.executable


@cache
def _python_for_all() -> str:
    """An interpreter for a launcher that runs as another user: ours may be in a home directory that is closed to it."""
    return next(filter(_is_open_to_all, (sys.executable, *_COMMON_PYTHONS)), sys.executable)


def _is_open_to_all(program: str) -> bool:
    """Whether everybody may execute it, by its path and by what that is a link to."""
    if not os.path.exists(program):
        return False
    for path in (os.path.abspath(program), os.path.realpath(program)):
        while path != "/":
            if not os.stat(path).st_mode & stat.S_IXOTH:
                return False
            path = os.path.dirname(path)
    return True


@contextmanager
def prefix(
    *,
    status: int | None,
    procs: int | None = None,
    cgroup: int | None = None,
    seal: str | None = None,
    wait: int | None = None,
    tag: tuple[int, int] | None = None,
    sockets: Sequence[int] | None = None,
    restore_signals: bool = True,
    other_user: bool = False,
) -> Iterator[Prefix]:
    """The launcher's program and arguments, valid inside the ``with`` block.

    `procs` is a cgroup.procs file to enter, `cgroup` a cgroup directory to be born in (the pid may change by that).
    `seal`: where cgroup2 is mounted, for it to see nothing but the cgroup entered there.
    `sockets` are fds for the command to have as 3, 4, …, all of them above those; unless it is None, the launcher sets
    those of LISTEN_PID and WATCHDOG_PID that are in the environment as `OWN_PID`.
    `other_user`: it will be executed by another user, who perhaps can't reach it by its path.
    """
    own = None
    if other_user and kind() == "compiled":
        own = above_stdio(os.open(COMPILED, os.O_RDONLY | os.O_CLOEXEC))
    try:
        fds = [status, cgroup if procs is None else procs, wait, own]
        words = ["-" if fd is None else str(fd) for fd in fds]
        if cgroup is not None:
            words[1] = f"+{cgroup}"
        elif seal is not None:
            words[1] = f"@{procs}:{seal}"
        words.append("-" if tag is None else f"{tag[0]}:{tag[1]}")
        words.append("-" if sockets is None else "=" + "".join(f"{fd}," for fd in sockets))
        inherited = (*(fd for fd in fds if fd is not None), *(sockets or ()))
        if kind() == "compiled":
            path = COMPILED if own is None else f"/proc/self/fd/{own}"
            yield Prefix(path, ("allgone-launch", *words), inherited)
        else:
            ignored = () if restore_signals else (signal.SIGPIPE, signal.SIGXFSZ)
            kept = [str(int(s)) for s in ignored if signal.getsignal(s) is signal.SIG_IGN]
            python = _python_for_all() if other_user else sys.executable
            yield Prefix(python, (python, "-I", "-S", "-c", _source(), ",".join(kept) or "-", *words), inherited)
    finally:
        if own is not None:
            os.close(own)


def outcome(status: int) -> Launch:
    """Read the launcher's reports from the read end `status`. No failure means that the command was executed.

    Returns when the launcher has executed the command, failed, or was killed (no failure then too: what was killed
    in its containment ran nowhere else).
    """
    text = b""
    while chunk := os.read(status, 64):
        text += chunk
    failure = born = None
    for stage, value in _REPORT.iter_unpack(text[: len(text) - len(text) % _REPORT.size]):
        if stage == BORN:
            born = value
        else:
            failure = Failure(stage, value)
    return Launch(failure, born)


def with_command(before: Prefix, executable: object, argv: Sequence[object]) -> tuple[object, ...]:
    """The whole argument vector: launcher, the command's executable, the command's own argv."""
    return (*before.argv, executable, *argv)
