"""Every example of README.md and docs/ does what the page says."""

from __future__ import annotations

import doctest
import os
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from support.tiers import missing

import allgone
from allgone._linux import tracer
from docs import console, pages
from docs.pages import Block

# Pages whose examples other tests run.
ELSEWHERE = {
    "comparison.md": "it takes minutes: test_comparison.py",
    "buildbot.md": "it takes a Buildbot: tests/runners/buildbot",
    "systemd-env.md": "it boots a systemd: tests/systemd",
    "limits.md": "it takes controllers: tests/vm/inside/test_limits.py",
    "releasing.md": "it makes a release: tests/release",
    "soak.md": "it takes minutes: tests/kernel/test_soak.py",
    "systemd.md": "it needs one: tests/systemd/test_docs.py",
    "index.md": "tests/systemd/test_ci.py",
    **{
        f"{name}.md": f"tests/runners/test_{name.split('-')[0]}.py"
        for name in ("buildkite", "gitlab", "github-actions", "jenkins")
    },
    "vm.md": "it boots a virtual machine: tests/vm",
}

BLOCKS = {
    page: [each for each in pages.blocks(page) if each.language != "text"]
    for page in pages.PAGES
    if page.name not in ELSEWHERE
}

# What a page shows and this test does not run, and why.
NOT_RUN = {
    ("README.md", "scripts/test"): "it is what runs this test",
    ("README.md", "scripts/demo"): "it installs: test_install.py",
    ("README.md", "pip install"): "it installs: test_install.py",
    ("docs/how-it-works.md", "systemd-run"): "it needs a running systemd",
}
DEMO = pages.ROOT / "scripts" / "demo"


class Page:
    """A page being read from its top: a temporary directory, one namespace, one free port for its 8000."""

    def __init__(self, path: Path, folder: Path, port: int) -> None:
        self._folder = folder
        self._blocks = [each for each in BLOCKS[path] if each.mark("not run") is None]
        self._namespace: dict[str, Any] = {"__name__": "__main__"}
        self._done: set[Block] = set()
        self._port = str(port)

    def run_up_to(self, block: Block) -> None:
        """The block, and those before it that were not run yet and can be (where a test is run by itself)."""
        for each in self._blocks[: self._blocks.index(block)]:
            if each not in self._done and not lacking(each):
                self._run(each)
        self._run(block)

    def _run(self, block: Block) -> None:
        self._done.add(block)
        text = self._with_own_port(block.text)
        name = block.mark("file")
        if name is not None:
            (self._folder / name).write_text(text, encoding="utf-8")
        elif block.language == "python":
            exec(compile("\n" * (block.line - 1) + text, str(block.page), "exec"), self._namespace)
        elif block.language == "pycon":
            self._doctest(block, text)
        elif block.language == "console":
            names = tuple((block.mark("names vary") or "").split())
            varying = console.Varying(numbers=block.mark("numbers vary") is not None, names=names)
            text = text.replace("$ ./scripts/demo\n", f"$ {sys.executable} {DEMO}.py\n")
            for step in console.steps(text):
                console.run(step, self._folder, dict(os.environ), varying)
        else:
            pytest.fail(f"{block}: a block must be python, pycon, console, text or a file's, not {block.language!r}")

    def _with_own_port(self, text: str) -> str:
        return re.sub(r"\b8000\b", self._port, text)

    def _doctest(self, block: Block, text: str) -> None:
        test = doctest.DocTestParser().get_doctest(text, {}, str(block), str(block.page), block.line - 1)
        test.globs = self._namespace
        runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
        said: list[str] = []
        result = runner.run(test, out=said.append, clear_globs=False)
        if result.failed:
            pytest.fail("".join(said), pytrace=False)


def lacking(block: Block) -> str:
    """What the block needs and this machine has not; "" where it can be run."""
    for need in (block.mark("needs") or "").split():
        if need == "cgroup":
            if "ALLGONE_CGROUP" not in os.environ:
                return "no cgroup for tests"
        elif need == "root":
            if os.geteuid() != 0:
                return "not root"
        elif need == "trace":
            try:
                tracer.check()
            except allgone.Unsupported as e:
                return str(e)
        elif shutil.which(need) is None:
            return f"{need} is not installed"
    return ""


@pytest.fixture(scope="module")
def read(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[Path, Page]]:
    """The pages, each as far as it was read."""
    with ExitStack() as reserved:
        yield {
            path: Page(path, tmp_path_factory.mktemp(path.stem), reserved.enter_context(allgone.reserved_port()))
            for path in BLOCKS
        }


@pytest.fixture
def _as_the_reader_would(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, searchable_path: None) -> None:
    beside_python = os.path.dirname(sys.executable)
    monkeypatch.setenv("PATH", beside_python + os.pathsep + os.environ["PATH"])
    monkeypatch.delenv("ALLGONE_BACKEND", raising=False)
    monkeypatch.delenv("ALLGONE_LAUNCHER", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))  # gunicorn puts a socket there


@pytest.mark.usefixtures("_as_the_reader_would")
@pytest.mark.parametrize(
    "block", [each for found in BLOCKS.values() for each in found if each.mark("not run") is None], ids=str
)
def test_example_runs(
    block: Block, read: dict[Path, Page], request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "cgroup" in (block.mark("needs") or "").split():
        request.getfixturevalue("cgroup_base")
    if reason := lacking(block):
        missing(reason)
    page = read[block.page]
    monkeypatch.chdir(page._folder)
    page.run_up_to(block)


def test_what_is_not_run_is_listed_with_its_reason() -> None:
    left_out = {
        (str(block.page.relative_to(pages.ROOT)), line)
        for found in BLOCKS.values()
        for block in found
        if block.mark("not run") is not None
        for line in block.text.splitlines()
    }
    unlisted = [f"{page}: {line}" for page, line in left_out if not any(page == p and t in line for p, t in NOT_RUN)]
    unused = [(p, t) for p, t in NOT_RUN if not any(page == p and t in line for page, line in left_out)]
    assert not unlisted
    assert not unused


def test_the_demo_is_what_its_script_ends_with() -> None:
    assert DEMO.read_text(encoding="utf-8").splitlines()[-1] == 'exec .venv/bin/python scripts/demo.py "$@"'
