"""`Popen`: subprocess.Popen whose `terminate`, `kill` and `stop` reach everything that it started."""

from __future__ import annotations

import errno
import functools
import math
import os
import signal
import subprocess
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from types import TracebackType
from typing import Any

from allgone._backends import choose
from allgone._backends.choose import BackendName
from allgone._core.command import Command
from allgone._core.containment import Backend, Containment, Guarantees
from allgone._core.genealogy import Genealogy
from allgone._core.limits import Limits, check_limits
from allgone._core.policy import DEFAULT, StopPolicy, policy_or
from allgone._core.report import Report
from allgone._core.stop import Wait
from allgone._linux import fds, launcher, processes
from allgone._linux.pidfd import Child
from allgone._process import activation, driver, failures, reporting, sampling, tracing
from allgone._process.communicate import Exchange
from allgone._process.freezing import Freezable
from allgone._process.network import Network, Networked, check_network
from allgone._process.spawn_arguments import (
    argv_of,
    check_process_group,
    check_seal,
    entered_first,
    how,
    named,
    passed,
    scope_of,
)
from allgone._process.stopping import Stoppable
from allgone.errors import WrongProcess


class Popen(Stoppable, Freezable, Networked, subprocess.Popen[Any]):
    """`subprocess.Popen` with a containment: what the child starts can be found, signalled and stopped with it.

    Takes all that `subprocess.Popen` takes, and:

    backend
        ``"cgroup"``, ``"process-group"``, ``"auto"`` (default; ALLGONE_BACKEND overrides it) or a backend object.
    name
        What the containment is called (default: made up from the command).
    policy
        The `StopPolicy` for `stop()` and for leaving the ``with`` block.
    sweep
        With process-group: also stop descendants that left the session. This process is a child subreaper meanwhile.
    guard
        Whether a guard, one small process, ends what is left should this process be killed (by its
        ``policy.guard_timeout``, at once by default).
    trace
        Whether the kernel is to tell of every process that is started: `genealogy()`. Raises `Unsupported` where it
        does not.
    escapees
        What to do about descendants that left the containment and live on after a stop: ``"warn"`` (default),
        ``"ignore"``, or with `trace` ``"kill"``. In a cgroup such are known with `trace` only.
    seal
        With cgroup, as root: whether to keep the command from moving to other cgroups, in namespaces of its own. Raises
        `Unsupported` where that can't be done.
    sample
        With cgroup: every so many seconds a thread looks what is used, for the report's `samples`.
    unit, slice, description, properties
        With cgroup, where systemd runs: a scope of its own with this name (``"job.scope"``; made up where only others
        are given), in this slice, with these properties (systemd.scope(5), ``{"MemoryMax": "1G"}``).

    limits
        `Limits` of memory, tasks, CPU and IO, of all of it together. With cgroup.
    sockets
        A list of sockets that the command gets as fd 3, 4, … (socket activation: sd_listen_fds(3)), or a dict of names
        and sockets. They stay the caller's to close.
    network
        A network namespace of its own (`netns`): ``"private"``, with loopback only, or ``"veth"``, in addition with an
        IPv4 address that this process reaches. `connect()` connects to what listens in it.

    Leaving the ``with`` block waits for the leader, as in the standard library, then stops what is left; leaving it
    by an exception stops everything at once.

    >>> with Popen(["sh", "-c", "sleep 100 & echo started"], stdout=subprocess.PIPE) as proc:
    ...     proc.stdout.readline()
    b'started\\n'
    >>> proc.members()
    frozenset()

    Raises what `subprocess.Popen` raises (`FileNotFoundError` names the command), `BackendUnavailable`, and
    `PlacementFailed` when the child could not enter its containment (nothing was run then); `Unsupported` where
    there can't be a `network`, `LimitUnavailable` where there can't be such `limits`.
    """

    _traced: tracing.Traced | None = None
    _sampler: sampling.Sampler | None = None
    _wants_own_pid = False  # whether the launcher is to set WATCHDOG_PID
    _was_born = False  # whether the launcher has not become the leader, but had it born

    def __init__(
        self,
        args: Any,
        *positional: Any,
        backend: BackendName | Backend | None = None,
        name: str | None = None,
        policy: StopPolicy | None = None,
        sweep: bool = False,
        guard: bool = True,
        trace: bool = False,
        escapees: tracing.Escapees = "warn",
        seal: bool = False,
        sample: float | None = None,
        unit: str | None = None,
        slice: str | None = None,
        description: str | None = None,
        properties: Mapping[str, object] | None = None,
        limits: Limits | None = None,
        sockets: activation.Given = None,
        network: Network | None = None,
        _within: Containment | None = None,
        **keywords: Any,
    ) -> None:
        options = named(positional, keywords)
        argv, executable = argv_of(args, shell=options.pop("shell", False), executable=options.pop("executable", None))
        self._policy = policy_or(policy, DEFAULT)
        self._sockets = activation.checked(sockets, options.get("pass_fds", ()))
        check_network(network)
        self._child: Child | None = None
        self._sent: set[int] = set()  # signals: the leader's end by one of these was our doing
        check_limits(limits)
        scope = scope_of(unit, slice, description, properties, policy, limits)
        tracing.check(trace, escapees)
        if seal:
            check_seal(options)
        sampling.check(sample)
        self._escapees = escapees
        if _within is not None:
            if scope is not None:
                raise TypeError("a member of a group can't have a unit of its own")
            self._containment = _within
        else:
            preexec = options.get("preexec_fn") is not None
            made_by = choose.backend(backend, sweep=sweep, guard=guard, scope=scope is not None, preexec=preexec)
            driver.will_use(made_by)
            self._containment = made_by.create(name, executable, scope, policy=self._policy, argv=argv, limits=limits)
            driver.track(self._containment)
        try:
            self._have_network(network, self._containment)
            if seal:
                self._containment.seal()
            if sample is not None:
                self._sampler = sampling.Sampler(self._containment, sample)
            with tracing.spawned(self, trace, escapees, argv):
                self._spawn(argv, executable, options)
        except BaseException:
            self._discard()
            raise
        self.args = args

    def _spawn(self, argv: Sequence[object], executable: object, options: dict[str, Any]) -> None:
        reader, writer = fds.pipe()
        try:
            try:
                with (
                    activation.handed(self._sockets, options, own_pid=self._wants_own_pid) as sockets,
                    self._containment.command(argv, executable, writer, sockets=sockets, **how(options)) as command,
                ):
                    self._start(command, executable, options)
            finally:
                os.close(writer)
            launch = launcher.outcome(reader)
        except BaseException:
            self._let_it_enter(reader)
            raise
        finally:
            os.close(reader)
        if launch.born is not None:
            self._succeed_to(launch.born)
        if launch.failure is not None:
            raise failures.of_launch(launch.failure, executable, self._containment.where())

    def _start(self, command: Command, executable: object, options: dict[str, Any]) -> None:
        options = dict(options)
        options["pass_fds"] = passed(options, command)
        if options.get("preexec_fn") is not None:
            options["preexec_fn"] = entered_first(command, options["preexec_fn"])
        if command.start_new_session:
            check_process_group(options)
            options["start_new_session"] = True
        spawn = functools.partial(super().__init__, list(command.argv), executable=command.executable, **options)
        try:
            self._in_network(spawn)
        except OSError as e:
            if e.filename in (command.executable, os.fsencode(command.executable)):
                raise failures.launcher_not_executed(e, executable) from e
            raise
        if self.pid is not None:  # None where a subclass or a test has replaced the spawning
            self._adopt()

    @staticmethod
    def _let_it_enter(status: int) -> None:
        """After a start that was interrupted: what may be about to enter the containment has done so, or has failed."""
        driver.despite_ctrl_c(functools.partial(launcher.outcome, status))

    def _discard(self) -> None:
        """After a failed start: nothing was run, or it is killed now; nothing stays open."""
        if self._child is None and getattr(self, "pid", None) and self.returncode is None:
            self._adopt()  # interrupted after the fork; had exec failed, the child would be reaped by now
        if self._child is not None:
            self.close_streams()
        lost = self._lost()
        driver.stop(self._containment, (*self._leaders(), *lost), StopPolicy(timeout_stop=0.0))
        self._containment.close()
        driver.forget(self._containment)
        if self._sampler is not None:
            self._sampler.stop()
        if self._child is not None:
            self._notice_end(block=True)
        for each in lost:
            each.reap(block=True)

    def _lost(self) -> list[Child]:
        """Leaders whose pid nobody has lived to report: children of ours (others count as ended), inside by now."""
        pids = self._containment.members()
        if self._child is None:  # interrupted in the fork: it may be a zombie, which is no member
            pids |= {pid for pid in processes.children_of_self() if self._containment.holds(pid)}
        return [Child(pid) for pid in pids if self._child is None or pid != self._child.pid]

    def _adopt(self) -> None:
        self._child = Child(self.pid)
        self._containment.born(self._child)

    def _succeed_to(self, pid: int) -> None:
        """The launcher had the command born as its sibling, and ends: from now on that one is the leader."""
        assert self._child is not None
        self._child.reap(block=True)
        self.pid, self._was_born = pid, True
        self._adopt()

    def _leaders(self) -> tuple[Child, ...]:
        return () if self._child is None or self.returncode is not None else (self._child,)

    # What it is

    @property
    def guarantees(self) -> Guarantees:
        """What this containment can promise."""
        return self._containment.guarantees

    def escapees(self) -> frozenset[int]:
        """Pids of live descendants that left the containment; in a cgroup, those are known with ``trace=True`` only."""
        return self._containment.escapees() | (self._traced.outside() if self._traced else frozenset())

    def genealogy(self) -> Genealogy:
        """What leader and descendants have done until now. Raises ValueError where there was no ``trace=True``."""
        self._check_owner()
        return tracing.genealogy(self._traced)

    # Waiting: the leader is looked at without reaping it, for its number may still be needed

    def poll(self) -> int | None:
        """As `subprocess.Popen.poll`. When the leader has ended and nothing is left, the containment is removed."""
        self._check_owner()
        return self._internal_poll()

    def wait(self, timeout: float | None = None) -> int:
        """As `subprocess.Popen.wait`: for the leader. Raises `subprocess.TimeoutExpired`."""
        self._check_owner()
        if self.returncode is None and self._child is not None:
            if not self._ends_within(timeout):
                raise subprocess.TimeoutExpired(self.args, timeout or 0)
            self._notice_end(block=True)
        return super().wait(timeout)

    def _ends_within(self, timeout: float | None) -> bool:
        assert self._child is not None
        try:
            return driver.ends(self._child, math.inf if timeout is None else time.monotonic() + timeout)
        except OSError as e:
            if timeout is None and e.errno in (errno.EMFILE, errno.ENFILE):
                return True  # no fds to wait with; waitid(2), which comes next, needs none
            raise

    def _internal_poll(self, _deadstate: int | None = None) -> int | None:
        # The standard library calls this for a Popen that nobody holds any more: in __del__, and then whenever another
        # is made. Its own version would reap the leader and leave the containment.
        if self.returncode is None and self._child is not None:
            self._notice_end(block=False)
        return self.returncode

    def _notice_end(self, *, block: bool) -> None:
        assert self._child is not None
        try:
            status = self._child.exit_status(block=block)
        except ChildProcessError:
            # Reaped by somebody else, or SIGCHLD is ignored: what the standard library says then.
            super().wait() if block else super()._internal_poll()  # type: ignore[misc]  # not in typeshed
        else:
            if status is None:
                return
            self.returncode = status
        if self._is_ours() and (self._remove_if_empty() or not self._containment.pins_leader):
            self._child.reap()

    def _remove_if_empty(self) -> bool:
        if self._containment.gone:  # by a stop, whose report says how it ended
            return True
        removed = self._containment.remove()
        if removed:
            ended_by = -(self.returncode or 0)
            suspected = ended_by > 0 and ended_by not in self._sent
            self._containment.ended_from_outside(suspected=suspected)  # as long as that can be seen
            self._containment.close()
            driver.forget(self._containment)
        return removed

    # Signals and stopping: for all members

    def send_signal(self, sig: int) -> None:
        """As `subprocess.Popen.send_signal`: to the leader only."""
        self._sent.add(sig)
        super().send_signal(sig)

    def terminate(self) -> None:
        """SIGTERM to every member."""
        self.signal_all(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL to every member at once; does not wait. `stop()` makes sure."""
        self._check_owner()
        self._sent.add(signal.SIGKILL)
        self._containment.kill()
        if self._child is not None:
            self._child.send(signal.SIGKILL)

    def signal_all(self, signum: int) -> frozenset[int]:
        """Send to every member; returns the pids reached. (`send_signal` reaches the leader only.)"""
        self._check_owner()
        self._sent.add(signum)
        reached = self._containment.signal(signum)
        if self._child is not None and self._child.pid not in reached and not self._child.has_ended():
            self._child.send(signum)
            reached |= {self._child.pid}
        return reached

    def stop(self, policy: StopPolicy | None = None) -> Report:
        """Stop every member as `policy` says (default: the one given at the start), reap the leader, remove the
        containment. A second call returns the report of the first, unless that left some running on purpose.

        >>> with Popen(["sleep", "1000"]) as proc:
        ...     proc.stop(StopPolicy(timeout_stop=1)).returncode
        -15

        Raises `StopTimeout` naming the pids when SIGKILL did not end them; it may be called again then.
        """
        return self.stop_meanwhile(driver.run, policy)

    def is_to_be_stopped(self) -> bool:
        """Whether a stop has something to do still: ``kill_mode="process"`` can have left some."""
        return self._report is None or not self._containment.gone

    def stopping(self, policy: StopPolicy | None = None) -> AbstractContextManager[reporting.Stopping]:
        """For a driver: the stop is carried out in the block, and its report is there after it."""
        self._check_owner()
        return reporting.reported(
            self._containment,
            self._leaders(),
            policy_or(policy, self._policy),
            self._settled,
            self._keep,
            self._sent,
            escapees=self._escapees,
            traced=(self._traced,) if self._traced else (),
            ports=self._ports_matter,
        )

    def _keep(self, report: Report) -> None:
        self._report = report if self._sampler is None else replace(report, samples=self._sampler.stop())

    def end_fds(self) -> tuple[int, ...]:
        """An fd that becomes readable when the leader ends; none if it has."""
        if self._child is None or self.poll() is not None:
            return ()
        try:
            return (self._child.fileno(),)
        except ProcessLookupError:
            return ()  # somebody else reaped it just now

    def exchange(self, exchange: Exchange, deadline: float) -> Generator[Wait, None, bool]:
        """For a driver: moves data until the leader has ended (True) or `deadline` has come (False)."""
        fds = self.end_fds()
        return not fds or (yield from exchange.pump(Wait(fds, deadline)))

    def _settled(self) -> int | None:
        """After a stop: reap the leader and let go of the containment."""
        if self._child is not None:
            if self.returncode is None:
                self._notice_end(block=True)
            if self._containment.remove():
                self._child.reap()
        driver.forget(self._containment)
        return self.returncode

    def close_streams(self) -> None:
        """Close the pipes to the child, also one with something unsent for a child that is gone."""
        for stream in (self.stdin, self.stdout, self.stderr):
            try:
                if stream is not None:
                    stream.close()
            except BrokenPipeError:
                continue

    def _check_owner(self) -> None:
        if not self._is_ours():
            raise WrongProcess(
                f"{self.name} was started by process {self._containment.owner}; this is {os.getpid()}, a fork of it, "
                "and it all ends with that one. A daemon must start what it wants to stop when it has become one"
            )

    def __enter__(self) -> Popen:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if not self._is_ours():
            return
        if error is not None:
            reporting.stop_after(error, self.stop)
            self.close_streams()  # and no wait: should the stop have failed, the leader may be alive
            return
        try:
            if self._containment.frozen:
                self.thaw()  # or the leader would never end
            super().__exit__(None, None, None)
        except BaseException as interrupted:
            reporting.stop_after(interrupted, self.stop)
            raise
        self.stop()
