"""Who descends from whom, by events given by hand: what the kernel tells in odd orders, in part, or too much of."""

from __future__ import annotations

import pytest

from allgone._core import lineage as module
from allgone._core.genealogy import Exec, Genealogy, Life
from allgone._core.lineage import Lineage, Living

SUPERVISOR, LEADER, CHILD, GRANDCHILD = 10, 100, 101, 102
KILLED, EXITED_3 = 9, 3 << 8


class Told:
    """A leader, and what the kernel tells: each event comes a second after the one before."""

    def __init__(self, programs: int = 1) -> None:
        self.living = Living()
        self.lineage = Lineage(0, 500 * 10**9)
        self.living.lead(self.lineage, LEADER, SUPERVISOR, programs, "the command")
        self.now = 1000 * 10**9
        self.living.forked(self.now, SUPERVISOR, LEADER)

    def _next(self) -> int:
        self.now += 10**9
        return self.now

    def fork(self, parent: int, child: int) -> None:
        self.living.forked(self._next(), parent, child)

    def thread(self, pid: int, tid: int) -> None:
        self._next()
        self.living.thread_started(pid, tid)

    def exec(self, pid: int, command: str = "x") -> None:
        self.living.execed(self._next(), pid, lambda _: command)

    def setsid(self, pid: int) -> None:
        self.living.left_session(self._next(), pid)

    def exit(self, pid: int, status: int = 0, tid: int | None = None) -> None:
        self.living.exited(self._next(), pid, tid or pid, status)

    def genealogy(self, lost: int = 0) -> Genealogy:
        return self.lineage.genealogy(lost)

    def life(self, pid: int) -> Life:
        (found,) = [life for life in self.genealogy().lives if life.pid == pid]
        return found


def test_a_life_has_all_that_was_told_of_it() -> None:
    told = Told()
    told.exec(LEADER)
    told.fork(LEADER, CHILD)
    told.setsid(CHILD)
    told.exec(CHILD, "first")
    told.exec(CHILD, "second")
    told.exit(CHILD, EXITED_3)
    told.exit(LEADER, KILLED)
    leader = Life(LEADER, SUPERVISOR, 0.0, 7.0, -9, (Exec(1.0, "the command"),), ())
    child = Life(CHILD, LEADER, 2.0, 6.0, 3, (Exec(4.0, "first"), Exec(5.0, "second")), (3.0,))
    assert told.genealogy(lost=4) == Genealogy(since=1500.0, lives=(leader, child), lost=4, unrecorded=0)
    assert told.lineage.is_over
    assert told.living.by_pid == {}


def test_others_are_nobody() -> None:
    told = Told()
    told.fork(SUPERVISOR, 7)
    told.exec(7)
    told.setsid(7)
    told.thread(7, 8)
    told.exit(7)
    assert [life.pid for life in told.genealogy().lives] == [LEADER]
    assert told.genealogy().lives[0].execs == ()


def test_descent_goes_on_when_parents_have_ended() -> None:
    told = Told()
    told.fork(LEADER, CHILD)
    told.exit(LEADER)
    told.fork(CHILD, GRANDCHILD)
    told.exit(CHILD)
    assert not told.lineage.is_over
    assert told.life(GRANDCHILD).parent == CHILD
    told.exit(GRANDCHILD)
    assert told.lineage.is_over


def test_what_the_launcher_does_is_not_the_leaders() -> None:
    told = Told(programs=2)
    told.setsid(LEADER)
    told.exec(LEADER)
    told.setsid(LEADER)
    told.exec(LEADER)
    told.setsid(LEADER)
    told.exec(LEADER, "another")
    assert told.life(LEADER).execs == (Exec(4.0, "the command"), Exec(6.0, "another"))
    assert told.life(LEADER).sessions == (5.0,)


def test_a_process_lives_as_long_as_any_of_its_threads() -> None:
    told = Told()
    told.thread(LEADER, 200)
    told.thread(LEADER, 201)
    told.exit(LEADER, 0)  # its main thread's pthread_exit()
    told.exit(LEADER, 0, tid=200)
    told.fork(LEADER, CHILD)
    assert told.life(LEADER).ended is None
    told.exit(LEADER, EXITED_3, tid=201)
    assert (told.life(LEADER).ended, told.life(LEADER).returncode) == (6.0, 3)
    assert told.life(CHILD).parent == LEADER


def test_a_thread_that_becomes_another_program_is_the_process() -> None:
    told = Told()
    told.thread(LEADER, 200)
    told.exit(LEADER, 0)  # ended by the execve(2) of the other, which takes its number
    told.exec(LEADER)
    told.exit(LEADER, 0, tid=200)  # may be told late
    assert told.life(LEADER).ended is None
    told.exit(LEADER, EXITED_3)
    assert (told.life(LEADER).ended, told.life(LEADER).returncode) == (5.0, 3)


def test_a_number_that_is_given_again_is_another_process() -> None:
    told = Told()
    for status in (0, EXITED_3):
        told.fork(LEADER, CHILD)
        told.exit(CHILD, status)
    told.fork(LEADER, CHILD)  # the end of which is lost
    told.fork(LEADER, CHILD)
    assert [life.returncode for life in told.genealogy().lives[1:]] == [0, 3, None, None]
    told.exit(CHILD)
    told.exit(LEADER)
    assert told.lineage.is_over


def test_the_leaders_beginning_may_be_lost() -> None:
    living, lineage = Living(), Lineage(10**9, 0)
    living.lead(lineage, LEADER, SUPERVISOR, 1, "c")
    living.exited(3 * 10**9, LEADER, LEADER, 0)
    (leader,) = lineage.genealogy(1).lives
    assert (leader.began, leader.ended) == (None, 2.0)


def test_two_leaders_don_t_mix() -> None:
    told, other = Told(), Lineage(0, 0)
    told.living.lead(other, 300, SUPERVISOR, 1, "other")
    told.fork(SUPERVISOR, 300)
    told.fork(300, 301)
    told.fork(LEADER, CHILD)
    assert [life.pid for life in told.genealogy().lives] == [LEADER, CHILD]
    assert [life.pid for life in other.genealogy(0).lives] == [300, 301]
    told.living.forget(other)
    assert set(told.living.by_pid) == {LEADER, CHILD}


def test_what_is_beyond_the_bounds_is_counted_and_its_descent_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_LIVES", 2)
    told = Told()
    told.fork(LEADER, CHILD)
    told.fork(CHILD, GRANDCHILD)
    told.exec(GRANDCHILD)
    told.fork(GRANDCHILD, 103)
    told.exit(GRANDCHILD)
    assert [life.pid for life in told.genealogy().lives] == [LEADER, CHILD]
    assert told.genealogy().unrecorded == 2
    for pid in (CHILD, LEADER, 103):
        assert not told.lineage.is_over
        told.exit(pid)
    assert told.lineage.is_over


def test_execs_and_sessions_have_a_bound_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_MOMENTS", 3)
    told = Told()
    for _ in range(3):
        told.exec(LEADER)
        told.setsid(LEADER)
    assert (len(told.life(LEADER).execs), len(told.life(LEADER).sessions)) == (2, 1)
    assert told.genealogy().unrecorded == 3


def test_escapees_of_one_ancestor_are_each_told_by_what() -> None:
    from allgone._core.genealogy import Exec, Life
    from allgone._process import escapees

    nobody = 1 << 30  # above any pid that the kernel gives out: where they are can't be read
    lives = {
        nobody: Life(nobody, 1, 0.0, None, None, (Exec(0.0, "/usr/bin/su bob"),), ()),
        nobody + 1: Life(nobody + 1, nobody, 0.1, None, None, (), ()),
        nobody + 2: Life(nobody + 2, nobody, 0.2, None, None, (), ()),
    }
    assert [escapees._how(pid, lives) for pid in (nobody + 1, nobody + 2, nobody + 1)] == ["by su"] * 3
