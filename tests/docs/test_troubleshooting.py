"""docs/troubleshooting.md has a section for each error and warning, and shows messages that allgone does give."""

from __future__ import annotations

import ast
import errno
import os
import re

import pytest

import allgone
from allgone import pytest_plugin
from docs import pages

PAGE = pages.ROOT / "docs" / "troubleshooting.md"
VARIES = "…"


def _named() -> list[str]:
    found = [
        name
        for name in allgone.__all__
        if isinstance(value := getattr(allgone, name), type) and issubclass(value, (allgone.AllgoneError, Warning))
    ]
    return [*found, pytest_plugin.LeftProcessWarning.__name__]


@pytest.mark.parametrize("name", _named())
def test_each_error_and_warning_has_a_section_that_shows_its_message(name: str) -> None:
    text = PAGE.read_text(encoding="utf-8")
    section = re.search(rf"^### `{name}`\n(.*?)(?=^##|\Z)", text, re.MULTILINE | re.DOTALL)
    assert section, f"no heading ### `{name}`"
    assert re.search(r"^```(text|pycon)\n", section[1], re.MULTILINE), "shows no message"
    assert "**Means:**" in section[1] or name == "AllgoneError"


def templates() -> list[str]:
    """The strings of the source, with … for what is put into them, and what two strings in brackets are one of."""
    found = []
    for path in (pages.ROOT / "src" / "allgone").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
            elif isinstance(node, ast.JoinedStr):
                found.append("".join(part.value if isinstance(part, ast.Constant) else VARIES for part in node.values))
    return found


TEMPLATES = [*templates(), *map(os.strerror, errno.errorcode)]


def said(piece: str) -> bool:
    return any(piece in template for template in TEMPLATES)


def pieces(message: str) -> list[str]:
    """What lies between that which differs; a remedy in brackets and its reason are strings of their own."""
    return [each for part in message.split(VARIES) for each in _apart(part.strip(" ."))]


def _apart(part: str) -> list[str]:
    if not part or said(part):
        return [part] if part else []
    return [each for each in re.split(r" \(|\)$|: ", part.strip("()")) if each]


SHOWN = [
    line
    for block in pages.blocks(PAGE)
    if block.language == "text"
    for line in block.text.splitlines()
    if line != "AllgoneError"
]


@pytest.mark.parametrize("line", SHOWN)
def test_a_message_shown_is_in_the_source(line: str) -> None:
    assert pieces(line)
    assert not [piece for piece in pieces(line) if not said(piece)]


def test_what_a_table_says_of_messages_is_in_the_source() -> None:
    told = re.findall(r"^\| `([^|]*?)`(?:, `([^|]*?)`)? \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    phrases = [each.rstrip("=") for pair in told for each in pair if each]
    assert len(phrases) > 15
    assert not [each for each in phrases if not all(map(said, pieces(each)))]


def test_a_message_of_which_a_word_is_changed_is_noticed() -> None:
    for line in SHOWN:
        longest = max(pieces(line), key=len)
        assert not said(longest[:-1] + "~")
