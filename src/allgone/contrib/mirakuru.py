"""mirakuru's executors, with `allgone.Popen` for `subprocess.Popen`: what they have started is gone after `stop()`."""

from __future__ import annotations

import os
from typing import Any

import mirakuru
from mirakuru.base import SimpleExecutor as _SimpleExecutor
from mirakuru.unixsocket import UnixSocketExecutor as _UnixSocketExecutor

from allgone._core.report import Report
from allgone._process.popen import Popen


class Contained(_SimpleExecutor):
    """A mix-in for executors of one's own; it comes last among the bases.

    An executor's `popen_kwargs` may have the arguments of `allgone.Popen`, `backend` and `policy` among them. `stop()`
    and `kill()` do as mirakuru says, then all that is left in the containment is stopped by the policy, and reported:
    `executor.report` is the `Report` of the last stop.

    >>> with SimpleExecutor("sleep 1000", popen_kwargs={"name": "example"}) as executor:
    ...     executor.process.members() == {executor.process.pid}
    True

    Raises what mirakuru raises, and what `allgone.Popen` raises.
    """

    report: Report | None = None

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        order = cls.__mro__
        if mirakuru.Executor in order and order.index(mirakuru.Executor) > order.index(Contained):
            raise TypeError(f"Contained comes last: class {cls.__name__}(TCPExecutor, Contained)")

    def start(self) -> Any:
        if self.process is None:
            command = self.command if self._shell else self.command_parts
            options = dict(self._popen_kwargs)
            if options.get("preexec_fn") is os.setsid:
                del options["preexec_fn"]  # the same, without the fork that it costs
                options["start_new_session"] = True
            self.process = Popen(command, **options)
        return super().start()

    def kill(self, wait: bool = True, sig: int | None = None) -> Any:
        self._kill_all_kids(self._kill_signal if sig is None else sig)
        return super().kill(wait, sig)

    def _kill_all_kids(self, sig: int) -> set[int]:
        """Where mirakuru looks for its variable in every environment, the containment knows."""
        return set(self.process.signal_all(sig)) if isinstance(self.process, Popen) else set()

    def _clear_process(self) -> None:
        process = self.process
        super()._clear_process()
        if isinstance(process, Popen):
            self.report = process.report


class SimpleExecutor(Contained):
    """`mirakuru.SimpleExecutor`, contained."""


class OutputExecutor(mirakuru.OutputExecutor, Contained):
    """`mirakuru.OutputExecutor`, contained."""


class TCPExecutor(mirakuru.TCPExecutor, Contained):
    """`mirakuru.TCPExecutor`, contained."""


class UnixSocketExecutor(_UnixSocketExecutor, Contained):
    """`mirakuru.UnixSocketExecutor`, contained."""


class HTTPExecutor(mirakuru.HTTPExecutor, Contained):
    """`mirakuru.HTTPExecutor`, contained."""


class PidExecutor(mirakuru.PidExecutor, Contained):
    """`mirakuru.PidExecutor`, contained: also the daemon that its process became."""
