"""Every example in a docstring of allgone does what it says."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

import allgone


def _examples() -> list[doctest.DocTest]:
    public = {name: getattr(allgone, name) for name in allgone.__all__}
    found = []
    for each in pkgutil.walk_packages(allgone.__path__, "allgone."):
        if each.name.rpartition(".")[2] == "__main__":
            continue  # importing it runs the command
        module = importlib.import_module(each.name)
        known = {**vars(allgone), **public, **vars(module)}
        found += [test for test in doctest.DocTestFinder().find(module, globs=known) if test.examples]
    return found


@pytest.mark.parametrize("example", _examples(), ids=lambda example: example.name)
def test_docstring_example_runs(example: doctest.DocTest) -> None:
    said: list[str] = []
    if doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(example, out=said.append).failed:
        pytest.fail("".join(said), pytrace=False)
