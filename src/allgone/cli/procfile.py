"""``allgone up``: what a Procfile, .env files and the command line say is to be run, read as Honcho reads it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from honcho import environ

from allgone.cli import say

PORT, PROCFILE, ENV = "5000", "Procfile", ".env"  # Honcho's defaults


@dataclass(frozen=True, slots=True)
class Asked:
    """The command line. None: not given, so the environment files, then the environment, then a default say."""

    names: tuple[str, ...] = ()
    procfile: str | None = None
    app_root: str = "."
    env: str | None = None
    port: str | None = None
    concurrency: str | None = None
    quiet: str | None = None


@dataclass(frozen=True, slots=True)
class Entry:
    """One process to start."""

    name: str  # as web.1
    command: str  # for the shell
    quiet: bool
    env: dict[str, str]


def entries(asked: Asked) -> list[Entry]:
    """What is to be started, in order.

    Raises ValueError saying what can't be understood, and OSError where a file can't be read.
    """
    env = environment(asked.app_root, asked.env)
    path = os.path.join(asked.app_root, setting("PROCFILE", asked.procfile, env, PROCFILE))
    known = _types(path)
    chosen = {name: known[name] for name in _checked(asked.names or known, known, path, "")}
    counts = _concurrency(asked.concurrency)
    _checked(counts, known, path, "--concurrency: ")
    quiet = [name for name in (asked.quiet or "").split(",") if name]
    _checked(quiet, known, path, "--quiet: ")
    port = _port(setting("PORT", asked.port, env, PORT))
    # Without PORT, which expand_processes() would prefer to --port.
    others = {name: value for name, value in env.items() if name != "PORT"}
    expanded = environ.expand_processes(chosen, concurrency=counts, env=others, quiet=quiet, port=port)
    if not expanded:
        why = "0 of each were asked for" if known else f"{path} names no processes"
        raise ValueError(f"there is nothing to start: {why}")
    return [Entry(each.name, each.cmd, each.quiet, {**os.environ, **each.env}) for each in expanded]


def environment(root: str, files: str | None) -> dict[str, str]:
    """What the files, separated by commas, say; the later one wins. One that is not there is not an error."""
    found: dict[str, str] = {}
    for name in (ENV if files is None else files).split(","):
        path = os.path.join(root, name.strip())
        try:
            text = _text(path)
        except FileNotFoundError:
            if files is not None:
                say(f"there is no environment file {path}")
            continue
        try:
            found |= environ.parse(text)
        except ValueError as e:
            raise ValueError(f"{path} can't be understood: {e}") from e
    return found


def setting(name: str, given: str | None, env: Mapping[str, str], default: str) -> str:
    """Given on the command line, or else the variable `name` in the files, in our environment, or the default."""
    return next(value for value in (given, env.get(name), os.environ.get(name), default) if value is not None)


def _text(path: str) -> str:
    with open(path, encoding="utf-8", errors="surrogateescape") as f:
        return f.read()


def _types(path: str) -> dict[str, str]:
    try:
        return dict(environ.parse_procfile(_text(path)).processes)
    except AssertionError as e:  # Honcho's way to say so
        raise ValueError(f"{path}: {e}") from e


def _checked(names: Sequence[str] | Mapping[str, object], known: Mapping[str, str], path: str, where: str) -> list[str]:
    for name in names:
        if name not in known:
            raise ValueError(f"{where}there is no process {name!r} in {path}; it has {', '.join(known) or 'none'}")
    return list(names)


def _concurrency(text: str | None) -> dict[str, int]:
    found = {}
    for item in text.split(",") if text is not None else ():
        name, _, count = item.partition("=")
        if not name or not count.isdecimal():
            raise ValueError(f"--concurrency: {item!r} is not NAME=NUMBER")
        found[name] = int(count)
    return found


def _port(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 65535:
        raise ValueError(f"the port must be a number from 1 to 65535, not {text!r}")
    return int(text)
