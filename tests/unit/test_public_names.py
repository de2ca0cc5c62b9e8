"""Every public name resolves lazily, is seen by static tools, and costs nothing before it is used."""

from __future__ import annotations

import ast
import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

import allgone

SOURCE = ast.parse(Path(allgone.__file__).read_text(encoding="utf-8"))
WHAT_LOADED = """\
import json, sys
before = set(sys.modules)
{statement}
print(json.dumps(sorted(set(sys.modules) - before)))
"""


def loaded_by(statement: str) -> set[str]:
    """The modules that a fresh interpreter imports for `statement`."""
    done = subprocess.run(
        [sys.executable, "-c", WHAT_LOADED.format(statement=statement)], capture_output=True, check=True
    )
    return set(json.loads(done.stdout))


def static_imports() -> dict[str, tuple[str, str]]:
    """public name -> (module, name there), from the block that only static tools read."""
    block = next(node for node in SOURCE.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
    return {
        alias.asname or alias.name: (node.module or "", alias.name)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }


def lazy_imports() -> dict[str, tuple[str, str]]:
    return {name: (module, name) for name, module in allgone._HOME.items()}


def test_static_tools_and_the_lazy_table_see_the_same_names_in_the_same_places() -> None:
    assert static_imports() == lazy_imports()
    assert sorted(static_imports()) == allgone.__all__


def test_static_names_are_re_exported_explicitly() -> None:
    # mypy --strict takes "import X as X", and nothing less, for a re-export.
    block = next(node for node in SOURCE.body if isinstance(node, ast.If))
    assert all(alias.asname for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names)


@pytest.mark.parametrize("name", allgone.__all__)
def test_public_name_resolves(name: str) -> None:
    module, own_name = lazy_imports()[name]
    assert getattr(allgone, name) is getattr(importlib.import_module(module), own_name)
    assert name in dir(allgone)


def test_an_unknown_name_is_an_attribute_error_that_names_it() -> None:
    with pytest.raises(AttributeError, match="no attribute 'popen'"):
        _ = allgone.popen  # type: ignore[attr-defined]


def test_import_allgone_imports_nothing_else() -> None:
    assert loaded_by("import allgone") <= {"allgone", "__future__"}


def test_popen_does_not_import_what_only_reports_and_systemd_need() -> None:
    loaded = loaded_by("import allgone; allgone.Popen")
    assert not {name.split(".")[0] for name in loaded} & {"psutil", "pyroute2", "pystemd", "asyncio", "click"}


def test_the_package_says_that_it_is_typed() -> None:
    assert (Path(allgone.__file__).parent / "py.typed").exists()
