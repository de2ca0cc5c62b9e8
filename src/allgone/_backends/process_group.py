"""Containments that are sessions with their process groups: for any user, on any Linux since 5.3."""

from __future__ import annotations

import itertools
import os
import resource
import select
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from types import TracebackType

from allgone._backends.keeper import KEEPER, Keeper
from allgone._core.command import Command
from allgone._core.containment import FreezeWatch, Guarantees, Leader
from allgone._core.limits import Limits
from allgone._core.names import checked_name, made_up_name
from allgone._core.policy import DEFAULT, StopPolicy
from allgone._core.unit import Unit
from allgone._core.usage import Spent, Usage, approximate, in_all
from allgone._linux import accounting, controllers, launcher, pidfd, processes
from allgone._linux.register import GroupEntry
from allgone.errors import LimitUnavailable, Reason, Unsupported

_SIGSTOP_ROUNDS = 200  # of a sweep that tries to outrun a swarm; the stop sequence calls again until its deadline
_WATCHED = 64  # members watched by pidfd at a time; those that remain are watched at the next look


class ProcessGroupContainment:
    """The leader's session. What calls setsid() leaves it, and is recognised by its tag (`processes.Tag`).

    The leader stays unreaped until the session is empty: that keeps the kernel from giving its number to others,
    so that killpg() can't hit a stranger. With `sweep`, what left is stopped as well; this process is a child
    subreaper meanwhile, so that orphans come back to it.
    """

    backend = "process-group"
    frozen = False

    def __init__(
        self,
        name: str,
        *,
        sweep: bool,
        session: bool,
        forget: Callable[[str], None],
        policy: StopPolicy,
        keeper: Keeper | None,
    ) -> None:
        self.name = name
        self._policy = policy
        self._keeper = keeper
        self._forget = forget
        self.owner = os.getpid()
        self._sweep = sweep
        self._session = session
        self._tag = processes.new_tag()
        self._leaders: dict[int, Leader] = {}
        self._is_starting = False  # until it is known who the leader is, all that have the tag are members
        self._inner: list[ProcessGroupContainment] = []
        self._adopted: list[Spent] = []  # the sum of what orphans had used, if any
        self._own = ExitStack()
        self._removal = threading.RLock()
        self.gone = False
        self._number = keeper.add_group(self._entry(0)) if keeper else 0
        if sweep:
            from allgone._linux import subreaper  # for the few who sweep: it needs ctypes, 5 ms to import

            if keeper:
                keeper.settle()  # a guard that is born later would be our child
            subreaper.hold()

    @property
    def guarantees(self) -> Guarantees:
        return Guarantees(escape_proof=False, atomic_kill=False)

    @property
    def pins_leader(self) -> bool:
        return self._session

    @contextmanager
    def command(
        self,
        argv: Sequence[object],
        executable: object,
        status: int | None,
        *,
        restore_signals: bool = True,
        other_user: bool = False,
        same_process: bool = False,
        sockets: Sequence[int] | None = None,
    ) -> Iterator[Command]:
        with launcher.prefix(
            status=status,
            tag=self._tag,
            sockets=sockets,
            restore_signals=restore_signals,
            other_user=other_user,
        ) as before:
            self._is_starting = True
            yield Command(
                argv=launcher.with_command(before, executable, argv),
                executable=before.executable,
                pass_fds=before.pass_fds,
                start_new_session=self._session,
                enter=lambda: resource.setrlimit(processes.RLIMIT_LOCKS, self._tag),
            )

    def seal(self) -> None:
        raise Unsupported('a session can\'t be sealed: setsid() leads out of it; backend="cgroup" can')

    def _entry(self, leader: int) -> GroupEntry:
        policy = self._policy.packed()
        return GroupEntry(self.name, self._tag, leader, self._session, self._sweep, time.time(), policy)

    def born(self, leader: Leader) -> None:
        self._leaders[leader.pid] = leader
        self._is_starting = False
        leader.counted = True
        if self._keeper:
            self._keeper.change_group(self._number, self._entry(leader.pid))

    def nested(self, name: str, limits: Limits | None = None) -> ProcessGroupContainment:
        checked_name(name)
        _refuse(limits)
        if any(inner.name == name and not inner.gone for inner in self._inner):
            raise ValueError(f"name {name!r} is in use in {self.name!r}")
        inner = ProcessGroupContainment(
            name, sweep=self._sweep, session=self._session, forget=lambda _: None, policy=self._policy,
            keeper=self._keeper,
        )  # fmt: skip
        self._inner.append(inner)
        self.close_with(inner.close)
        return inner

    def where(self) -> str:
        return "session " + (", ".join(map(str, self._leaders)) or "not started") if self._session else "its tag"

    def members(self) -> frozenset[int]:
        if self.gone:
            return frozenset()
        if self._sweep:
            self._reap_adopted()
        own = frozenset(pid for pid in processes.all_pids() if self._is_member(pid) and processes.is_alive(pid))
        return own.union(*(inner.members() for inner in self._inner))

    def _is_member(self, pid: int) -> bool:
        sid = processes.session(pid) if self._session else None
        if sid is not None and sid in self._leaders and self._leaders[sid].holds_its_number():
            return True
        return (sid in self._leaders or self._sweep or self._is_starting) and self._is_tagged(pid)

    def _is_tagged(self, pid: int) -> bool:
        found = processes.limits(pid)
        return found is not None and self._tag.marks(found)

    def holds(self, pid: int) -> bool:
        return self._is_member(pid) or self._is_tagged(pid) or any(inner.holds(pid) for inner in self._inner)

    def cgroup_ids(self) -> frozenset[int]:
        return frozenset()

    def escapees(self) -> frozenset[int]:
        outside = (pid for pid in processes.all_pids() if self._is_tagged(pid) and not self._is_inside(pid))
        own = frozenset(
            pid for pid in outside if (found := processes.stat(pid)) and found.alive and not _is_guard(found)
        )
        return own.union(*(inner.escapees() for inner in self._inner))

    def _is_inside(self, pid: int) -> bool:
        return not self._session or self._is_starting or processes.session(pid) in self._leaders

    def signal(self, *signums: int) -> frozenset[int]:
        reached: set[int] = set()
        # Again for those that were forked meanwhile.
        for _ in range(8):
            new = self.members() - reached
            if not new:
                break
            for pid in new:
                self._signal_one(pid, signums)
            reached |= new
        return frozenset(reached)

    def _signal_one(self, pid: int, signums: tuple[int, ...]) -> None:
        try:
            pidfd.signal_if(pid, signums, self._is_ours)
        except PermissionError:
            pass  # another user's now (a setuid program): it can't be signalled; the stop will name it

    def _is_ours(self, pid: int) -> bool:
        return self._is_member(pid) or any(inner._is_ours(pid) for inner in self._inner)

    def freezing(self) -> FreezeWatch:
        raise Unsupported(f"{self.name} is a process group; only what is in a cgroup can be frozen")

    def thaw(self) -> None:
        raise Unsupported(f"{self.name} is a process group; only what is in a cgroup can be frozen and thawed")

    def resume(self) -> None:
        pass  # SIGCONT, which the stop sequence sends, is all that is needed

    def kill(self) -> None:
        for inner in self._inner:
            inner.kill()
        if self._session:
            for leader in self._leaders.values():
                self._kill_group(leader)
        if self._sweep:
            self._hold_still()
        for pid in self.members():
            if processes.group(pid) not in self._leaders:
                self._signal_one(pid, (signal.SIGKILL,))

    @staticmethod
    def _kill_group(leader: Leader) -> None:
        # Not even if a scan of /proc shows nobody: a hopper can slip between two reads, not out of its group.
        if leader.pid > 1 and leader.holds_its_number():
            try:
                os.killpg(leader.pid, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):
                pass  # only zombies, or only another user's processes: the stop will name those

    def _hold_still(self) -> None:
        """SIGSTOP to all until a look finds nobody new: killing while others fork would chase a swarm for ever."""
        held: set[int] = set()
        for _ in range(_SIGSTOP_ROUNDS):
            new = {pid for pid in processes.children_of_self() if self._is_tagged(pid)} - held - set(self._leaders)
            new = new or {pid for pid in processes.all_pids() if self._is_member(pid)} - held
            if not new:
                return
            for pid in new:
                self._signal_one(pid, (signal.SIGSTOP,))
            held |= new
            self._reap_adopted()

    def kill_each(self) -> None:
        self.signal(signal.SIGKILL)

    def _reap_adopted(self) -> None:
        """Reap orphans that came back to us and have ended; other children of this process are not ours to reap."""
        for pid in processes.children_of_self():
            if pid not in self._leaders and self._is_tagged(pid):
                try:
                    used = pidfd.reap_and_count(pid, os.WNOHANG)
                except ChildProcessError:
                    continue  # another thread was faster
                if used is not None:
                    self._adopted = [in_all((*self._adopted, used))]

    def watch(self) -> MembersWatch:
        return MembersWatch(self)

    def ended_from_outside(self, *, suspected: bool) -> str:
        return ""  # nobody manages process groups

    def usage(self, *, pressure: bool = False) -> Usage | None:
        members = self.members()  # first, for it reaps
        ended = self._ended()
        if not self.gone:
            return accounting.of_processes(members | self._unreaped(), ended)
        return approximate(ended) if ended else None  # all were reaped by others, so nobody has counted

    def _ended(self) -> list[Spent]:
        """What those have used that we have reaped: leaders, and orphans that came to us."""
        leaders = [leader.used for leader in self._leaders.values() if leader.used is not None]
        return sum((inner._ended() for inner in self._inner), leaders + self._adopted)

    def _unreaped(self) -> frozenset[int]:
        own = frozenset(pid for pid, leader in self._leaders.items() if leader.holds_its_number())
        return own.union(*(inner._unreaped() for inner in self._inner))

    def release(self) -> None:
        keeper, self._keeper = self._keeper, None
        if keeper:
            keeper.remove_group(self._number)
        for inner in self._inner:
            inner.release()

    def close_with(self, close: Callable[[], None]) -> None:
        self._own.callback(close)

    def close(self) -> None:
        self._own.close()

    def remove(self) -> bool:
        with self._removal:  # threads may wait for the same leader: what is let go of, is once
            return self.gone or self._remove()

    def _remove(self) -> bool:
        if self.members():
            return False
        for leader in self._leaders.values() if self._session else ():
            self._kill_group(leader)
        if self.members() or not all([inner.remove() for inner in self._inner]):
            return False
        self.gone = True
        if self._keeper:
            self._keeper.remove_group(self._number)
        self._forget(self.name)
        if self._sweep:
            from allgone._linux import subreaper

            subreaper.release()
        return True


def _refuse(limits: Limits | None) -> None:
    if limits is not None and limits.given():
        why = "the kernel limits processes, not groups of them (setrlimit(2))"
        remedy = 'backend="cgroup"; "allgone doctor" says what it takes'
        what = min(controllers.of(limits.given()))
        raise LimitUnavailable(what, (Reason("a process group", why, remedy),))


def _is_guard(found: processes.Stat) -> bool:
    """Whether it is that of a supervisor inside: in a session of its own, and gone when that one and its own are."""
    return found.comm == "allgone-guard"


class MembersWatch:
    """An epoll on the pidfds of members. There is no event for an empty session, so after each end look again."""

    def __init__(self, containment: ProcessGroupContainment) -> None:
        self._containment = containment
        self._epoll: select.epoll | None = None
        self._armed: list[int] = []
        self.recheck: float | None = None

    def _open(self) -> select.epoll:
        if self._epoll is None:
            self._epoll = select.epoll()
        return self._epoll

    def emptied(self) -> bool:
        return not self._containment.members()

    def fileno(self) -> int:
        epoll = self._open()
        self._disarm()
        for pid in itertools.islice(self._containment.members(), _WATCHED):
            try:
                fd = pidfd.hold(pid)
            except ProcessLookupError:
                continue
            self._armed.append(fd)
            epoll.register(fd, select.EPOLLIN)
        self.recheck = None if self._armed else 0.001  # all ended while we looked: see who came after them
        return epoll.fileno()

    def _disarm(self) -> None:
        armed, self._armed = self._armed, []
        for fd in armed:
            os.close(fd)

    def close(self) -> None:
        self._disarm()
        if self._epoll is not None:
            self._epoll.close()

    def __enter__(self) -> MembersWatch:
        return self

    def __exit__(self, kind: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


class ProcessGroupBackend:
    """Makes containments that are a session each.

    sweep
        Also stop what left the session (daemons), by being a child subreaper while such a containment lives.
    session
        False keeps the leader in the caller's session and group, for a command in a terminal; needs `sweep`.
    guard
        Whether a guard ends what is left should this process be killed.
    """

    name = "process-group"
    is_at_hand = True

    def __init__(self, *, sweep: bool = False, session: bool = True, guard: bool = True) -> None:
        if not session and not sweep:
            raise ValueError("session=False needs sweep=True: without a session there is nothing else to go by")
        self._sweep = sweep
        self._session = session
        self._keeper = KEEPER if guard else None
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)
        self._names: set[str] = set()

    def create(
        self,
        name: str | None,
        executable: object,
        unit: Unit | None = None,
        *,
        policy: StopPolicy = DEFAULT,
        argv: Sequence[object] = (),
        limits: Limits | None = None,
    ) -> ProcessGroupContainment:
        _refuse(limits)
        if unit is not None:
            raise Unsupported(f'a process group has no scope ({unit.name}); backend="cgroup" has, where systemd runs')
        chosen = made_up_name(executable, next(self._numbers)) if name is None else checked_name(name)
        with self._lock:
            if chosen in self._names:
                raise ValueError(f"name {name!r} is in use")
            self._names.add(chosen)
        try:
            return ProcessGroupContainment(
                chosen,
                sweep=self._sweep,
                session=self._session,
                forget=self._forget,
                policy=policy,
                keeper=self._keeper,
            )
        except BaseException:  # no guard could be started, say
            self._forget(chosen)
            raise

    def _forget(self, name: str) -> None:
        with self._lock:
            self._names.discard(name)

    def close(self) -> None:
        """Nothing is kept on the machine."""

    def after_fork_in_child(self) -> None:
        self._lock = threading.Lock()
        self._names.clear()
