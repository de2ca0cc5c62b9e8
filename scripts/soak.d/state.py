"""What a supervisor of the soak holds and has done, and how it looks whether all is gone."""

from __future__ import annotations

import collections
import contextlib
import ctypes
import gc
import os
import random
import select
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import allgone

HERE = Path(__file__).resolve().parent
PROGRAMS = HERE.parents[1] / "tests/programs"
READY_WITHIN = 60.0  # seconds, for what takes milliseconds: the machine is under pressure, and supervisors are stopped

KINDS: dict[str, dict[str, Any]] = {
    "cgroup": {"backend": "cgroup"},
    "delegated": {"backend": "cgroup"},
    "process-group": {"backend": "process-group"},
    "sweeping": {"backend": "process-group", "sweep": True},
}
_TAME = ["forking_server", "ignores_sigterm", "leader_exits_first", "own_process_group", "stops_itself", "hopper"]
_ESCAPING = ["double_fork_daemon", "daemon_whose_parent_exits_first", "setsid_child", "wipes_its_traces"]
_CHEAP = [["sh", "-c", "echo ready; sleep 100 & sleep 100"], ["sh", "-c", "trap '' TERM; echo ready; sleep 100"],
          ["sh", "-c", "echo ready; exec sleep 100"]]  # fmt: skip


class Watched:
    """What was started, and a pipe that all of it holds: at its end when the last of them is."""

    def __init__(self, soak: Soak, start: Callable[..., Any], words: list[str], escaped: str, **options: Any) -> None:
        self._reader, writer = os.pipe()
        try:
            self.process = start(words, pass_fds=[writer], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, **options)
        except BaseException:
            os.close(self._reader)
            raise
        finally:
            os.close(writer)
        self._soak = soak
        self._words = words
        self._escaped = escaped
        self.is_ready = False

    def await_ready(self) -> None:
        stdout = self.process.stdout
        poller = select.poll()
        poller.register(stdout, select.POLLIN)
        deadline = time.monotonic() + READY_WITHIN
        text = b""
        while b"ready\n" not in text:
            assert poller.poll(max(0.0, deadline - time.monotonic()) * 1000), f"{self._words} is not ready: {text!r}"
            chunk = os.read(stdout.fileno(), 1 << 16)
            if not chunk:
                assert self.process.poll() is not None, f"{self._words} has closed its stdout: {text!r}"
                return  # killed by another part of the soak, or by the kernel
            text += chunk
        self.is_ready = True

    def stop(self, **policy: Any) -> None:
        report = self.process.stop(allgone.StopPolicy(**policy))
        self.check(report)

    def check(self, report: allgone.Report) -> None:
        """All of it is gone, now. But for a process group's daemons: the report names them, and they are ended here."""
        poller = select.poll()
        poller.register(self._reader, select.POLLIN)
        until = time.monotonic() + (READY_WITHIN if self._escaped in self._words else 0)
        while not poller.poll(0):
            assert time.monotonic() < until, f"{self._words} has survived: {report}"
            self._end_escapee({each.pid for each in report.escapees})
            poller.poll(50)  # there is no event for a daemon that is about to note itself
        assert not self.process.members()
        self.close()

    def _end_escapee(self, named: set[int]) -> None:
        try:
            with open(self._escaped, encoding="ascii") as f:
                pid = int(f.read())
            fd = os.pidfd_open(pid)
        except (FileNotFoundError, ValueError, ProcessLookupError):  # not yet, or gone just now
            return
        try:
            if not _is_in_our_cgroup(pid):
                return
            assert pid in named or not self.is_ready, f"the report does not name the escapee {pid}: {named}"
            signal.pidfd_send_signal(fd, signal.SIGKILL)
            self._soak.escapees += 1
        except ProcessLookupError:
            pass  # gone, which is the goal
        finally:
            os.close(fd)

    def close(self) -> None:
        for each in (self.process.stdout, self.process.stderr):
            if each is not None:
                each.close()
        os.close(self._reader)


NOT_STARTED = (allgone.PlacementFailed, allgone.SystemdError, allgone.BackendUnavailable)


def _scope_was_lost(e: Exception) -> bool:
    """Whether that came of the end of a scope's first process, which chaos has killed while that was made."""
    return ".scope" in str(e) or "Process with ID" in str(e)


def _is_in_our_cgroup(pid: int) -> bool:
    try:
        with (
            open(f"/proc/{pid}/cgroup", encoding="utf-8") as theirs,
            open("/proc/self/cgroup", encoding="utf-8") as ours,
        ):
            return theirs.read() == ours.read()
    except (FileNotFoundError, ProcessLookupError):
        return False


class Soak:
    """The state of one supervisor."""

    def __init__(self, kind: str, seed: str, folder: str, *, is_long_lived: bool) -> None:
        self.kind = kind
        self.is_long_lived = is_long_lived
        self.how = KINDS[kind]
        self.random = random.Random(seed)
        self._folder = folder
        self._starts = 0
        self.held: list[Watched] = []
        self.done: collections.Counter[str] = collections.Counter()
        self.escapees = 0
        self._journal = os.open(f"{folder}/journal", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC)

    def note(self, *words: object) -> None:
        os.write(self._journal, (" ".join(map(str, words)) + "\n").encode())

    # What to start

    def program(self) -> list[str]:
        """A command that says that it is ready."""
        choice = self.random.random()
        if choice < 0.4:
            return self.random.choice(_CHEAP)
        if choice < 0.405:
            return self.command("fork_bomb")
        if choice < 0.44:
            return self.command("zombie_leader")
        if choice < 0.75:
            return self.command(self.random.choice(_TAME))
        if self.kind == "process-group":
            return [sys.executable, "-S", "-B", str(HERE / "escapee.py"), self.escaped()]
        return self.command(self.random.choice(_ESCAPING)) if choice < 0.95 else self.command("hopper", "setsid")

    def escaped(self) -> str:
        """The file for the pid of a daemon of what is started now."""
        return f"{self._folder}/escaped-{self._starts}"

    def command(self, program: str, *words: str) -> list[str]:
        return [sys.executable, "-S", "-B", str(PROGRAMS / f"{program}.py"), *words]

    def start(self, start: Callable[..., Any] = allgone.Popen, *, ready: bool | None = None, **options: Any) -> Watched:
        self._starts += 1
        words = self.program()
        self.note("  start", *words, options)
        if start is allgone.Popen:
            options = self.how | options
        child = Watched(self, start, words, self.escaped(), **options)
        if self.random.random() < 0.6 if ready is None else ready:
            child.await_ready()
        return child

    def policy(self) -> dict[str, Any]:
        return {
            "kill_mode": self.random.choice(["control-group", "control-group", "mixed"]),
            "timeout_stop": self.random.choice([0, 0, 0.05, 0.3]),
            "send_sighup": self.random.random() < 0.2,
        }

    # Rounds

    def round(self, seconds: float, chosen: list[tuple[str, Callable[[Soak], None], int]]) -> None:
        until = time.monotonic() + seconds
        names, calls, weights = zip(*chosen, strict=True)
        while time.monotonic() < until:
            (n,) = self.random.choices(range(len(names)), weights)
            self.note("begin", names[n])
            try:
                with self._warnings():
                    calls[n](self)
                self.done[names[n]] += 1
            except NOT_STARTED as e:
                if not _scope_was_lost(e):
                    raise
                self.done["not started"] += 1
            self.note("end", names[n])

    @contextlib.contextmanager
    def _warnings(self) -> Iterator[None]:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield
        for each in caught:
            if issubclass(each.category, allgone.GuardLostWarning):
                self.done["guard replaced"] += 1
            elif not issubclass(each.category, allgone.EscapedProcessWarning):
                raise AssertionError(f"unexpected: {each.message}")

    def rest(self) -> None:
        while self.held:
            with self._warnings():
                self.held.pop().stop(timeout_stop=0)
        with self._warnings():  # a scope or a guard that was lost is noticed, and let go of, with the next start
            allgone.run(["true"], **self.how)
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)
