"""Waiting until a process is ready: asked of its probe, and told by its end and its output."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from allgone import ready as readiness
from allgone._core.notification import in_words
from allgone._core.stop import Wait
from allgone._process.output import Output
from allgone.errors import ExitedBeforeReady, NotReady, OutOfMemory, PortTaken

if TYPE_CHECKING:
    from allgone._process.fixture import FixtureProcess

# Between two looks of a probe that has no event: quick at first, for most servers take a few milliseconds.
_FIRST_LOOK, _SLOWEST_LOOK = 0.001, 0.05


class UntilReady:
    """What to wait for until a process is ready, for a driver, which has the probe asked whenever it is due."""

    def __init__(self, process: FixtureProcess, probe: readiness.Probe, output: Output, timeout: float) -> None:
        self._process = process
        self.probe = probe
        self._output = output
        self._timeout = timeout
        self.deadline = time.monotonic() + timeout
        self._pause = _FIRST_LOOK
        self._ended = False

    def look(self) -> None:
        """To be called before the probe is asked: an end that comes meanwhile does not count yet."""
        process = self._process
        self._ended = process.poll() is not None and not _lives_on(process)
        self._output.pump()
        if process._notifications is not None:
            process._notifications.hear()
            self.deadline = max(self.deadline, process._notifications.extended_until)

    def next_wait(self) -> Wait | None:
        """Look, and ask; what to wait for then is told by `after()`."""
        self.look()
        return self.after(self.answer())

    def answer(self) -> bool | OSError:
        """Of the probe; for one that may block, a driver calls this where it may."""
        try:
            return bool(self.probe(self._process, self._output))
        except PortTaken:
            raise
        except OSError as e:
            return e

    def after(self, answer: bool | OSError) -> Wait | None:
        """What to wait for before the probe is asked again; None when it has said yes.

        Raises `NotReady` and `ExitedBeforeReady`.
        """
        if answer is True:
            return None
        self._output.pump()  # again, for the probe may have taken its time
        process, probe = self._process, self.probe
        if self._ended:
            raise ExitedBeforeReady(
                f"{process.args!r} ended with return code {process.returncode} before {probe} was true{_told(process)}",
                process.returncode,
                self._output.tail(),
            ) from _out_of_memory(process)
        left = self.deadline - time.monotonic()
        if left <= 0:
            last = f" (last: {answer})" if isinstance(answer, OSError) else _told(process)
            message = f"{process.args!r}: {probe} was not true within {self._timeout:g} s{last}"
            raise NotReady(message, self._output.tail())
        is_told = probe.is_told and process.returncode is None  # nothing tells of the end of a daemon
        wait = self._news(left if is_told else min(self._pause, left))
        self._pause = min(self._pause * 1.5, _SLOWEST_LOOK)
        return wait

    def _news(self, pause: float) -> Wait:
        heard = self._process._notifications
        told = () if heard is None else heard.wait_fds()
        return Wait((*self._process.end_fds(), *self._output.wait_fds(), *told), time.monotonic() + pause)


def _out_of_memory(process: FixtureProcess) -> OutOfMemory | None:
    used = process.usage()
    if used is None or not used.oom_kills:
        return None
    return OutOfMemory(process.returncode, process.args, used.oom_kills)


def _lives_on(process: FixtureProcess) -> bool:
    """Whether the leader has ended as a daemon's does: with success, leaving others behind."""
    return process.returncode == 0 and bool(process.members() or process.escapees())


def _told(process: FixtureProcess) -> str:
    """For an error: what it has told of itself, and who told something that did not count."""
    heard = process._notifications
    if heard is None:
        return ""
    ignored = ", ".join(str(pid) if pid else "another pid namespace" for pid in dict.fromkeys(heard.ignored))
    said = [words] if (words := in_words(heard.notified)) else []
    if ignored:
        said.append(f"ignored, for it is not known to be of it: what came from process {ignored}")
    return f" ({'; '.join(said)})" if said else ""
