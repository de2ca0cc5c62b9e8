"""The site made of README.md, CHANGELOG.md and docs/: Sphinx, MyST, Furo. `scripts/docs` builds it."""

from __future__ import annotations

from pathlib import Path

from sphinx.application import Sphinx

ROOT = Path(__file__).parents[2]  # the source directory: links between pages are the same here and on a forge
FIRST = "README"

# Every page is in here once: one that is not, and a name without a page, are warnings, and these are errors.
NAVIGATION = {
    "Start": ["quick-start", "coming-from-subprocess", "pytest", "async", "procfile", "adapters"],
    "Use": ["see-inside", "limits", "network", "systemd", "kill-modes"],
    "In CI": ["ci/index", "ci/github-actions", "ci/gitlab", "ci/jenkins", "ci/buildkite", "ci/buildbot", "fleet"],
    "Look up": ["reference", "troubleshooting", "guarantees", "how-it-works", "comparison", "performance", "changes"],
    "Develop": ["vm", "systemd-env", "soak", "releasing"],
}
ELSEWHERE = {"changes": "CHANGELOG"}

project = "allgone"
html_title = project
extensions = ["myst_parser"]
root_doc = FIRST
include_patterns = ["*.md", "docs/**"]
exclude_patterns = [each.name for each in ROOT.iterdir() if each.is_dir() and each.name != "docs"]
source_suffix = {".md": "markdown"}
myst_heading_anchors = 6  # as a forge makes them
suppress_warnings = ["misc.highlighting_failure"]  # Pygments knows no ";" in a Procfile; that examples run is tested
templates_path = ["."]
html_theme = "furo"
html_additional_pages = {"index": "index.html"}
html_static_path = ["static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False


def with_navigation(_: Sphinx, name: str, source: list[str]) -> None:
    """A forge would show the table of contents as code, so the page has it only here."""
    if name != FIRST:
        return
    for caption, pages in NAVIGATION.items():
        entries = "\n".join(ELSEWHERE.get(page, f"docs/{page}") for page in pages)
        source[0] += f"\n```{{toctree}}\n:hidden:\n:caption: {caption}\n\n{entries}\n```\n"


def setup(app: Sphinx) -> None:
    app.connect("source-read", with_navigation)
