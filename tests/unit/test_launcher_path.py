"""A launcher finds and refuses commands as subprocess does: each case is tried with both, and compared."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.launchers import Launcher

from allgone._linux.launcher import EXEC

Outcome = tuple[object, ...]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders with something called ``prog`` in each: what happens when it is executed is the folder's name."""
    root = tmp_path_factory.mktemp("path")

    def prog(folder: str, text: str, mode: int = 0o755) -> None:
        (root / folder).mkdir(exist_ok=True)
        (root / folder / "prog").write_text(text)
        (root / folder / "prog").chmod(mode)

    prog("good", "#!/bin/sh\necho good $0")
    prog("other", "#!/bin/sh\necho other")
    prog("with blank", "#!/bin/sh\necho blank")
    prog("no-x", "#!/bin/sh\necho no-x", 0o644)
    prog("no-shebang", "echo no-shebang")
    prog("no-interpreter", "#!/nonexistent/interpreter\n")
    prog("empty", "")
    (root / "folder/prog").mkdir(parents=True)
    (root / "nothing").mkdir()
    (root / "file").touch()
    (root / "loop").mkdir()
    (root / "loop/prog").symlink_to("prog")
    return root


@pytest.fixture(autouse=True)
def _in_folders(folders: Path) -> Iterator[None]:
    before = os.getcwd()
    os.chdir(folders / "good")
    yield
    os.chdir(before)


def plain(argv: list[Any], executable: Any = None, **how: Any) -> Outcome:
    """What subprocess does."""
    try:
        done = subprocess.run(argv, executable=executable, capture_output=True, **how)
    except OSError as e:
        return "failed", e.errno
    return "ran", done.stdout, done.returncode


def launched(launcher: Launcher, argv: list[Any], executable: Any = None, **how: Any) -> Outcome:
    """The same behind a launcher."""
    done = launcher.run(argv, executable, **how)
    if done.failure is not None:
        assert (done.returncode, done.output, done.errors) == (125, b"", b"")
        assert done.failure.stage == EXEC
        return "failed", done.failure.error
    return "ran", done.output, done.returncode


SEARCHED = {
    "good": "ran",
    "nothing:good": "ran",
    "other:good": "ran",
    "absent:good": "ran",
    "no-x:good": "ran",
    "file:good": "ran",
    "folder:good": "ran",
    "no-shebang:good": "ran",
    "no-interpreter:good": "ran",
    "loop:good": "ran",
    "good/": "ran",
    "good//": "ran",
    "with blank": "ran",
    "x" * 300 + ":good": "ran",
    "x/" * 2500 + ":good": "ran",
    "nothing": errno.ENOENT,
    "absent": errno.ENOENT,
    "file": errno.ENOTDIR,
    "file:nothing": errno.ENOENT,
    "nothing:file": errno.ENOTDIR,
    "no-x": errno.EACCES,
    "no-x:nothing": errno.EACCES,
    "nothing:no-x:file": errno.EACCES,
    "folder": errno.EACCES,
    "no-shebang": errno.ENOEXEC,
    "no-shebang:no-x": errno.ENOEXEC,
    "no-x:no-shebang": errno.EACCES,
    "no-interpreter": errno.ENOENT,
    "empty": errno.ENOEXEC,
    "loop": errno.ELOOP,
    "x" * 300: errno.ENAMETOOLONG,
    "x/" * 2500: errno.ENAMETOOLONG,
    "x/" * 2500 + ":nothing": errno.ENAMETOOLONG,
    "nothing:" * 500: errno.ENOENT,
}


@pytest.mark.parametrize("path", SEARCHED, ids=lambda path: path[:30])
def test_search_in_path_of_the_childs_environment(launcher: Launcher, folders: Path, path: str) -> None:
    absolute = ":".join(str(folders / each) for each in path.split(":") if each)
    environment = {"PATH": absolute}
    outcome = launched(launcher, ["prog"], env=environment)
    assert outcome == plain(["prog"], env=environment)
    assert SEARCHED[path] in outcome


@pytest.mark.parametrize("path", ["", ":", ":nothing", "nothing:", "nothing::nothing", "..", "../good", ".", "nothing"])
def test_empty_and_relative_entries_of_path_are_relative_to_cwd(launcher: Launcher, folders: Path, path: str) -> None:
    for cwd in (folders / "good", folders / "nothing", None):
        environment = {"PATH": path}
        outcome = launched(launcher, ["prog"], env=environment, cwd=cwd)
        assert outcome == plain(["prog"], env=environment, cwd=cwd), cwd


@pytest.mark.parametrize("environment", [{}, {"PATHS": "/x"}, {"XPATH": "/x"}, {b"PATH": b"/nonexistent:/bin"}])
def test_without_path_the_default_one_is_searched(launcher: Launcher, environment: dict[Any, Any]) -> None:
    outcome = launched(launcher, ["echo", "hi"], env=environment)
    assert outcome == plain(["echo", "hi"], env=environment) == ("ran", b"hi\n", 0)


def test_an_inherited_environment_is_searched_too(launcher: Launcher, folders: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("PATH", f"{folders}/other:/bin")
    assert launched(launcher, ["prog"]) == plain(["prog"]) == ("ran", b"other\n", 0)


@pytest.mark.parametrize(
    "name",
    [
        "prog", "./prog", "../good/prog", "../other/prog", "../no-x/prog", "../no-shebang/prog", "../absent/prog",
        "../file/prog", "../folder/prog", "../loop/prog", "../no-interpreter/prog", "prog/", "/", "", ".", "..", "...",
        "/bin/echo", "/nonexistent/echo", b"/bin/echo", "x" * 255, "x" * 256, "x" * 5000, "./" + "x" * 5000, "a b", "é",
        b"\xff\xfe", "PATH", "-", "--help", "with blank/prog",
    ],
)  # fmt: skip
def test_name_of_any_sort(launcher: Launcher, name: Any) -> None:
    environment = {"PATH": "/nonexistent:/bin"}
    assert launched(launcher, [name], env=environment) == plain([name], env=environment)


def test_a_relative_executable_is_found_from_cwd(launcher: Launcher, folders: Path) -> None:
    for cwd, expected in (("good", "ran"), ("other", "ran"), ("nothing", "failed")):
        outcome = launched(launcher, ["./prog"], cwd=folders / cwd)
        assert outcome == plain(["./prog"], cwd=folders / cwd)
        assert outcome[0] == expected


def test_an_undecodable_folder_in_path(launcher: Launcher, folders: Path) -> None:
    odd = os.fsencode(folders) + b"/\xff\xfe"
    os.makedirs(odd, exist_ok=True)
    with open(odd + b"/odd-prog", "wb") as f:
        f.write(b"#!/bin/sh\necho odd")
    os.chmod(odd + b"/odd-prog", 0o755)
    environment = {b"PATH": odd}
    assert (
        launched(launcher, ["odd-prog"], env=environment)
        == plain(["odd-prog"], env=environment)
        == ("ran", b"odd\n", 0)
    )


@pytest.mark.parametrize("executable", ["/bin/sh", "sh", b"sh"])
def test_executable_differs_from_argv0(launcher: Launcher, executable: Any) -> None:
    argv = ["renamed", "-c", "cat /proc/$$/cmdline"]
    assert launched(launcher, argv, executable) == ("ran", b"renamed\0-c\0cat /proc/$$/cmdline\0", 0)


@pytest.mark.parametrize("argv", [[], [""], [b""]], ids=repr)
def test_an_empty_argv_and_an_empty_argv0_get_through(launcher: Launcher, argv: list[Any]) -> None:
    show = "/bin/cat"  # with no arguments, and nothing on stdin, it ends well
    outcome = launched(launcher, argv, show, stdin=subprocess.DEVNULL)
    assert outcome == plain(argv, show, stdin=subprocess.DEVNULL) == ("ran", b"", 0)


def test_an_empty_argv0_with_arguments(launcher: Launcher) -> None:
    argv = ["", "-c", "cat /proc/$$/cmdline"]
    assert launched(launcher, argv, "/bin/sh") == plain(argv, "/bin/sh")
