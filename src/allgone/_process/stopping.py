"""What a `Popen` and a `Group` have in common: a stop that any driver can carry out."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager

from allgone._core.policy import StopPolicy
from allgone._core.report import Report
from allgone._core.stop import Steps
from allgone._process import driver
from allgone._process.inside import Inside
from allgone._process.reporting import Stopping


class Stoppable(Inside):
    """One that has a containment, which can be stopped."""

    def is_to_be_stopped(self) -> bool:
        """Whether a stop has something to do still."""
        raise NotImplementedError

    def stopping(self, policy: StopPolicy | None = None) -> AbstractContextManager[Stopping]:
        """For a driver: the stop is carried out in the block, and its report is there after it."""
        raise NotImplementedError

    def close_streams(self) -> None:
        """Close the pipes to what was started."""
        raise NotImplementedError

    def stop_meanwhile(self, carry_out: Callable[[Steps], None], policy: StopPolicy | None = None) -> Report:
        """`stop()` by a driver of one's own: `carry_out` does the waiting that the steps ask for."""
        if self.is_to_be_stopped():
            with self.stopping(policy) as stopping:
                driver.carry_out(stopping, carry_out)
        assert self._report is not None
        return self._report

    def _is_ours(self) -> bool:
        """Not a fork's."""
        return self._containment.owner == os.getpid()
