"""The runner of console blocks notices what it is there to notice."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from docs import console
from docs.console import Varying

EXACTLY = Varying()


def run(block: str, folder: Path, varying: Varying = EXACTLY) -> None:
    for step in console.steps(block):
        console.run(step, folder, dict(os.environ), varying)


@pytest.mark.parametrize(
    "block",
    [
        "$ echo one\none\n",
        "$ echo one two\none …\n",
        "$ printf 'a\\nb\\nc\\nd\\n'\na\n…\nd\n",
        "$ echo 'a   b'\na b\n",
        "$ echo \\\n> on\non\n",
        "$ true\n$ echo anything at all\n",
    ],
)
def test_output_as_shown_passes(block: str, tmp_path: Path) -> None:
    run(block, tmp_path)


@pytest.mark.parametrize(
    "block",
    [
        "$ echo one\ntwo\n",
        "$ echo one\none\ntwo\n",
        "$ printf 'one\\ntwo\\n'\none\n",
        "$ echo 3\n4\n",
        "$ exit 3\n",
        "$ echo one; exit 3\none\n",
        "$ no-such-command\n",
    ],
)
def test_output_or_exit_status_that_differs_fails(block: str, tmp_path: Path) -> None:
    with pytest.raises(AssertionError):
        run(block, tmp_path)


def test_numbers_vary_where_the_page_says_so(tmp_path: Path) -> None:
    run("$ echo pid 17, 0.25 s\npid 4, 12 s\n", tmp_path, Varying(numbers=True))
    with pytest.raises(AssertionError):
        run("$ echo pid 17\npid x\n", tmp_path, Varying(numbers=True))


def test_names_vary_where_the_page_says_so(tmp_path: Path) -> None:
    names = Varying(names=("sh", "sleep"))
    run("$ echo 'stopped sh (pid 17)'\nstopped sleep (pid 17)\n", tmp_path, names)
    for other in ("stopped bash (pid 17)", "stopped shell (pid 17)", "stopped sh (pid 18)"):
        with pytest.raises(AssertionError):
            run(f"$ echo '{other}'\nstopped sleep (pid 17)\n", tmp_path, names)
