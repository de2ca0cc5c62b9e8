"""``allgone ps``, ``kill``, ``stop`` and ``gc``: the containments on this machine, printed and ended."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Sequence

import click

from allgone._core.names import printable
from allgone._core.policy import StopPolicy
from allgone._linux import processes
from allgone._upkeep import inventory, janitor, leftovers, telling
from allgone._upkeep.inventory import Item
from allgone.errors import StopTimeout

_COLUMNS = ("NAME", "OWNER", "STATE", "BACKEND", "PROCS", "MEMORY", "CPU", "SINCE", "UNIT", "COMMAND")
_ROOM = 60  # characters for a command


def ps(*, as_json: bool, tree: bool) -> int:
    found = inventory.items()
    inside = list(zip(found, inventory.members(found), strict=True))
    for each in inventory.of_unknown_versions():
        click.echo(printable(f"allgone: not shown: {each}"), err=True)
    if as_json:
        click.echo(json.dumps([_facts(item, members) for item, members in inside], indent=2))
        return 0
    rows = [(_COLUMNS, ())] + [
        (
            tuple(map(printable, _row(item, len(members)))),
            tuple(map(printable, process_tree(members))) if tree else (),
        )
        for item, members in inside
    ]
    widths = [max(len(row[n]) for row, _ in rows) for n in range(len(_COLUMNS) - 1)]
    for row, below in rows:
        click.echo("  ".join(f"{cell:{width}}" for cell, width in zip(row, [*widths, 0], strict=True)).rstrip())
        for line in below:
            click.echo("  " + line)
    return 0


def _row(item: Item, members: int) -> tuple[str, ...]:
    memory, cpu = item.memory(), item.cpu()
    command = item.command or item.owner_command
    return (
        item.id,
        str(item.owner or "?"),
        item.state,
        item.backend,
        str(members),
        "-" if memory is None else f"{memory >> 20}M",
        "-" if cpu is None else f"{cpu:.1f}s",
        "-" if item.since is None else ago(time.time() - item.since),
        item.unit or "-",
        command if len(command) <= _ROOM else command[: _ROOM - 1] + "…",
    )


def ago(seconds: float) -> str:
    """As short as can be: 5s, 3m, 2h, 9d."""
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= size:
            return f"{int(seconds // size)}{unit}"
    return f"{max(0, int(seconds))}s"


def _facts(item: Item, members: Iterable[int]) -> dict[str, object]:
    return {
        "name": item.name,
        "id": item.id,
        "backend": item.backend,
        "state": item.state,
        "uid": item.uid,
        "owner": item.owner,
        "owner_command": item.owner_command,
        "command": item.command,
        "unit": item.unit or None,
        "where": item.where,
        "since": item.since,
        "members": [
            {"pid": each.pid, "name": each.name, "command": each.command} for each in processes.described(members)
        ],
        "memory": item.memory(),
        "cpu": item.cpu(),
    }


def process_tree(pids: Iterable[int]) -> list[str]:
    """Processes as a tree: who is whose child."""
    members = {each.pid: each for each in processes.described(pids)}
    children: dict[int, list[int]] = {}
    for pid in sorted(members, reverse=True):
        found = processes.stat(pid)
        children.setdefault(found.ppid if found is not None and found.ppid in members else 0, []).append(pid)
    lines = []
    todo = [(pid, 0) for pid in children.get(0, ())]
    while todo:
        pid, depth = todo.pop()
        lines.append(f"{'  ' * depth}{pid} {members[pid].command or members[pid].name}")
        todo += [(child, depth + 1) for child in children.get(pid, ())]
    return lines


def end(names: Sequence[str], *, everything: bool, kill: bool) -> int:
    """Kill or stop the containments that are meant; 0 if nothing is left of them."""
    found = inventory.items()
    meant = [item for item in found if may_end(item)] if everything else [_named(name, found) for name in names]
    for text in inventory.of_unknown_versions() if everything else ():
        click.echo(printable(f"allgone: left alone: {text}"), err=True)
    failed = end_items(meant, kill=kill)
    for item in meant:
        click.echo(printable(f"{'killed' if kill else 'stopped'} {item.id}"))
    for each in failed:
        click.echo(printable(f"allgone: {each}"), err=True)
    return 1 if failed else 0


def end_items(items: Iterable[Item], *, kill: bool) -> list[StopTimeout]:
    """Kill them, or stop them as their supervisors would; returns what could not be done."""
    return leftovers.end((item.containment, leftovers.AT_ONCE if kill else _asking(item.policy)) for item in items)


def _asking(policy: StopPolicy) -> StopPolicy:
    return policy if policy.timeout_stop else StopPolicy()


def may_end(item: Item) -> bool:
    """Whether this user may."""
    return os.geteuid() in (0, item.uid)


def _named(name: str, found: Sequence[Item]) -> Item:
    """Raises click.ClickException where that is not one containment, or not one of ours."""
    meant = [item for item in found if name in (item.name, item.id)]
    if not meant:
        raise click.ClickException(f"there is no containment {name!r} here; allgone ps lists those that there are")
    if len(meant) > 1:
        raise click.ClickException(f"{name!r} may be any of {', '.join(item.id for item in meant)}")
    if not may_end(meant[0]):
        raise click.ClickException(f"{meant[0].id} is of user {meant[0].uid}; only that user and root may end it")
    return meant[0]


def gc(*, dry_run: bool) -> int:
    """Sweep what lost both its supervisor and its guard; 0 if nothing of it is left."""
    try:
        telling.check()
    except ValueError as e:
        raise click.ClickException(str(e)) from e
    act = janitor.look if dry_run else janitor.sweep
    swept = [found for folder in list(inventory.homes()) if (found := act(folder)) is not None]
    for each in swept:
        click.echo(printable(f"{'would remove' if dry_run else 'removed'} {each}"))
        for left in each.left:
            click.echo(printable(f"allgone: {left}"), err=True)
    unknown = inventory.of_unknown_versions()
    for text in unknown:
        click.echo(printable(f"left alone: {text}"))
    whom = "guard that can be asked" if unknown else "guard"
    for process in inventory.strays():
        click.echo(printable(f"left alone, for it was started in a process group, and no {whom} knows it: {process}"))
    return 1 if any(each.left for each in swept) else 0
