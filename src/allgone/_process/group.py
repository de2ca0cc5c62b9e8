"""`group`: several processes in one containment."""

from __future__ import annotations

import itertools
import os
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any

from allgone._backends import choose
from allgone._backends.choose import BackendName
from allgone._core.containment import Backend
from allgone._core.limits import Limits, check_limits
from allgone._core.names import made_up_name
from allgone._core.policy import DEFAULT, StopPolicy, policy_or
from allgone._core.report import Report
from allgone._process import driver, reporting
from allgone._process.freezing import Freezable
from allgone._process.popen import Popen
from allgone._process.stopping import Stoppable
from allgone.errors import WrongProcess


class Group(Stoppable, Freezable):
    """Several processes that are stopped together, each of which can also be stopped on its own.

    >>> with Group() as servers:
    ...     one = servers.Popen(["sleep", "1000"])
    ...     two = servers.Popen(["sleep", "1000"])
    ...     servers.members() == {one.pid, two.pid}
    True
    >>> one.poll()
    -15

    backend, name, policy, sweep, guard, limits
        As for `Popen`.

    Raises `BackendUnavailable`, `LimitUnavailable`, and ValueError where the name can't be used.
    """

    def __init__(
        self,
        *,
        backend: BackendName | Backend | None = None,
        name: str | None = None,
        policy: StopPolicy | None = None,
        sweep: bool = False,
        guard: bool = True,
        limits: Limits | None = None,
    ) -> None:
        self._policy = policy_or(policy, DEFAULT)
        check_limits(limits)
        made_by = choose.backend(backend, sweep=sweep, guard=guard)
        self._processes: list[Popen] = []
        self._numbers = itertools.count(1)
        driver.will_use(made_by)
        self._containment = made_by.create(name, "group", policy=self._policy, limits=limits)
        driver.track(self._containment)

    def Popen(
        self, args: Any, *positional: Any, name: str | None = None, limits: Limits | None = None, **keywords: Any
    ) -> Popen:
        """Start a process in the group; arguments as for `allgone.Popen`, its backend being the group's. Its `limits`
        come on top of the group's."""
        self._check_owner()
        if self._report is not None:
            raise ValueError(f"group {self.name} has been stopped")
        if given := {"backend", "sweep", "guard"} & keywords.keys():
            raise TypeError(f"{given.pop()}= is the group's to say")
        if name is None:
            name = made_up_name(_first(args), next(self._numbers))
        check_limits(limits)
        inner = self._containment.nested(name, limits)
        try:
            process = Popen(args, *positional, _within=inner, policy=keywords.pop("policy", self._policy), **keywords)
        except BaseException:
            inner.remove()  # so that its name can be used again
            raise
        self._processes.append(process)
        return process

    def signal_all(self, signum: int) -> frozenset[int]:
        """Send to every member; returns the pids reached."""
        self._check_owner()
        return self._containment.signal(signum)

    def stop(self, policy: StopPolicy | None = None) -> Report:
        """Stop every process of the group at the same time; as `Popen.stop`, with the leaders of all."""
        return self.stop_meanwhile(driver.run, policy)

    def is_to_be_stopped(self) -> bool:
        """Whether a stop has something to do still."""
        return self._report is None

    def stopping(self, policy: StopPolicy | None = None) -> AbstractContextManager[reporting.Stopping]:
        """For a driver: the stop is carried out in the block, and its report is there after it."""
        self._check_owner()
        traced = [each._traced for each in self._processes if each._traced is not None]
        return reporting.reported(
            self._containment,
            [leader for process in self._processes for leader in process._leaders()],
            policy_or(policy, self._policy),
            self._settled,
            self._keep,
            traced=traced,
            all_traced=len(traced) == len(self._processes),
            ports=self._ports_matter,
        )

    def _keep(self, report: Report) -> None:
        self._report = report

    def _settled(self) -> None:
        for process in self._processes:
            process._settled()
        self.close_streams()
        driver.forget(self._containment)

    def close_streams(self) -> None:
        """Close the pipes to all of its processes."""
        for process in self._processes:
            process.close_streams()

    def _check_owner(self) -> None:
        if not self._is_ours():
            raise WrongProcess(f"{self.name} is of process {self._containment.owner}; this is {os.getpid()}")

    def __enter__(self) -> Group:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if not self._is_ours():
            return
        if error is None:
            self.stop()
        else:
            reporting.stop_after(error, self.stop)


group = Group  # reads as what it makes: with allgone.group() as servers


def _first(args: Any) -> Any:
    if isinstance(args, (str, bytes, os.PathLike)):
        return args
    return next(iter(args), None)
