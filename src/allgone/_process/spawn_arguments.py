"""Popen's arguments: subprocess's, read as it reads them so that the launcher can stand in front, and a scope's."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Final

from allgone._core.policy import StopPolicy
from allgone._core.unit import Unit

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


def scope_of(
    name: str | None,
    slice: str | None,
    description: str | None,
    properties: Mapping[str, object] | None,
    policy: StopPolicy | None,
) -> Unit | None:
    """What was asked for, such that `systemctl stop` does as `policy` says; None if nothing was."""
    if name is None and slice is None and description is None and not properties:
        return None
    stop = policy.as_unit_properties() if policy is not None else {}
    name = name if name is not None else f"allgone-{os.getpid()}-{os.urandom(4).hex()}.scope"
    return Unit(name, slice, description, {**stop, **(properties or {})})


class AlsoPass(tuple[int, ...]):
    """fds for ``pass_fds`` that don't ask for the others to be closed.

    subprocess takes any true `pass_fds` to mean ``close_fds=True``, and warns; this one is false and still iterates.
    """

    __slots__ = ()

    def __bool__(self) -> bool:
        return False
