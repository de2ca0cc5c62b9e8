"""The freeze: asked for, and waited for until nobody runs. A generator for the drivers, as the stop sequence is."""

from __future__ import annotations

import time
from collections.abc import Callable

from allgone._core.containment import Containment
from allgone._core.stop import Steps, Wait
from allgone.errors import FreezeTimeout


def freeze_steps(containment: Containment, timeout: float, clock: Callable[[], float] = time.monotonic) -> Steps:
    """Yields `Wait`s until all members are frozen. Left before that, for whatever reason, it has them go on.

    Raises `FreezeTimeout` when that takes longer than `timeout` seconds, and what `Containment.freezing` raises.
    """
    deadline = clock() + timeout
    frozen_before = containment.frozen
    with containment.freezing() as watch:
        try:
            while not watch.frozen():
                if clock() >= deadline:
                    raise FreezeTimeout(
                        f"{containment.name} was not frozen within {timeout:g} s, and goes on. A process in "
                        "uninterruptible sleep (state D) can't be frozen before its system call returns; "
                        f"look at /proc/PID/wchan and at {containment.where()}"
                    )
                yield Wait((watch.fileno(),), deadline)
        except BaseException:  # Ctrl-C as well, and a driver that waits no longer
            if not frozen_before:
                containment.thaw()
            raise
