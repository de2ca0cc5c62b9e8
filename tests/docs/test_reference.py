"""docs/reference.md names all there is, and links lead somewhere."""

from __future__ import annotations

import dataclasses
import inspect
import re
from pathlib import Path

import click
import pytest

import allgone
from allgone import aio
from allgone.cli import app
from docs import pages

REFERENCE = pages.ROOT / "docs" / "reference.md"


# Public in Python's eyes only: one module of allgone uses them on another's behalf.
INTERNAL = {
    *(("Popen", name) for name in ("stop_meanwhile", "end_fds", "exchange", "close_streams")),
    *((name, internal) for name in ("Popen", "Group") for internal in ("is_to_be_stopped", "stopping")),
    ("Group", "close_streams"),
    ("Group", "stop_meanwhile"),
    ("StopPolicy", "packed"),
    ("StopPolicy", "unpacked"),
}


def section_of(name: str) -> str:
    """The text below the heading that has `name` in it; "" if there is none."""
    for title, text in pages.sections(REFERENCE).items():
        if name in re.findall(r"`(\w+)[`(]", title):
            return text
    return ""


@pytest.mark.parametrize("name", allgone.__all__)
def test_every_public_name_is_in_the_reference(name: str) -> None:
    assert section_of(name), f"docs/reference.md has no heading with `{name}`, or nothing below it"


def _parameters() -> list[tuple[str, str]]:
    found = []
    for name in allgone.__all__:
        value = getattr(allgone, name)
        if not callable(value) or (value.__module__ or "").startswith("subprocess") or _is_error(value):
            continue
        if getattr(value, "_is_protocol", False) or value in (allgone.CompletedProcess, allgone.NetworkNamespace):
            continue  # nobody makes these by hand
        for parameter in inspect.signature(value).parameters.values():
            named = parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
            if named and not parameter.name.startswith("_"):
                found.append((name, parameter.name))
    return found


def _is_error(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, BaseException)


@pytest.mark.parametrize(("name", "parameter"), _parameters())
def test_every_parameter_is_in_the_reference(name: str, parameter: str) -> None:
    assert f"`{parameter}`" in section_of(name) or f"`{parameter}=" in section_of(name)


def _attributes() -> list[tuple[str, str]]:
    found = []
    for name in (
        "Group",
        "Popen",
        "Report",
        "Process",
        "Sent",
        "Genealogy",
        "Life",
        "Exec",
        "Guarantees",
        "StopPolicy",
        "Reason",
    ):
        value = getattr(allgone, name)
        own = {each for each in vars(value) if not each.startswith("_")}
        if dataclasses.is_dataclass(value):
            own |= {field.name for field in dataclasses.fields(value)}
        found += [(name, each) for each in sorted(own) if (name, each) not in INTERNAL]
    return found


@pytest.mark.parametrize(("name", "attribute"), _attributes())
def test_every_attribute_is_in_the_reference(name: str, attribute: str) -> None:
    assert re.search(rf"`{attribute}\b", section_of(name))


@pytest.mark.parametrize("name", aio.__all__)
def test_every_name_of_aio_is_in_the_reference(name: str) -> None:
    assert aio_section_of(name), f"docs/reference.md has no heading with `aio.{name}`, or nothing below it"


@pytest.mark.parametrize(
    ("name", "attribute"),
    [
        (name, each)
        for name in ("Process", "FixtureProcess", "Group")
        for owner in getattr(aio, name).__mro__
        if owner.__module__.startswith("allgone.")
        for each in vars(owner)
        if not each.startswith("_") and (name != "FixtureProcess" or owner is aio.FixtureProcess)
    ],
)
def test_every_attribute_of_aio_is_in_the_reference(name: str, attribute: str) -> None:
    assert re.search(rf"`(await |async with )?{attribute}\b", aio_section_of(name))


def aio_section_of(name: str) -> str:
    found = [text for title, text in pages.sections(REFERENCE).items() if re.match(rf"`aio\.{name}[`(]", title)]
    return found[0] if found else ""


def _options() -> list[tuple[str, str]]:
    found = []
    todo: list[tuple[str, click.Command]] = [("allgone", app.allgone)]
    while todo:
        path, command = todo.pop()
        if isinstance(command, click.Group):
            todo += [(f"{path} {name}", each) for name, each in command.commands.items()]
        for each in command.params:
            found += [(path, option) for option in (*each.opts, *each.secondary_opts) if option.startswith("-")]
    return sorted(found)


@pytest.mark.parametrize(("command", "option"), _options())
def test_every_option_of_the_command_is_in_the_reference(command: str, option: str) -> None:
    titles = {"allgone": "The command"}
    found = [
        text
        for title, text in pages.sections(REFERENCE).items()
        if title == titles.get(command) or title.startswith(f"`{command} ")
    ]
    assert found, f"no heading for {command}"
    assert re.search(rf"`{option}[` ]", found[0])


def test_every_variable_is_in_the_reference() -> None:
    source = "".join(path.read_text(encoding="utf-8") for path in (pages.ROOT / "src" / "allgone").rglob("*.py"))
    read = set(re.findall(r"""environ(?:\.get\(|\[)"(ALLGONE_\w+)""", source))
    assert read
    assert not [name for name in read if f"`{name}`" not in pages.sections(REFERENCE)["Environment variables"]]


@pytest.mark.parametrize("page", pages.PAGES, ids=lambda page: str(page.relative_to(pages.ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in pages.links(page):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), f"{target}: no such file"
        if anchor:
            assert anchor in pages.anchors(there), f"{target}: no such heading"
