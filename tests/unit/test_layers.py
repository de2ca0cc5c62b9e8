"""Imports point down only, as the map in src/allgone/__init__.py says."""

from __future__ import annotations

import ast
from pathlib import Path

import allgone

ROOT = Path(allgone.__file__).parent
MODULES = sorted(path for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py")


def layer_map() -> dict[str, int]:
    """Part of the package -> how far up it stands, read from the indented lines of the package's docstring."""
    lines = [line for line in (allgone.__doc__ or "").splitlines() if line.startswith("    ")]
    rows = [[name.strip() for name in line.strip().split("  ")[0].split(",")] for line in lines]
    return {name: height for height, row in enumerate(reversed(rows)) for name in row}


def part_of(module: Path) -> str:
    part = module.relative_to(ROOT).parts[0].removesuffix(".py")
    return "cli" if part == "__main__" else part  # python -m allgone is the command


def imported(tree: ast.AST, package: str) -> set[str]:
    """Dotted names of all that is imported anywhere in the tree, functions and TYPE_CHECKING blocks included."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                base = ".".join([*package.split(".")[: len(package.split(".")) + 1 - node.level], base]).strip(".")
            found |= {f"{base}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Call) and getattr(node.func, "id", getattr(node.func, "attr", "")) in (
            "import_module",
            "__import__",
        ):
            found |= {arg.value for arg in node.args[:1] if isinstance(arg, ast.Constant)}
    return found


def imports_of(module: Path) -> set[str]:
    package = ".".join(["allgone", *module.relative_to(ROOT).parts[:-1]])
    return imported(ast.parse(module.read_text(encoding="utf-8")), package)


def violations(part: str, names: set[str], heights: dict[str, int]) -> list[str]:
    """Which of the imported `names` a module in `part` may not import."""
    wrong = []
    for name in names:
        words = name.split(".")
        if words[0] == "allgone" and (len(words) < 2 or words[1] not in heights or heights[words[1]] > heights[part]):
            wrong.append(name)
    return wrong


def test_every_module_is_on_the_map() -> None:
    heights = layer_map()
    assert {part_of(module) for module in MODULES} <= heights.keys()
    assert heights["errors"] < heights["_core"] < heights["_linux"] < heights["_backends"] < heights["_process"]
    assert heights["_process"] < heights["cli"]


def test_imports_point_down_only() -> None:
    heights = layer_map()
    wrong = {str(m.relative_to(ROOT)): violations(part_of(m), imports_of(m), heights) for m in MODULES}
    assert {module: names for module, names in wrong.items() if names} == {}


def test_an_import_that_points_up_is_seen_wherever_it_hides() -> None:
    heights = layer_map()
    for text in (
        "def f():\n    from allgone._process import popen",
        "from ..._process.popen import Popen",
        "from allgone import Popen",
        "import allgone._backends.choose as choose",
        "if TYPE_CHECKING:\n    from allgone.cli import main",
        "import importlib\nimportlib.import_module('allgone._process')",
    ):
        assert violations("_linux", imported(ast.parse(text), "allgone._linux.deeper"), heights), text


def test_core_imports_nothing_that_makes_system_calls_or_waits() -> None:
    tools = {
        "subprocess",
        "select",
        "selectors",
        "socket",
        "fcntl",
        "threading",
        "asyncio",
        "ctypes",
        "psutil",
        "resource",
    }
    assert {
        (module.name, name)
        for module in MODULES
        if part_of(module) in ("_core", "errors")
        for name in imports_of(module)
        if name.split(".")[0] in tools
    } == {("errors.py", "subprocess.CalledProcessError")}  # what a user catches
