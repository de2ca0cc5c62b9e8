"""Popen's ``sample=``: what a containment uses, looked at again and again, for its report."""

from __future__ import annotations

import signal
import threading
import time

from allgone._core.containment import Containment
from allgone._core.report import Sample
from allgone.errors import Unsupported

_MOST = 2000  # samples that are kept: when there are more, every other is dropped, and looks are half as frequent


class Sampler:
    """A thread that looks every `interval` seconds until `stop()`.

    Raises `Unsupported` with process-group: the kernel keeps no books on one, and to look at all processes is dear.
    """

    def __init__(self, containment: Containment, interval: float) -> None:
        if containment.backend != "cgroup":
            raise Unsupported(f"sample=: what a {containment.backend} uses is not counted; a cgroup's is")
        self._containment = containment
        self._interval = interval
        self._samples: list[Sample] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="allgone-sample", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())  # they are for threads that act on them
        while self._look() and not self._over.wait(self._interval):
            if len(self._samples) >= _MOST:
                del self._samples[1::2]
                self._interval *= 2

    def _look(self) -> bool:
        usage = self._containment.usage()
        if usage is None or self._containment.gone:
            return False
        self._samples.append(Sample(time.time(), usage.cpu_user + usage.cpu_system, usage.memory))
        return True

    def stop(self) -> tuple[Sample, ...]:
        """All that it has seen. Idempotent."""
        self._over.set()
        self._thread.join()
        return tuple(self._samples)


def check(interval: float | None) -> None:
    """Raises ValueError and TypeError."""
    if interval is None:
        return
    if not isinstance(interval, (int, float)) or isinstance(interval, bool):
        raise TypeError(f"sample must be a number of seconds, not {interval!r}")
    if not 0.001 <= interval < 1e6:
        raise ValueError(f"sample must be 0.001 or more seconds, not {interval!r}")
