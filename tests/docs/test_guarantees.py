"""docs/guarantees.md names tests that there are, for each promise one at least."""

from __future__ import annotations

import ast
import re

import pytest

from docs import pages

PAGE = pages.ROOT / "docs" / "guarantees.md"


def _rows() -> list[tuple[str, str]]:
    """(section, row) for each row of each table, without its head."""
    found = []
    for title, text in pages.sections(PAGE).items():
        lines = [line for line in text.splitlines() if line.startswith("| ")]
        found += [(title, line) for line in lines[2:]]
    return found


ROWS = _rows()
NAMED = sorted({name for _, row in ROWS for name in re.findall(r"`(\w[\w/]*\.py::\w+)`", row)})


@pytest.mark.parametrize("name", NAMED)
def test_a_test_that_is_named_exists(name: str) -> None:
    path, _, function = name.partition("::")
    tree = ast.parse((pages.ROOT / "tests" / path).read_text(encoding="utf-8"))
    assert function in {each.name for each in tree.body if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef)}


def test_each_promise_is_shown_by_a_test() -> None:
    assert len(NAMED) > 50
    assert not [row for title, row in ROWS if title != "What is not promised" and ".py::test_" not in row]


def test_each_table_has_as_many_cells_in_each_row_as_in_its_head() -> None:
    for title, text in pages.sections(PAGE).items():
        assert len({line.count("|") for line in text.splitlines() if line.startswith("|")}) <= 1, title
