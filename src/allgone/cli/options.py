"""Options that several subcommands have, and what their values are turned into."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from allgone.cli import durations

if TYPE_CHECKING:
    from allgone._core.limits import Limits


def duration(_: click.Context, param: click.Parameter, value: str) -> float:
    try:
        return durations.seconds(value)
    except ValueError as e:
        raise click.BadParameter(str(e), param=param) from None


def time_limit(context: click.Context, param: click.Parameter, value: str) -> float:
    found = duration(context, param, value)
    if found > 0:
        return found
    raise click.BadParameter("0 would stop the command at once; infinity means no limit", param=param)


def properties(_: click.Context, param: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    pairs = [value.partition("=") for value in values]
    for name, equals, _rest in pairs:
        if not name or not equals:
            raise click.BadParameter(f"{name!r} is not NAME=VALUE", param=param)
    return {name: value for name, _equals, value in pairs}


_LIMITS = {
    "memory_max": ("SIZE", "More memory than this (512M, 2G) it can't have: who asks for more is killed."),
    "memory_high": ("SIZE", "With more memory than this it is slowed down."),
    "memory_swap_max": ("SIZE", "More swap than this it can't have; 0: none."),
    "tasks_max": ("NUMBER", "More processes and threads than this it can't have at a time."),
    "cpu_quota": ("PERCENT", "CPU time, in per cent of one CPU (150%)."),
    "cpu_weight": ("NUMBER", "Share of the CPUs, from 1 to 10000; others have 100."),
    "io_weight": ("NUMBER", "The same of disks."),
}


def limits(command: Callable[..., int]) -> Callable[..., int]:
    """An option for each limit; `limits_of()` makes them one."""
    what = "With cgroup. For want of memory, all of it is killed together."
    command = click.option("--memory-oom-group", is_flag=True, help=what)(command)
    for name, (metavar, what) in reversed(_LIMITS.items()):
        kind = int if name.endswith("_weight") else str
        option = "--" + name.replace("_", "-")
        command = click.option(option, metavar=metavar, type=kind, help=f"With cgroup. {what}")(command)
    return command


def limits_of(given: dict[str, Any]) -> Limits | None:
    """Raises BadParameter."""
    from allgone._core.limits import Limits

    found = {name: given[name] for name in (*_LIMITS, "memory_oom_group") if given[name] not in (None, False)}
    try:
        return Limits(**found) if found else None
    except (ValueError, TypeError) as e:
        raise click.BadParameter(str(e)) from None


def signal_number(_: click.Context, param: click.Parameter, value: str) -> int:
    if value.isdecimal() and int(value) in signal.valid_signals():
        return int(value)
    name = value.upper() if value.upper().startswith("SIG") else "SIG" + value.upper()
    if name in signal.Signals.__members__:
        return int(signal.Signals[name])
    raise click.BadParameter(f"{value!r} is not a signal; write TERM, SIGTERM or 15, say", param=param)


backend = click.option(
    "--backend",
    type=click.Choice(["auto", "cgroup", "process-group"]),
    help='What holds the processes (default: ALLGONE_BACKEND, or auto: cgroup where it works; see "allgone doctor").',
)
kill_signal = click.option(
    "--kill-signal",
    metavar="SIGNAL",
    default="TERM",
    show_default=True,
    callback=signal_number,
    help="How they are asked.",
)


def timeout_stop(*, default: str) -> Callable[[Callable[..., int]], Callable[..., int]]:
    return click.option(
        "--timeout-stop",
        metavar="DURATION",
        default=default,
        show_default=True,
        callback=duration,
        help="How long processes may take to end when asked to, before SIGKILL.",
    )
