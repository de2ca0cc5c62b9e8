"""pytest-xprocess: a starter whose process runs under ``allgone run``, which contains it and outlives the tests."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import Any, ClassVar

import xprocess


class ProcessStarter(xprocess.ProcessStarter):  # type: ignore[misc]  # it has no types
    """`xprocess.ProcessStarter`, for the same subclasses: what is started is contained.

    ``allgone run`` stands before `args`. Its pid is the one that xprocess keeps, so a process can be used again by the
    next test run, as ever, and ``pytest --xkill`` ends it; then all that it has started is gone as well.

    It begins a fraction of a second later for that. So a `startup_check` that raises an OSError, a refused connection
    for one, is asked again until `timeout`.

    run_options
        Options of ``allgone run``: ``("--backend", "cgroup", "--timeout-stop", "5s")``.
    """

    run_options: ClassVar[Sequence[str]] = ()

    def __getattribute__(self, name: str) -> Any:
        # Subclasses say `args` as a class attribute or as a property; both are to be had with the prefix.
        value = super().__getattribute__(name)
        if name == "args":
            return [sys.executable, "-m", "allgone", "run", *self.run_options, "--", *value]
        return value

    def wait_callback(self) -> bool:
        deadline = time.monotonic() + self.timeout
        while True:
            try:
                return bool(super().wait_callback())
            except TimeoutError:
                raise
            except OSError:
                if time.monotonic() >= deadline:
                    raise
