"""Each launcher there is, run by hand: the compiled one, the interpreted one, and the aarch64 one under qemu."""

from __future__ import annotations

import functools
import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from allgone._linux import fds, launcher
from allgone._linux.launcher import Failure, Prefix
from support.tiers import missing

KINDS = ("compiled", "interpreted", "aarch64")
_AARCH64 = ("aarch64-linux-gnu-gcc", "qemu-aarch64-static")


@dataclass(frozen=True)
class Launched:
    """What became of a command behind a launcher."""

    failure: Failure | None
    returncode: int
    output: bytes
    errors: bytes


@dataclass(frozen=True)
class Launcher:
    """One of the launchers."""

    kind: str
    emulated: tuple[str, str] | None = None  # qemu and the binary

    def in_front(self, before: Prefix) -> Prefix:
        """The prefix as `launcher.prefix` makes it, for the emulated one with qemu before it."""
        if self.emulated is None:
            return before
        qemu, binary = self.emulated
        return Prefix(qemu, (qemu, "-0", before.argv[0], binary, *before.argv[1:]), before.pass_fds)

    def start(
        self,
        argv: Sequence[Any],
        executable: Any = None,
        *,
        status: int | None = None,
        pass_fds: tuple[int, ...] = (),
        options: dict[str, Any] | None = None,
        **popen: Any,
    ) -> subprocess.Popen[bytes]:
        """A plain subprocess.Popen of the launcher with the command behind it; `options` are `launcher.prefix`'s."""
        with ExitStack() as stack:
            restored = popen.get("restore_signals", True)
            made = launcher.prefix(status=status, restore_signals=restored, **(options or {}))
            before = self.in_front(stack.enter_context(made))
            words = [*before.argv, argv[0] if executable is None else executable, *argv]
            return subprocess.Popen(
                words, executable=before.executable, pass_fds=(*before.pass_fds, *pass_fds), **popen
            )

    def run(self, argv: Sequence[Any], executable: Any = None, **how: Any) -> Launched:
        """Run a command behind it to its end, with the failure that it reported."""
        reader, writer = fds.pipe()
        try:
            try:
                process = self.start(
                    argv, executable, status=writer, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **how
                )
            finally:
                os.close(writer)
            with process:
                failure, _ = launcher.outcome(reader)
                output, errors = process.communicate()
        finally:
            os.close(reader)
        return Launched(failure, process.returncode, output, errors)


def get(kind: str, request: pytest.FixtureRequest) -> Launcher:
    """The launcher of that kind; the package uses it until the test's end. Skips where it can't be had."""
    if kind == "compiled" and not os.access(launcher.COMPILED, os.X_OK):
        missing("the package was built without a compiler: no compiled launcher")
    used = "interpreted" if kind == "interpreted" else "compiled"
    request.getfixturevalue("monkeypatch").setattr(launcher, "kind", lambda: used)
    if kind != "aarch64":
        return Launcher(kind)
    return Launcher(kind, _aarch64(request.getfixturevalue("tmp_path_factory").getbasetemp()))


@functools.cache
def _aarch64(folder: Path) -> tuple[str, str]:
    cc, qemu = map(shutil.which, _AARCH64)
    if cc is None or qemu is None:
        missing(f"no aarch64 launcher without {' and '.join(_AARCH64)}")
    folder /= "aarch64"
    folder.mkdir()
    if not build_script().build(folder, [cc]):
        pytest.fail(f"{cc} does not compile the launcher")
    return qemu, str(folder / "allgone-launch")


@functools.cache
def build_script() -> ModuleType:
    """scripts/build_launcher.py as a module."""
    path = Path(__file__).resolve().parents[2] / "scripts/build_launcher.py"
    spec = importlib.util.spec_from_file_location("build_launcher", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module
