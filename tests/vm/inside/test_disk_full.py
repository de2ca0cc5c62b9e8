"""A disk without a free byte: starting, stopping and ending for a dead supervisor need none."""

from __future__ import annotations

import errno
import os
import select
import signal
import subprocess
from collections.abc import Iterator

import pytest
from support.machine import SERVICE, environment, supervised, supervisor
from support.programs import PATIENCE

pytestmark = pytest.mark.root
_FILLER = "/var/tmp/allgone-filler"


@pytest.fixture
def _full() -> Iterator[None]:
    fd = os.open(_FILLER, os.O_CREAT | os.O_WRONLY, 0o600)
    try:
        size = 1 << 30
        while size >= 1024:  # what is free, to the last block
            try:
                os.posix_fallocate(fd, os.fstat(fd).st_size, size)
            except OSError as e:
                if e.errno != errno.ENOSPC:
                    raise
                size //= 2
        yield
    finally:
        os.close(fd)
        os.unlink(_FILLER)


TREE = """
process = allgone.Popen(["sh", "-c", "setsid sleep 1000 & sleep 1000 & sleep 1000"])
until(lambda: len(process.members()) == 4)
"""


@pytest.mark.usefixtures("_full")
def test_start_and_stop() -> None:
    supervised(TREE + "pidfds = held(process); process.stop(); all_end(pidfds, 0)", before=SERVICE)


@pytest.mark.usefixtures("_full")
def test_a_supervisor_that_is_killed_leaves_nothing() -> None:
    code = TREE + "print(os.getpid(), *process.members(), flush=True); time.sleep(1000)"
    with subprocess.Popen(supervisor(code), env=environment(), stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        pidfds = [os.pidfd_open(int(each)) for each in running.stdout.readline().split()]
        signal.pidfd_send_signal(pidfds[0], signal.SIGKILL)
        for each in pidfds:
            assert select.select([each], [], [], PATIENCE)[0]
            os.close(each)


@pytest.mark.usefixtures("_full")
def test_the_command() -> None:
    done = subprocess.run(
        ["allgone", "run", "--", "sh", "-c", "setsid sleep 1000 & exit 7"], env=environment(), check=False
    )
    assert done.returncode == 7
