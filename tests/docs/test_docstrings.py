"""Every example in a docstring of allgone does what it says."""

from __future__ import annotations

import doctest
import importlib
import inspect
import pkgutil
import re

import pytest

import allgone
from docs import pages


def _examples() -> list[doctest.DocTest]:
    public = {name: getattr(allgone, name) for name in allgone.__all__}
    found = []
    for each in pkgutil.walk_packages(allgone.__path__, "allgone."):
        if each.name.rpartition(".")[2] == "__main__":
            continue  # importing it runs the command
        if each.name == "allgone.contrib.buildbot":
            continue  # Buildbot is not installed here: tests/runners/buildbot
        module = importlib.import_module(each.name)
        known = {**vars(allgone), **public, **vars(module)}
        found += [test for test in doctest.DocTestFinder().find(module, globs=known) if test.examples]
    return found


EXAMPLES = _examples()


def _functions() -> list[str]:
    """Public names that one calls: neither errors nor what is only ever handed out."""
    called = [name for name in allgone.__all__ if inspect.isfunction(getattr(allgone, name))]
    return [*called, "CgroupBackend", "Popen", "ProcessGroupBackend", "StopPolicy", "capture", "group"]


@pytest.mark.parametrize("name", _functions())
def test_what_one_calls_has_an_example(name: str) -> None:
    shown = [block.text for page in pages.PAGES for block in pages.blocks(page)]
    shown += [each.source for example in EXAMPLES for each in example.examples]
    assert any(re.search(rf"\b{name}\(", text) for text in shown)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.name)
def test_docstring_example_runs(example: doctest.DocTest) -> None:
    said: list[str] = []
    if doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(example, out=said.append).failed:
        pytest.fail("".join(said), pytrace=False)
