"""Launcher and guard are built small and free of libc; without a working compiler there are none, and no harm."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from support import launchers
from support.tiers import missing

from allgone._linux import launcher


@pytest.mark.parametrize("program", ["allgone-launch", "allgone-guard"])
def test_they_are_static_small_and_executable(tmp_path: Path, program: str) -> None:
    script = launchers.build_script()
    if script.compiler() is None:
        missing("no C compiler")
    assert script.build(tmp_path)
    target = tmp_path / program
    assert target.stat().st_size < 8_000
    assert os.access(target, os.X_OK)
    image = target.read_bytes()
    assert image[:4] == b"\x7fELF"
    assert b"GLIBC" not in image
    assert b"ld-linux" not in image


@pytest.mark.parametrize("cc", [[], ["false"]], ids=["none", "broken"])
def test_without_a_working_compiler_there_is_no_file_and_a_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], cc: list[str]
) -> None:
    script = launchers.build_script()
    monkeypatch.setenv("CC", " ".join(cc))
    for name in script.PROGRAMS:
        (tmp_path / name).write_text("left from before")
    assert not script.build(tmp_path)
    assert os.listdir(tmp_path) == []
    assert "interpreted launcher will be used" in capsys.readouterr().err


def test_the_interpreted_one_is_plain_ascii_for_any_locale_takes_it() -> None:
    source = Path(launcher.COMPILED).with_name("interpreted_launcher.py").read_bytes()
    assert source.isascii()
    assert b"\0" not in source


def ask(**environment: str) -> subprocess.CompletedProcess[str]:
    code = "from allgone._linux import launcher; print(launcher.kind(), launcher.program())"
    return subprocess.run(
        [launcher.sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, **environment}
    )


def test_the_variable_forces_the_interpreted_one() -> None:
    assert ask(ALLGONE_LAUNCHER="interpreted").stdout == f"interpreted {launcher.sys.executable}\n"


def test_any_other_value_of_the_variable_is_an_error() -> None:
    assert "ALLGONE_LAUNCHER must be compiled or interpreted, not 'sh'" in ask(ALLGONE_LAUNCHER="sh").stderr


def test_without_a_compiled_one_the_interpreted_one_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ALLGONE_LAUNCHER", raising=False)
    monkeypatch.setattr(launcher, "COMPILED", "/nonexistent/allgone-launch")
    launcher.kind.cache_clear()
    try:
        assert launcher.kind() == "interpreted"
    finally:
        launcher.kind.cache_clear()
