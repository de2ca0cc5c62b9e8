"""multiprocessing and concurrent.futures: processes that are contained, each with all that it starts."""

from __future__ import annotations

import io
import multiprocessing.context
import multiprocessing.popen_fork
import multiprocessing.popen_spawn_posix
import os
import signal
from collections.abc import Callable, Mapping
from multiprocessing import process, reduction, resource_tracker, spawn, util
from multiprocessing.context import set_spawning_popen
from typing import Any

from allgone._backends.choose import BackendName
from allgone._core.containment import Backend
from allgone._core.policy import StopPolicy
from allgone._core.report import Report
from allgone._process.forked import Forked
from allgone._process.popen import Popen
from allgone.errors import Unsupported


def get_context(
    method: str = "spawn",
    *,
    backend: BackendName | Backend | None = None,
    policy: StopPolicy | None = None,
    sweep: bool = False,
    guard: bool = True,
) -> multiprocessing.context.BaseContext:
    """A context as `multiprocessing.get_context()` has it, whose processes are contained.

    backend, policy, sweep, guard
        As for `Popen`.

    `terminate()` and `kill()` of its processes reach everything that they have started. When one has ended and that is
    seen (`join()`, `is_alive()`, `exitcode`, the end of an executor), what it left is stopped by the policy; the
    process's `report` says what was found. A process made by ``"spawn"`` is born contained; one made by ``"fork"``
    enters before anything of its own runs, but behind what `os.register_at_fork` has been told.

    >>> import concurrent.futures
    >>> with concurrent.futures.ProcessPoolExecutor(1, mp_context=get_context("fork")) as pool:
    ...     pool.submit(abs, -3).result()
    3

    Raises `Unsupported` for ``"forkserver"``, whose processes are the server's children and not ours, and ValueError
    for what is no method. Starting a process raises what `Popen` raises; ``"fork"`` raises `Unsupported` where only
    systemd may move processes to their cgroup.
    """
    if method == "forkserver":
        raise Unsupported('forkserver: its processes are children of the server, not of this process; use "spawn"')
    if method not in _CONTEXTS:
        raise ValueError(f"cannot find context for {method!r}: there are spawn and fork")
    made: multiprocessing.context.BaseContext = _CONTEXTS[method](
        {"backend": backend, "policy": policy, "sweep": sweep, "guard": guard}
    )
    return made


class _Contained(process.BaseProcess):
    """A process that knows how it is to be contained."""

    containment: Mapping[str, Any] = {}
    _popen: Any

    @property
    def report(self) -> Report | None:
        """What was found when it had ended; None before that is seen, and after `close()`."""
        return None if self._popen is None else self._popen.report

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "containment"}  # is not for the child


class SpawnProcess(_Contained, multiprocessing.context.SpawnProcess):
    """Made by the context for ``"spawn"``. A subclass says in `containment` what `get_context()` would be told."""

    @staticmethod
    def _Popen(process_obj: Any) -> Any:
        return _SpawnPopen(process_obj)


class ForkProcess(_Contained, multiprocessing.context.ForkProcess):
    """The same for ``"fork"``."""

    @staticmethod
    def _Popen(process_obj: Any) -> Any:
        return _ForkPopen(process_obj)


class _Context(multiprocessing.context.BaseContext):
    _name: str
    _process: type[_Contained]

    def __init__(self, containment: Mapping[str, Any]) -> None:
        self._containment = containment

    def Process(self, *args: Any, **keywords: Any) -> Any:
        made = self._process(*args, **keywords)
        made.containment = self._containment
        return made

    def get_start_method(self, allow_none: bool = False) -> str:
        return self._name

    def set_start_method(self, method: str | None, force: bool = False) -> None:
        raise ValueError("cannot set start method of concrete context")


class SpawnContext(_Context):
    _name = "spawn"
    _process = SpawnProcess


class ForkContext(_Context):
    _name = "fork"
    _process = ForkProcess


_CONTEXTS: dict[str, Callable[[Mapping[str, Any]], Any]] = {"spawn": SpawnContext, "fork": ForkContext}


class _Held:
    """What both have in place of waitpid() and kill(): a `Popen`."""

    contained: Popen
    report: Report | None = None
    returncode: int | None
    finalizer: Any

    def poll(self, flag: int = os.WNOHANG) -> int | None:
        if self.returncode is None:
            code = self.contained.poll() if flag == os.WNOHANG else self.contained.wait()
            if code is not None:
                self.report = self.contained.stop()
                self.returncode = code
        return self.returncode

    def _send_signal(self, sig: int) -> None:
        if self.returncode is not None:
            return
        if sig == signal.SIGKILL:
            self.contained.kill()
        else:
            self.contained.signal_all(sig)

    def _hold(self, contained: Popen, parent_w: int) -> None:
        """`parent_w`: the child knows by its end of that pipe when this process has ended."""
        self.contained, self.pid = contained, contained.pid
        try:
            self.sentinel = os.pidfd_open(contained.pid)  # nobody has reaped it yet, unless SIGCHLD is ignored
        except OSError:
            contained.stop()
            raise
        self.finalizer = util.Finalize(self, _close, (self.sentinel, parent_w))


def _close(*fds: int) -> None:
    for fd in fds:
        os.close(fd)


class _ForkPopen(_Held, multiprocessing.popen_fork.Popen):
    def _launch(self, process_obj: Any) -> None:
        child_r, parent_w = os.pipe()

        def run() -> int:
            os.close(parent_w)
            code: int = process_obj._bootstrap(parent_sentinel=child_r)
            return code

        try:
            self._hold(Forked(run, **process_obj.containment), parent_w)
        except BaseException:
            os.close(parent_w)
            raise
        finally:
            os.close(child_r)


class _SpawnPopen(_Held, multiprocessing.popen_spawn_posix.Popen):
    _fds: list[int]

    def _launch(self, process_obj: Any) -> None:
        tracker = resource_tracker.getfd()
        data = io.BytesIO()
        set_spawning_popen(self)
        try:
            reduction.dump(spawn.get_preparation_data(process_obj._name), data)
            reduction.dump(process_obj, data)
        finally:
            set_spawning_popen(None)
        child_r, parent_w = os.pipe()
        try:
            command = spawn.get_command_line(tracker_fd=tracker, pipe_handle=child_r)
            passed = [*self._fds, tracker, child_r]
            started = Popen(command, executable=spawn.get_executable(), pass_fds=passed, **process_obj.containment)
            self._hold(started, parent_w)
        except BaseException:
            os.close(parent_w)
            raise
        finally:
            os.close(child_r)
        try:
            with open(parent_w, "wb", closefd=False) as f:
                f.write(data.getbuffer())
        except BaseException:
            started.stop()
            raise
