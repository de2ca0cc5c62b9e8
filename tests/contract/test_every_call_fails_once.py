"""Each system call of a supervisor's life fails once: that is an error or it is not, and nothing is left either way."""

from __future__ import annotations

import errno
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing

import pytest
from support import every_point
from support.backends import BackendUnderTest
from support.every_point import FAILED, SUCCEEDED, Bystanders, Trial
from support.tiers import missing

# What each system call can say on a healthy machine that is full, or forbids something. Left out are
# - those that have no errors of that kind: getpid, getsid, lseek, fstat, rt_sig*, clock_*, exit_group…;
# - close, which has closed whatever it says, and wait4 and waitid, which are repeated after EINTR by CPython itself;
# - mmap, munmap, mprotect, brk, futex: malloc and the interpreter's own locks, which CPython does not survive;
# - kill and pidfd_send_signal, which need nothing and are allowed for whoever was allowed to start the process.
ERRORS: dict[int, tuple[str, tuple[int, ...]]] = {
    0: ("read", (errno.EINTR, errno.ENOMEM)),
    1: ("write", (errno.EINTR, errno.ENOMEM)),
    7: ("poll", (errno.EINTR, errno.ENOMEM)),
    17: ("pread64", (errno.EINTR, errno.ENOMEM)),
    18: ("pwrite64", (errno.EINTR, errno.ENOSPC, errno.ENOMEM)),
    41: ("socket", (errno.EMFILE,)),
    56: ("clone", (errno.EAGAIN, errno.ENOMEM)),
    57: ("fork", (errno.EAGAIN, errno.ENOMEM)),
    58: ("vfork", (errno.EAGAIN, errno.ENOMEM)),
    72: ("fcntl", (errno.EMFILE,)),
    73: ("flock", (errno.EINTR, errno.ENOLCK)),
    83: ("mkdir", (errno.ENOSPC, errno.EACCES, errno.ENOMEM)),
    84: ("rmdir", (errno.EBUSY, errno.ENOMEM)),
    89: ("readlink", (errno.ENOMEM,)),
    90: ("chmod", (errno.ENOMEM,)),
    157: ("prctl", (errno.EPERM,)),
    188: ("setxattr", (errno.ENOSPC, errno.ENOMEM)),
    191: ("getxattr", (errno.ENOMEM,)),
    213: ("epoll_create", (errno.EMFILE, errno.ENOMEM)),
    217: ("getdents64", (errno.ENOMEM,)),
    232: ("epoll_wait", (errno.EINTR,)),
    233: ("epoll_ctl", (errno.ENOMEM, errno.ENOSPC)),
    257: ("openat", (errno.EMFILE, errno.EACCES, errno.ENOMEM, errno.EINTR)),
    262: ("newfstatat", (errno.ENOMEM, errno.EACCES)),
    281: ("epoll_pwait", (errno.EINTR,)),
    291: ("epoll_create1", (errno.EMFILE, errno.ENOMEM)),
    293: ("pipe2", (errno.EMFILE,)),
    302: ("prlimit64", (errno.EPERM,)),
    318: ("getrandom", (errno.EINTR,)),
    319: ("memfd_create", (errno.EMFILE, errno.ENOMEM)),
    332: ("statx", (errno.ENOMEM, errno.EACCES)),
    434: ("pidfd_open", (errno.EMFILE, errno.ENOMEM)),
    439: ("faccessat2", (errno.ENOMEM,)),
}
STDERR = 2
_RARE = 40  # more calls of one kind than that are looks at /proc, all alike


@pytest.fixture
def base(backend: BackendUnderTest, _cgroup_base_or_reason: tuple[str | None, str]) -> str | None:
    return _cgroup_base_or_reason[0] if backend.name == "cgroup" else None


@pytest.fixture
def bystanders(base: str | None) -> Iterator[Bystanders]:
    with closing(Bystanders(base)) as made:
        yield made


def points(calls: Sequence[tuple[int, int]], most: int | None) -> list[tuple[int, int]]:
    """Which call is to fail with what: each with each, or `most`, of every kind of call as many as of the others."""
    kinds: dict[tuple[int, int], list[int]] = {}
    for at, (call, first) in enumerate(calls, 1):
        for code in ERRORS[call][1] if _may_fail(call, first) else ():
            kinds.setdefault((call, code), []).append(at)
    if most is None:
        return [(at, code) for (_, code), where in kinds.items() for at in random.sample(where, min(_RARE, len(where)))]
    chosen = random.choices(list(kinds), k=most)
    return [(random.choice(kinds[kind]), kind[1]) for kind in chosen]


def _may_fail(call: int, first: int) -> bool:
    return call in ERRORS and (ERRORS[call][0] != "write" or first != STDERR)


def _chosen(code: int) -> Callable[[int, int], int | None]:
    """Lives differ by a few calls: the next one that can fail so."""
    return lambda call, first: code if _may_fail(call, first) and code in ERRORS[call][1] else None


@pytest.mark.timeout(3600)
def test_a_system_call_that_fails_is_at_most_an_error_and_nothing_is_left(
    backend: BackendUnderTest, base: str | None, bystanders: Bystanders, request: pytest.FixtureRequest
) -> None:
    """Each of them with each of its errors with --run-slow."""
    if not every_point.CAN_FAIL_CALLS:
        missing("system calls are made to fail on x86_64 only")
    with closing(Trial(backend, base)) as trial:
        every_point.warm_up(trial.live)
        calls = every_point.calls_of(trial.live_with_errors)
        assert not trial.nothing_is_left()
    chosen = points(calls, None if request.config.getoption("--run-slow") else 40)
    wrong: list[str] = []
    for at, code in chosen:
        with closing(Trial(backend, base)) as trial:
            try:
                failed = every_point.failed_at(trial.live_with_errors, at, _chosen(code))
                said = "" if failed is None or failed[2] in (SUCCEEDED, FAILED) else f"exit code {failed[2]}"
                said = said or trial.nothing_is_left()
            except TimeoutError as e:
                failed, said = None, str(e)
        name = "?" if failed is None else ERRORS[failed[0]][0]
        if said or not bystanders.are_all_there():
            wrong.append(f"{name} fails with {errno.errorcode[code]}, at call {at}: {said or 'a bystander was hit'}")
    print(f"{len(calls)} calls, {len(chosen)} failures")
    assert not wrong, "\n".join(wrong)
