"""``allgone doctor``: what this machine can do, printed."""

from __future__ import annotations

import json
import os
import platform
from dataclasses import asdict

import click

from allgone._backends import inspect

_MARKS = {True: "ok", False: "no", None: "--"}


def run(*, as_json: bool) -> int:
    """Print it; 0 if ``auto`` has a backend, else 1."""
    choice, findings = inspect.look()
    if as_json:
        facts = {
            "allgone": inspect.version("allgone"),
            "python": platform.python_version(),
            "auto": asdict(choice),
            "findings": [asdict(each) for each in findings],
        }
        click.echo(json.dumps(facts, indent=2))
    else:
        _print(choice, findings)
    return 0 if choice.backend else 1


def _print(choice: inspect.Choice, findings: list[inspect.Finding]) -> None:
    click.echo(f"allgone {inspect.version('allgone') or '(not installed)'}, Python {platform.python_version()}\n")
    click.echo(f'"auto" takes: {choice.backend or "nothing"}')
    click.echo(f"  because: {choice.why}")
    if told := os.environ.get("ALLGONE_BACKEND"):
        click.echo(f"  but ALLGONE_BACKEND says {told}")
    click.echo()
    width = max(len(each.name) for each in findings)
    for each in findings:
        click.echo(f" {_MARKS[each.ok]}  {each.name:{width}}  {each.says}")
        if each.ok is False and each.remedy:
            click.echo(f"     {'':{width}}  what to do: {each.remedy}")
