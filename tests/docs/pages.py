"""The pages of the documentation, taken apart: blocks of examples, headings, links.

A comment right before a block says what the runner must know and a reader need not:

    <!-- file: NAME -->        the block is the text of a file that later blocks use
    <!-- needs: WORD… -->      cgroup, root, trace, or a program's name; skipped where that is missing
    <!-- numbers vary -->      a number in the output stands for any number
    <!-- names vary: WORD… -->  and each of these words for any of them (a process just forked is called as its parent)
    <!-- not run -->           test_examples.py lists these, with their reasons
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("**/*.md"))]

_FENCE = re.compile(r"^```(?P<language>\S*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
_COMMENTS = re.compile(r"(?:<!--(?:(?!-->).)*-->\s*)+\Z", re.DOTALL)
_MARK = re.compile(r"<!--\s*(?P<name>[a-z ]+?)\s*(?::\s*(?P<value>.*?)\s*)?-->", re.DOTALL)
_LINK = re.compile(r"(?<!!)\[[^\]]*\]\((?P<target>[^)\s]+)\)")
_HEADING = re.compile(r"^#+ +(?P<title>.*?) *$", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: Path
    line: int  # of its first line of text
    language: str
    text: str
    marks: tuple[tuple[str, str], ...]

    def mark(self, name: str) -> str | None:
        return dict(self.marks).get(name)

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(page: Path) -> list[Block]:
    """All fenced blocks, in order."""
    whole = page.read_text(encoding="utf-8")
    found = []
    for fence in _FENCE.finditer(whole):
        before = _COMMENTS.search(whole[: fence.start()])
        marks = tuple((m["name"], m["value"] or "") for m in _MARK.finditer(before[0])) if before else ()
        line = whole.count("\n", 0, fence.start("text")) + 1
        found.append(Block(page, line, fence["language"], fence["text"], marks))
    return found


def prose(page: Path) -> str:
    """The page without its blocks."""
    return _FENCE.sub("", page.read_text(encoding="utf-8"))


def links(page: Path) -> list[str]:
    """Targets of all links."""
    return [link["target"] for link in _LINK.finditer(prose(page))]


def headings(page: Path) -> list[str]:
    return [heading["title"] for heading in _HEADING.finditer(prose(page))]


def anchors(page: Path) -> set[str]:
    """What ``#…`` of a link may say, as GitHub makes it from the headings."""
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in headings(page)}


def sections(page: Path) -> dict[str, str]:
    """Heading -> the text below it, up to the next heading of any level."""
    text = prose(page)
    found = list(_HEADING.finditer(text))
    ends = [heading.start() for heading in found[1:]] + [len(text)]
    return {heading["title"]: text[heading.end() : end] for heading, end in zip(found, ends, strict=True)}
