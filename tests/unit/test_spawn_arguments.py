"""subprocess.Popen's arguments are read as this interpreter's subprocess reads them."""

from __future__ import annotations

import inspect
import subprocess
from pathlib import Path
from typing import Any

import pytest

from allgone._process.spawn_arguments import POSITIONAL, AlsoPass, argv_of, named


def test_positional_arguments_are_those_of_this_python() -> None:
    parameters = list(inspect.signature(subprocess.Popen.__init__).parameters.values())
    positional = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    assert positional == ["self", "args", *POSITIONAL]


def test_positional_and_keyword_arguments_are_put_together_by_name() -> None:
    assert named((-1, "/bin/sh"), {"shell": True}) == {"bufsize": -1, "executable": "/bin/sh", "shell": True}


def test_a_doubled_argument_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="multiple values for argument 'bufsize'"):
        named((-1,), {"bufsize": 0})


def test_one_positional_argument_too_many_is_a_type_error() -> None:
    assert len(named((None,) * len(POSITIONAL), {})) == len(POSITIONAL)
    with pytest.raises(TypeError, match="at most"):
        named((None,) * (len(POSITIONAL) + 1), {})


@pytest.mark.parametrize(
    ("args", "shell", "executable", "expected"),
    [
        (["ls", "-l"], False, None, (["ls", "-l"], "ls")),
        (("ls", b"-l"), False, None, (["ls", b"-l"], "ls")),
        (iter(["ls"]), False, None, (["ls"], "ls")),
        ("ls", False, None, (["ls"], "ls")),
        (b"ls", False, None, ([b"ls"], b"ls")),
        (Path("/bin/ls"), False, None, ([Path("/bin/ls")], Path("/bin/ls"))),
        (["name", "-l"], False, "/bin/ls", (["name", "-l"], "/bin/ls")),
        ([], False, "/bin/ls", ([], "/bin/ls")),
        ("echo $0", True, None, (["/bin/sh", "-c", "echo $0"], "/bin/sh")),
        (["echo $0", "x"], True, None, (["/bin/sh", "-c", "echo $0", "x"], "/bin/sh")),
        ("echo", True, "/bin/bash", (["/bin/bash", "-c", "echo"], "/bin/bash")),
    ],
)
def test_argv_and_executable(args: Any, shell: bool, executable: Any, expected: Any) -> None:
    assert argv_of(args, shell=shell, executable=executable) == expected


@pytest.mark.parametrize("args", [None, 5, 1.5, object()])
def test_args_of_a_wrong_type_are_a_type_error(args: Any) -> None:
    with pytest.raises(TypeError):
        argv_of(args, shell=False, executable=None)


def test_empty_args_are_a_value_error_that_says_so() -> None:
    with pytest.raises(ValueError, match="args is empty"):
        argv_of([], shell=False, executable=None)


def test_a_path_with_shell_is_a_type_error_as_in_the_standard_library() -> None:
    with pytest.raises(TypeError, match="path-like args is not allowed when shell is true"):
        argv_of(Path("/bin/ls"), shell=True, executable=None)


def test_also_pass_is_false_for_subprocess_and_can_be_iterated() -> None:
    also = AlsoPass((7, 8))
    assert not also
    assert list(also) == [7, 8]
