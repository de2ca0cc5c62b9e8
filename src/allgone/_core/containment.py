"""The one interface behind which the two backends stand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol

from allgone._core.command import Command
from allgone._core.limits import Limits
from allgone._core.policy import DEFAULT, StopPolicy
from allgone._core.unit import Unit
from allgone._core.usage import Spent, Usage


@dataclass(frozen=True, slots=True)
class Guarantees:
    """What a containment can promise, by kernel mechanism."""

    escape_proof: bool  # setsid() and double forks don't lead out of it
    atomic_kill: bool  # one system call kills every member, also while they fork
    limits: frozenset[str] = frozenset()  # the controllers that `Limits` can be had of: "memory", "pids", "cpu", "io"


class Watch(Protocol):
    """Tells when it is worth looking at a containment again. A context manager; closing it twice is fine."""

    recheck: float | None  # seconds after which to look again although nothing happened; None: the fd is enough

    def emptied(self) -> bool:
        """Whether the last member is gone."""
        ...

    def fileno(self) -> int:
        """An fd, armed by this call: it becomes readable when `emptied()` may have a new answer (works with poll and
        event loops). What happened before the call is not told: ask `emptied()` after it, then wait."""
        ...

    def __enter__(self) -> Watch: ...

    def __exit__(self, kind: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None) -> None: ...


class FreezeWatch(Protocol):
    """Tells when all members are frozen. A context manager; leaving it thaws nothing."""

    def frozen(self) -> bool:
        """Whether nobody in it runs."""
        ...

    def fileno(self) -> int:
        """An fd that becomes readable when `frozen()` may have a new answer (works with poll and event loops)."""
        ...

    def __enter__(self) -> FreezeWatch: ...

    def __exit__(self, kind: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None) -> None: ...


class Containment(Protocol):
    """The kernel object that a command and all that it starts live in."""

    name: str
    backend: str  # "cgroup" | "process-group"
    owner: int  # pid of the supervisor that made it
    gone: bool  # whether `remove()` has succeeded
    frozen: bool  # whether `freezing()` was the last that was asked, of that and `thaw()`

    @property
    def guarantees(self) -> Guarantees: ...

    @property
    def pins_leader(self) -> bool:
        """Whether the leader must stay unreaped while there are members (its pid is the group's id)."""
        ...

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
    ) -> AbstractContextManager[Command]:
        """The command with the launcher in front. Spawn it inside the ``with`` block, and there call `born()`.

        `status` is the fd that the launcher reports a failure on; `other_user`: the child will have changed its user
        by then; `same_process`: the process spawned is to become the command itself, as it always does without a
        `status`; `sockets`: fds that the command is to have as 3, 4, … (`launcher.prefix`).
        """
        ...

    def seal(self) -> None:
        """Have the next `command()` kept from leaving, also by what root may do. Raises `Unsupported`, saying why."""
        ...

    def born(self, leader: Leader) -> None:
        """Take note of the leader just spawned, and let it go on if it waits for that.

        Called again should another process turn out to be the leader: a launcher can have it born as its sibling.
        """
        ...

    def nested(self, name: str, limits: Limits | None = None) -> Containment:
        """A containment inside this one: its members are members of both. Raises `LimitUnavailable`."""
        ...

    def where(self) -> str:
        """What people can look at: the cgroup's path, or the session."""
        ...

    def members(self) -> frozenset[int]:
        """Pids of the live members, those of nested containments and cgroups included."""
        ...

    def holds(self, pid: int) -> bool:
        """Whether the process, which may be a zombie, is in here; or, of a process group, has left it."""
        ...

    def cgroup_ids(self) -> frozenset[int]:
        """The ids of its cgroups, by which the kernel marks the sockets that are made in them; none if it has none."""
        ...

    def escapees(self) -> frozenset[int]:
        """Pids of live descendants known to be outside. Always empty where `guarantees.escape_proof`."""
        ...

    def signal(self, *signums: int) -> frozenset[int]:
        """Send to every member, in order, also to those that appear meanwhile; returns the pids reached."""
        ...

    def freezing(self) -> FreezeWatch:
        """Ask for all members to be frozen. Raises `Unsupported`, and ValueError where it is gone."""
        ...

    def thaw(self) -> None:
        """Undo that. Nothing happens where it is not frozen, or gone. Raises `Unsupported`."""
        ...

    def resume(self) -> None:
        """Thaw whatever was frozen, so that members can act on signals."""
        ...

    def kill(self) -> None:
        """SIGKILL to every member at once, as atomically as the kernel can."""
        ...

    def kill_each(self) -> None:
        """SIGKILL to every member one by one, for those that `kill()` is known to miss."""
        ...

    def watch(self) -> Watch: ...

    def ended_from_outside(self, *, suspected: bool) -> str:
        """Who or what else ended it; "" if nobody did. `suspected`: its leader was ended by a signal not of ours."""
        ...

    def usage(self, *, pressure: bool = False) -> Usage | None:
        """What its processes have used until now, or until it was removed; None where that can't be known.

        `pressure`: with it, from now on.
        """
        ...

    def release(self) -> None:
        """Let the members go on, whatever becomes of this process: a stop has left them running on purpose."""
        ...

    def remove(self) -> bool:
        """Remove the kernel object. False if it is not empty yet or the kernel wants a moment. Idempotent."""
        ...

    def close_with(self, close: Callable[[], None]) -> None:
        """Something that `close()` is to do as well."""
        ...

    def close(self) -> None:
        """Once it is removed: let go of what was made for it alone, a scope or a network of its own. Idempotent."""
        ...


class Backend(Protocol):
    """Makes containments."""

    name: str

    def create(
        self,
        name: str | None,
        executable: object,
        unit: Unit | None = None,
        *,
        policy: StopPolicy = DEFAULT,
        argv: Sequence[object] = (),
        limits: Limits | None = None,
    ) -> Containment:
        """A new, empty containment; without a `name` one is made up from the command's. `unit`: a scope by that name.

        `policy` is what a guard is to do, and `argv` what people are told of it.

        Raises ValueError where the name can't be used or is in use, OSError where the kernel refuses, `SystemdError`
        where systemd does, `Unsupported` where there are no scopes, `LimitUnavailable` where there are no such
        `limits`.
        """
        ...

    def close(self) -> None:
        """Remove what it keeps on the machine while no containment lives. Idempotent."""
        ...

    def after_fork_in_child(self) -> None:
        """Let go of everything that belongs to the process that we were copied from."""
        ...


class Leader(Protocol):
    """A direct child of the supervisor: what the user asked for."""

    pid: int
    counted: bool  # whether `used` is to be known
    used: Spent | None  # what it and those that it had waited for have used; None before we have reaped it

    def has_ended(self) -> bool:
        """Whether it has ended; it may still be unreaped."""
        ...

    def holds_its_number(self) -> bool:
        """Whether it runs or is unreaped, so that its pid can't be anybody else's."""
        ...

    def fileno(self) -> int:
        """An fd that becomes readable when it ends. Raises ProcessLookupError when it was reaped by others."""
        ...

    def send(self, signum: int) -> None:
        """Signal it; nothing happens if it has ended."""
        ...
