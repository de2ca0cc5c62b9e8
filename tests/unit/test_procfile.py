"""What `allgone up` makes of Procfile, .env and options: as Honcho, and a clear error where that would not do."""

from __future__ import annotations

from pathlib import Path

import pytest

from allgone.cli.procfile import Asked, Entry, entries

PROCFILE = "web: serve --port $PORT\nworker: work\n# a comment\n"


@pytest.fixture(autouse=True)
def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "Procfile").write_text(PROCFILE)
    monkeypatch.chdir(tmp_path)
    for name in ("PORT", "PROCFILE"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def ports(found: list[Entry]) -> dict[str, str]:
    return {each.name: each.env["PORT"] for each in found}


def test_each_type_has_a_hundred_ports_and_each_process_its_own() -> None:
    found = entries(Asked(concurrency="web=2,worker=1"))
    assert ports(found) == {"web.1": "5000", "web.2": "5001", "worker.1": "5100"}
    assert [each.command for each in found] == ["serve --port $PORT"] * 2 + ["work"]
    assert [each.env["HONCHO_PROCESS_NAME"] for each in found] == ["web.1", "web.2", "worker.1"]


def test_only_those_that_are_named_in_that_order_and_once() -> None:
    assert [each.name for each in entries(Asked(("worker", "web", "worker")))] == ["worker.1", "web.1"]
    assert [each.name for each in entries(Asked(concurrency="web=0"))] == ["worker.1"]


def test_quiet_is_by_type() -> None:
    assert {each.name: each.quiet for each in entries(Asked(quiet="web"))} == {"web.1": True, "worker.1": False}


@pytest.mark.parametrize(
    ("given", "files", "environment", "expected"),
    [
        (None, None, None, "5000"),
        (None, None, "4200", "4200"),
        (None, "4300", "4200", "4300"),
        ("4400", "4300", "4200", "4400"),
    ],
)
def test_port_option_before_files_before_environment(
    app: Path,
    monkeypatch: pytest.MonkeyPatch,
    given: str | None,
    files: str | None,
    environment: str | None,
    expected: str,
) -> None:
    if files is not None:
        (app / ".env").write_text(f"PORT={files}\n")
    if environment is not None:
        monkeypatch.setenv("PORT", environment)
    assert ports(entries(Asked(port=given)))["web.1"] == expected


def test_procfile_option_before_files_before_environment(app: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("one", "two", "three"):
        (app / f"Procfile.{name}").write_text(f"{name}: true")
    monkeypatch.setenv("PROCFILE", "Procfile.one")
    assert [each.name for each in entries(Asked())] == ["one.1"]
    (app / ".env").write_text("PROCFILE=Procfile.two")
    assert [each.name for each in entries(Asked())] == ["two.1"]
    assert [each.name for each in entries(Asked(procfile="Procfile.three"))] == ["three.1"]


def test_the_later_environment_file_wins_and_one_that_is_not_there_is_named(
    app: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (app / ".env").write_text("NEVER=read")
    (app / "one").write_text("A=1\nB='1 1'\n")
    (app / "two").write_text('A=2\nC="a\\nb"\n')
    env = entries(Asked(env="one, two, three"))[0].env
    assert (env["A"], env["B"], env["C"]) == ("2", "1 1", "a\nb")
    assert "NEVER" not in env
    assert capfd.readouterr().err == "allgone: there is no environment file ./three\n"


def test_both_files_are_below_the_app_root(app: Path) -> None:
    (app / "app").mkdir()
    (app / "app" / "Procfile").write_text("other: true")
    (app / "app" / ".env").write_text("PORT=6000")
    assert ports(entries(Asked(app_root="app"))) == {"other.1": "6000"}


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (Asked(("web", "wrong")), r"there is no process 'wrong' in \./Procfile; it has web, worker"),
        (Asked(concurrency="wrong=2"), "--concurrency: there is no process 'wrong'"),
        (Asked(concurrency="web"), "--concurrency: 'web' is not NAME=NUMBER"),
        (Asked(concurrency="web=-1"), "'web=-1' is not NAME=NUMBER"),
        (Asked(concurrency="web=0,worker=0"), "nothing to start: 0 of each"),
        (Asked(quiet="wrong"), "--quiet: there is no process 'wrong'"),
        (Asked(port="http"), "port must be a number from 1 to 65535, not 'http'"),
        (Asked(port="65536"), "port must be a number"),
        (Asked(procfile="empty"), r"nothing to start: \./empty names no processes"),
        (Asked(procfile="double"), r"\./double: process names must be unique"),
        (Asked(env="unclosed"), r"\./unclosed can't be understood: No closing quotation"),
    ],
)
def test_what_makes_no_sense_is_an_error_that_says_what(app: Path, asked: Asked, message: str) -> None:
    (app / "empty").write_text("# nothing\n")
    (app / "double").write_text("web: one\nweb: two\n")
    (app / "unclosed").write_text("A='1\n")
    with pytest.raises(ValueError, match=message):
        entries(asked)


@pytest.mark.parametrize("asked", [Asked(procfile="none"), Asked(procfile="."), Asked(env="."), Asked(app_root="none")])
def test_a_file_that_cannot_be_read_is_an_oserror(asked: Asked) -> None:
    with pytest.raises(OSError, match=r"none|Is a directory"):
        entries(asked)
