"""The tag in RLIMIT_LOCKS: which processes it marks, also where allgone runs inside allgone."""

from __future__ import annotations

import os
import resource
import subprocess
import sys

import pytest

from allgone._linux import processes
from allgone._linux.processes import RLIMIT_LOCKS, Tag, new_tag

INFINITY = resource.RLIM_INFINITY


@pytest.fixture
def limits(monkeypatch: pytest.MonkeyPatch) -> dict[str, tuple[int, int]]:
    """What this process's RLIMIT_LOCKS is said to be."""
    now = {"own": (INFINITY, INFINITY)}
    monkeypatch.setattr(processes.resource, "getrlimit", lambda _: now["own"])
    return now


def test_a_new_tag_marks_itself_and_no_other(limits: dict[str, tuple[int, int]]) -> None:
    one, two = new_tag(), new_tag()
    assert one.marks(one)
    assert not one.marks(two)
    assert not one.marks(limits["own"])


def test_a_tag_is_a_limit_that_the_kernel_takes_and_no_administrator_sets(limits: dict[str, tuple[int, int]]) -> None:
    assert limits
    for _ in range(1000):
        tag = new_tag()
        assert 1 << 62 <= tag.soft == tag.hard < 1 << 63
        assert not tag.marks((INFINITY, INFINITY))


def test_inside_a_tagged_process_the_outer_tag_is_kept(limits: dict[str, tuple[int, int]]) -> None:
    outer = new_tag()
    limits["own"] = outer
    inner = new_tag()
    assert inner.hard == outer.hard
    assert inner.soft < inner.hard  # the soft limit may not be above the hard one
    assert outer.marks(inner), "what is inside the inner one is inside the outer one as well"
    assert not inner.marks(outer), "the outer one's own processes are not inside the inner one"


def test_a_tag_three_deep_marks_what_is_its_own_and_the_outermost_marks_all(limits: dict[str, tuple[int, int]]) -> None:
    outer = new_tag()
    limits["own"] = outer
    middle = new_tag()
    limits["own"] = middle
    innermost = new_tag()
    assert innermost.marks(innermost)
    assert outer.marks(innermost)
    assert not innermost.marks(middle)
    assert not innermost.marks(outer)


def test_siblings_inside_a_tagged_process_are_told_apart(limits: dict[str, tuple[int, int]]) -> None:
    limits["own"] = new_tag()
    one, two = new_tag(), new_tag()
    assert not one.marks(two)
    assert not two.marks(one)


@pytest.mark.parametrize("own", [(INFINITY, INFINITY), (0, 0), (1024, 1 << 40), (1 << 61, (1 << 62) - 1)])
def test_an_administrators_limit_is_not_taken_for_a_tag(
    limits: dict[str, tuple[int, int]], own: tuple[int, int]
) -> None:
    limits["own"] = own
    tag = new_tag()
    assert tag.hard != own[1]
    assert not tag.marks(own)


def test_a_tag_is_inherited_through_fork_setsid_and_exec() -> None:
    tag = Tag(1 << 62 | 5, 1 << 62 | 5)
    child = "import os; os.fork() and os._exit(0); os.setsid(); os.execvp('sh', ['sh', '-c', 'echo ready; exec cat'])"
    process = subprocess.Popen(
        [sys.executable, "-c", f"import resource; resource.setrlimit({RLIMIT_LOCKS}, {tuple(tag)}); {child}"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.wait()  # the one that forked
        grandchild = [pid for pid in processes.all_pids() if processes.limits(pid) == tag and processes.is_alive(pid)]
        assert len(grandchild) == 1
        assert os.getsid(grandchild[0]) != os.getsid(0)
        process.communicate()  # end-of-file for its stdin: it ends


def test_limits_of_a_process_that_is_gone_are_none() -> None:
    process = subprocess.Popen(["true"])
    process.wait()
    assert processes.limits(process.pid) is None
    assert processes.stat(process.pid) is None
    assert processes.session(process.pid) is None
    assert not processes.is_alive(process.pid)


def test_limits_are_read_the_same_way_through_proc() -> None:
    process = subprocess.Popen(["cat"], stdin=subprocess.PIPE)
    with process:
        resource.prlimit(process.pid, RLIMIT_LOCKS, (7, 8))
        assert processes.limits(process.pid) == (7, 8)
        assert processes._limits_of_another_user(process.pid) == (7, 8)


def test_no_limit_reads_as_infinity_through_proc_too() -> None:
    assert processes._limits_of_another_user(os.getpid()) == resource.getrlimit(RLIMIT_LOCKS)
