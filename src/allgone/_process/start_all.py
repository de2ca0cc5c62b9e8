"""`start_all`: several fixtures that become ready at the same time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from allgone._core.stop import Steps, Wait
from allgone._process import driver
from allgone._process.fixture import FixtureProcess, ProcessFixture


@contextmanager
def start_all(*fixtures: ProcessFixture) -> Iterator[tuple[FixtureProcess, ...]]:
    """Start several processes, wait for all of them at the same time, and stop them when the block is left.

    fixtures
        What `process_fixture()` makes, each with its own ``ready=`` and ``ready_timeout=``.

    >>> from allgone import log_line, process_fixture
    >>> says_up = ["sh", "-c", "sleep 0.1; echo up; exec sleep 1000"]
    >>> with start_all(*(process_fixture(says_up, ready=log_line("up")) for _ in range(3))) as servers:
    ...     [server.poll() for server in servers]
    [None, None, None]

    They are stopped one after the other, the last one first. If one can't be started, or is not ready in time, all
    are stopped, and its error is raised, which names it.

    Raises TypeError and RuntimeError, before anything is started, for what is no fixture or is in use.
    """
    _check(fixtures)
    with ExitStack() as stack:
        processes = []
        for each in fixtures:
            stack.push(each.__exit__)
            processes.append(each.start())
        driver.run(_until_all_ready(fixtures))
        yield tuple(processes)


def _check(fixtures: Sequence[ProcessFixture]) -> None:
    for each in fixtures:
        if not isinstance(each, ProcessFixture):
            raise TypeError(f"start_all takes what allgone.process_fixture() makes, not {each!r}")
        each.check_is_free()
    if len(set(fixtures)) < len(fixtures):
        raise RuntimeError("the same fixture is given twice: make another one")


def _until_all_ready(fixtures: Sequence[ProcessFixture]) -> Steps:
    """Each one's own waiting, as one: whatever comes for one of them, all that are not ready look."""
    waiting = [each.until_ready() for each in fixtures]
    while waiting:
        wanted = [(steps, wait) for steps in waiting if (wait := next(steps, None)) is not None]
        waiting = [steps for steps, _ in wanted]
        if wanted:
            fds = tuple(fd for _, wait in wanted for fd in wait.fds)
            yield Wait(fds, min(wait.deadline for _, wait in wanted))
