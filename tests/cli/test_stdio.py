"""stdin, stdout, stderr, other fds and the environment are the command's, untouched."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from support.programs import PATIENCE

from cli.command import ALLGONE, Allgone

OPEN_FDS = 'for fd in 0 1 2 3 4 5 6 7 8 9; do [ -e /proc/$$/fd/$fd ] && printf "%s " $fd >&9; done; true'


def through_shell(script: str, *words: str, **keywords: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sh", "-c", script, "sh", *words], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PATIENCE,
        check=False, **keywords,
    )  # fmt: skip


def test_data_goes_through_unchanged(allgone: Allgone) -> None:
    data = os.urandom(1 << 20)
    done = subprocess.run(
        allgone.args("sh", "-c", "tee /dev/stderr"), input=data, capture_output=True, timeout=PATIENCE, check=True
    )
    assert done.stdout == done.stderr == data


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&-", "<&- >&- 2>&-"])
def test_what_is_closed_stays_closed(allgone: Allgone, closed: str) -> None:
    """Also where allgone opens files of its own, which could come to be 0, 1 or 2."""
    script = f'exec 9>&1; "$@" {closed}'
    with_allgone = through_shell(script, *allgone.args("sh", "-c", OPEN_FDS, options=["--report", "/dev/null"]))
    without = through_shell(script, "sh", "-c", OPEN_FDS)
    assert with_allgone.stdout == without.stdout
    assert with_allgone.returncode == 0
    assert with_allgone.stderr == ""


@pytest.mark.parametrize("closed", ["<&- >&- 2>&-", "2>&-"])
def test_a_message_that_nobody_can_read_is_no_failure_and_goes_nowhere_else(allgone: Allgone, closed: str) -> None:
    script = f'exec 9>&1; "$@" {closed}'
    done = through_shell(
        script, *allgone.args("sh", "-c", "sleep 1000 & echo x >&9; exit 3", options=["--report=/dev/null"])
    )
    assert (done.returncode, done.stdout, done.stderr) == (3, "x\n", "")


def test_a_broken_stderr_does_not_change_the_exit_status(allgone: Allgone) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        assert allgone.run("sh", "-c", "sleep 1000 & exit 3", stderr=writer).returncode == 3
    finally:
        os.close(writer)


def test_inherited_fds_are_passed_on(allgone: Allgone) -> None:
    """A make job server, socket activation, process substitution."""
    done = through_shell('exec 7<<end\nhere\nend\n"$@"', *allgone.args("sh", "-c", "cat <&7"))
    assert (done.stdout, done.stderr) == ("here\n", "")


def test_no_fd_of_allgone_reaches_the_command(allgone: Allgone) -> None:
    listing = "import os; print(sorted(int(fd) for fd in os.listdir('/proc/self/fd'))[:-1])"
    done = allgone.run(sys.executable, "-c", listing, options=["--report", "/dev/null"])
    assert done.stdout == "[0, 1, 2]\n"


@pytest.mark.parametrize(
    "locale", [{}, {"LC_ALL": "C"}, {"LANG": "C"}, {"LC_CTYPE": "C.UTF-8"}, {"LANG": "de_DE.UTF-8"}]
)
def test_the_environment_is_what_allgone_was_given(allgone: Allgone, locale: dict[str, str]) -> None:
    given = {key: value for key, value in os.environ.items() if not key.startswith(("LC_", "LANG"))} | locale
    done = allgone.run("env", "-0", env=given)
    assert dict(line.split("=", 1) for line in done.stdout.split("\0") if line) == given


def test_arguments_are_passed_on_as_they_are(allgone: Allgone) -> None:
    words = ["--backend", "-h", "--", "", "a b", "ünï", os.fsdecode(b"\xff\xfe"), "*"]
    done = subprocess.run(allgone.args("printf", "%s\\0", *words), stdout=subprocess.PIPE, timeout=PATIENCE, check=True)
    assert [os.fsdecode(word) for word in done.stdout.split(b"\0")[:-1]] == words


def test_the_options_end_at_the_command_also_without_dashes() -> None:
    done = subprocess.run(
        [*ALLGONE, "run", "sh", "-c", "echo $0 $*", "--timeout", "-x"], stdout=subprocess.PIPE, text=True,
        timeout=PATIENCE, check=True,
    )  # fmt: skip
    assert done.stdout == "--timeout -x\n"
