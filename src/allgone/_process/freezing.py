"""`freeze()`, `thaw()`, `frozen()`: a containment whose processes all stand still."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing, contextmanager

from allgone._core.containment import Containment
from allgone._core.freeze import freeze_steps
from allgone._core.stop import Steps
from allgone._process import driver


class Freezable:
    """One that has a containment, which can be frozen if it is a cgroup (cgroup.freeze in cgroup-v2.rst)."""

    _containment: Containment

    def freeze(self, timeout: float = 10.0) -> None:
        """Freeze every member: when this returns, none of them runs until `thaw()` or the stop. Idempotent.

        A signal that a member handles waits as well; one that ends it, SIGKILL above all, does so at once.

        timeout
            Seconds that it may take. A process in uninterruptible sleep can't be frozen.

        >>> import allgone
        >>> try:
        ...     with allgone.Popen(["sleep", "1000"], backend="cgroup") as proc, proc.frozen():
        ...         proc.stop().returncode
        ... except allgone.BackendUnavailable:
        ...     print(-15)
        -15

        Raises `FreezeTimeout`, with all members going on as before; `Unsupported` with process-group, and before
        Linux 5.2; ValueError when it has been stopped, or all of it has ended and is removed.
        """
        with closing(self.freeze_steps(timeout)) as steps:
            driver.run(steps)

    def freeze_steps(self, timeout: float) -> Steps:
        """`freeze()`, for a driver."""
        _check(timeout)
        self._check_owner()
        return freeze_steps(self._containment, timeout)

    def thaw(self) -> None:
        """Let every member go on, unless a group around it is frozen as well. Idempotent; also after the stop.

        Raises `Unsupported` with process-group.
        """
        self._check_owner()
        self._containment.thaw()

    @contextmanager
    def frozen(self, timeout: float = 10.0) -> Iterator[None]:
        """`freeze()`; `thaw()` when the block is left, unless it was frozen already when the block was entered.

        Raises what `freeze()` raises.
        """
        before = self._containment.frozen
        self.freeze(timeout)
        try:
            yield
        finally:
            if not before and self._containment.owner == os.getpid():  # in a fork of us, leaving it does nothing
                self.thaw()

    def _check_owner(self) -> None:
        raise NotImplementedError


def _check(timeout: float) -> None:
    if not isinstance(timeout, (int, float)) or isinstance(timeout, bool):
        raise TypeError(f"timeout must be a number of seconds, not {timeout!r}")
    if not timeout >= 0:
        raise ValueError(f"timeout must be 0 or more seconds, not {timeout!r}")
