"""Popen's arguments: subprocess's, read as it reads them so that the launcher can stand in front, and a scope's."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from typing import Any, Final

from allgone._core.command import Command
from allgone._core.limits import Limits
from allgone._core.policy import StopPolicy
from allgone._core.unit import Unit
from allgone.errors import Unsupported

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
    limits: Limits | None,
) -> Unit | None:
    """What was asked for, such that `systemctl stop` does as `policy` says; None if nothing was.

    Raises ValueError where a property is given twice.
    """
    if name is None and slice is None and description is None and not properties:
        return None
    stop = policy.as_unit_properties() if policy is not None else {}
    name = name if name is not None else f"allgone-{os.getpid()}-{os.urandom(4).hex()}.scope"
    limited = limits.as_unit_properties() if limits is not None else {}
    if twice := limited.keys() & (properties or {}).keys():
        raise ValueError(f"property {twice.pop()!r} is in limits= as well")
    return Unit(name, slice, description, {**stop, **limited, **(properties or {})})


def with_variables(
    env: Mapping[Any, Any] | None, new: Mapping[str, str], *, instead_of: Collection[str]
) -> dict[Any, Any]:
    """`env` as subprocess takes it (None: our own environment), with `new` in it and no other one of `instead_of`."""
    given = os.environ if env is None else env
    return {name: value for name, value in given.items() if os.fsdecode(name) not in instead_of} | dict(new)


class AlsoPass(tuple[int, ...]):
    """fds for ``pass_fds`` that don't ask for the others to be closed.

    subprocess takes any true `pass_fds` to mean ``close_fds=True``, and warns; this one is false and still iterates.
    """

    __slots__ = ()

    def __bool__(self) -> bool:
        return False


def how(options: dict[str, Any]) -> dict[str, bool]:
    """What `Containment.command` is to know of the options."""
    return {
        "restore_signals": options.get("restore_signals", True),
        "other_user": any(options.get(who) is not None for who in ("user", "group", "extra_groups")),
        "same_process": options.get("preexec_fn") is not None,
    }


def passed(options: dict[str, Any], command: Command) -> tuple[int, ...]:
    """The value for pass_fds; may set cwd."""
    users = tuple(options.get("pass_fds", ()))
    if users or options.get("close_fds", True):
        return (*users, *command.pass_fds)
    if options.get("cwd") is None:
        options["cwd"] = "."  # keeps subprocess from posix_spawn(), which would not look at pass_fds
    return AlsoPass(command.pass_fds)


def entered_first(command: Command, preexec_fn: Any) -> Any:
    if command.start_new_session and preexec_fn in (os.setsid, os.setpgrp):
        return None  # the session is made anyway, and can't be made twice

    def enter_then_call() -> None:
        command.enter()
        preexec_fn()

    return enter_then_call


def check_seal(options: dict[str, Any]) -> None:
    if changed := [who for who in ("user", "group", "extra_groups") if options.get(who) is not None]:
        raise Unsupported(
            f"seal=True with {changed[0]}=: the launcher makes the seal, which takes root, and it runs as that user; "
            "let the command change its user itself (setpriv, runuser)"
        )


def check_process_group(options: dict[str, Any]) -> None:
    if options.pop("process_group", None) not in (None, -1, 0):
        raise ValueError("process_group= joins a group that exists; the process-group backend makes one of its own")
