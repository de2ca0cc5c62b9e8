"""Names from users never become paths unchecked."""

from __future__ import annotations

import os

import pytest

from allgone._core.names import MAX_NAME, checked_name, made_up_name


@pytest.mark.parametrize("name", ["web", "0", "_x", "web-1.2_x@a:b+c", "x" * MAX_NAME, "guardian", "iodine", "cgroup"])
def test_good_name_is_taken_as_it_is(name: str) -> None:
    assert checked_name(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "", ".", "..", "/", "a/b", "../../x", "/etc", "a/../b", "./a", ".hidden", "-x", "@x", ":x",
        "a\0b", "a\nb", "a\n", "\n", "a b", "a\tb", "a\\b", "ä", "a\udcff", "$(x)", "%n", "*",
        "x" * (MAX_NAME + 1), "x" * 5000,
        "guard", "cgroup.procs", "cgroup.kill", "cgroup.", "memory.max", "pids.max", "cpu.max", "io.weight",
    ],
)  # fmt: skip
def test_bad_name_is_a_value_error(name: str) -> None:
    with pytest.raises(ValueError, match="can't be used"):
        checked_name(name)


@pytest.mark.parametrize("name", [None, 5, b"web", ["web"], os.path])
def test_a_name_that_is_no_str_is_a_type_error(name: object) -> None:
    with pytest.raises(TypeError, match="name must be a str"):
        checked_name(name)  # type: ignore[arg-type]


def test_the_message_stays_short_and_says_what_is_allowed() -> None:
    with pytest.raises(ValueError, match="characters A-Z") as caught:
        checked_name("x" * 5000)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    ("executable", "readable"),
    [
        ("/usr/sbin/nginx", "nginx"),
        ("gunicorn", "gunicorn"),
        (b"/bin/\xff\xfe", "command"),
        ("my server (2)", "my-server-2"),
        ("..", "command"),
        ("/opt/x/", "command"),
        ("", "command"),
        (None, "command"),
        ("x" * 500, "x" * 40),
        ("cgroup.procs", "cgroup.procs"),
        ("-rf", "rf"),
        ("a\nb\0c", "a-b-c"),
    ],
)
def test_a_made_up_name_tells_what_runs_and_is_a_good_name(executable: object, readable: str) -> None:
    assert made_up_name(executable, 7) == f"7-{readable}"
    assert checked_name(made_up_name(executable, 7))


def test_a_path_object_gives_a_name_too(tmp_path: os.PathLike[str]) -> None:
    assert made_up_name(tmp_path, 1).startswith("1-")
