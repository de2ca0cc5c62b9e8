"""scripts/docs makes a site of the pages: without a warning, with links that lead somewhere, for readers without a network."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from support import programs
from support.tiers import missing

from docs import pages

SCRIPT = pages.ROOT / "scripts" / "docs"
LOADS = {("link", "href"), ("script", "src"), ("img", "src"), ("iframe", "src"), ("object", "data"), ("source", "src")}


def build(checkout: Path, site: Path) -> subprocess.CompletedProcess[str]:
    """By the last command of the script, from that checkout and to that place."""
    for package in ("sphinx", "myst_parser", "furo"):
        if importlib.util.find_spec(package) is None:
            missing(f"{package} is not installed: pip install 'allgone[docs]'")
    words = SCRIPT.read_text(encoding="utf-8").splitlines()[-1].split()
    assert words[:2] == ["exec", ".venv/bin/python"]
    assert words[-1] == '"$@"'
    places = {"build/doctrees": str(site.parent / "doctrees"), "build/site": str(site)}
    command = [sys.executable, *(places.get(word, word) for word in words[2:-1])]
    return subprocess.run(
        command, cwd=checkout, capture_output=True, text=True, timeout=programs.TEST_WITHIN, check=False
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site") / "site"
    done = build(pages.ROOT, folder)
    assert (done.returncode, done.stderr) == (0, "")
    return folder


class Page(HTMLParser):
    """What a page loads, where its links lead, and what links may lead to."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        for name, value in attributes:
            if name == "id":
                self.anchors.add(value or "")
            elif (tag, name) in LOADS:
                self.loads.append(value or "")
            elif (tag, name) == ("a", "href"):
                self.links.append(value or "")


def test_every_page_is_there_and_the_first_one_leads_to_all(site: Path) -> None:
    wanted = {f"{page.relative_to(pages.ROOT).with_suffix('')}.html" for page in pages.PAGES}
    made = {str(path.relative_to(site)) for path in site.rglob("*.html")}
    assert wanted <= made
    assert "README.html" in (site / "index.html").read_text(encoding="utf-8")
    assert wanted - {"README.html"} <= set(Page(site / "README.html").links)


def test_links_of_the_site_lead_somewhere(site: Path) -> None:
    found = {path: Page(path) for path in site.rglob("*.html")}
    dead = []
    for path, page in found.items():
        for link in page.links + page.loads:
            parts = urlsplit(link)
            there = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if parts.scheme or not link:
                continue
            if not there.exists() or (parts.fragment and unquote(parts.fragment) not in found[there].anchors):
                dead.append(f"{path.relative_to(site)}: {link}")
    assert not dead


def test_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    assert list(site.rglob("top*.svg"))
    loaded = {each for path in site.rglob("*.html") for each in Page(path).loads}
    assert any(each.endswith(".css?v=" + each.rpartition("=")[2]) for each in loaded)  # it does find them
    for path in (*site.rglob("*.css"), *site.rglob("*.svg")):
        loaded |= set(re.findall(r"""(?:url\(|@import)\s*["']?([^"')\s]+)""", path.read_text(encoding="utf-8")))
    assert not [each for each in loaded if re.match(r"(https?:)?//", each)]


@pytest.mark.parametrize("page", pages.PAGES, ids=lambda page: str(page.relative_to(pages.ROOT)))
def test_links_to_elsewhere_are_well_formed(page: Path) -> None:
    for link in (each for each in pages.links(page) if re.match(r"[a-z]+:", each)):
        parts = urlsplit(link)
        assert parts.scheme == "https", link
        assert re.fullmatch(r"([a-z0-9-]+\.)+[a-z]+", parts.netloc), link


def test_a_page_that_is_not_in_the_navigation_and_a_link_that_leads_nowhere_are_errors(tmp_path: Path) -> None:
    checkout = tmp_path / "checkout"
    shutil.copytree(pages.ROOT / "docs" / "site", checkout / "docs" / "site")
    for name in ("README.md", "docs/limits.md", "docs/network.md"):
        shutil.copy(pages.ROOT / name, checkout / name)
    with open(checkout / "docs" / "limits.md", "a", encoding="utf-8") as f:
        f.write("\n[one](no-such-page.md), [two](network.md#no-such-heading), ![three](images/no-such-picture.svg)\n")
    (checkout / "docs" / "more.md").write_text("# More\n", encoding="utf-8")
    done = build(checkout, tmp_path / "site")
    assert done.returncode != 0
    for place, what in {
        "limits.md": ("no-such-page.md", "no-such-heading", "no-such-picture.svg"),
        "more.md": ("document isn't included in any toctree",),
    }.items():
        told = [line for line in done.stderr.splitlines() if f"docs/{place}:" in line and "WARNING" in line]
        assert not [each for each in what if not any(each in line for line in told)]


@pytest.mark.parametrize("picture", sorted((pages.ROOT / "docs" / "images").iterdir()), ids=lambda path: path.name)
def test_a_picture_is_small_and_shown(picture: Path) -> None:
    assert picture.stat().st_size < 150_000
    assert any(f"(images/{picture.name})" in page.read_text(encoding="utf-8") for page in pages.PAGES)
