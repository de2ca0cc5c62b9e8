"""subprocess.Popen's arguments, read as it reads them, so that the launcher can stand in front of the command."""

from __future__ import annotations

import os
from typing import Any, Final

# The positional parameters of subprocess.Popen behind `args` (Python 3.10 to 3.13).
POSITIONAL: Final = (
    "bufsize", "executable", "stdin", "stdout", "stderr", "preexec_fn", "close_fds", "shell", "cwd", "env",
    "universal_newlines", "startupinfo", "creationflags", "restore_signals", "start_new_session", "pass_fds",
)  # fmt: skip


def named(positional: tuple[Any, ...], keywords: dict[str, Any]) -> dict[str, Any]:
    """All of them by name. Raises TypeError as a call with too many or doubled arguments does."""
    if len(positional) > len(POSITIONAL):
        raise TypeError(f"Popen() takes at most {len(POSITIONAL) + 1} positional arguments")
    given = dict(zip(POSITIONAL, positional, strict=False))
    if doubled := given.keys() & keywords.keys():
        raise TypeError(f"Popen() got multiple values for argument {doubled.pop()!r}")
    return {**given, **keywords}


def argv_of(args: Any, *, shell: bool, executable: Any) -> tuple[list[Any], Any]:
    """(argv, executable) as subprocess would execute them (its documentation, "Popen Constructor").

    Raises TypeError, and ValueError for an empty list.
    """
    if isinstance(args, (str, bytes)):
        argv: list[Any] = [args]
    elif isinstance(args, os.PathLike):
        if shell:
            raise TypeError("path-like args is not allowed when shell is true")
        argv = [args]
    else:
        argv = list(args)
    if shell:
        argv = ["/bin/sh", "-c", *argv]
        if executable:
            argv[0] = executable
    if executable is None:
        if not argv:
            raise ValueError("args is empty: there is no command to run")
        executable = argv[0]
    return argv, executable


class AlsoPass(tuple[int, ...]):
    """fds for ``pass_fds`` that don't ask for the others to be closed.

    subprocess takes any true `pass_fds` to mean ``close_fds=True``, and warns; this one is false and still iterates.
    """

    __slots__ = ()

    def __bool__(self) -> bool:
        return False
