"""The command ``allgone``: it prints and exits, and leaves what it knows of processes to the layers below.

    app            arguments, options, help
    durations      10m, 1h30m, infinity
    job            ``allgone run``: from start to exit status
    supervision    ``allgone run``: while the command runs
    signals        ``allgone run``: signals taken one by one; and those of ``allgone up``
    usage          ``allgone run --usage``
    up             ``allgone up``: from start to exit status
    procfile       ``allgone up``: what is to be run
    manager        ``allgone up``: while it runs, and the stop
    relay          ``allgone up``: output, line by line
    words          processes in a message
    containments   ``allgone ps``, ``kill``, ``stop``, ``gc``
    runner_job     ``allgone job``
    doctor         ``allgone doctor``: what this machine can do
    metrics        ``allgone metrics``

Nothing is imported before it is needed: ``allgone run -- true`` should start fast.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence

OWN_FAILURE = 125  # as timeout(1) and env(1)


def main(args: Sequence[str] | None = None) -> int:
    """Run the command with `args` (default: those of this process); returns the exit status.

    Does not return, but ends by the same signal, where the command that it ran was ended by a signal.
    """
    try:
        from allgone.cli import app

        return app.main(args)
    except KeyboardInterrupt:
        from allgone._linux import own_end

        own_end.by_signal(signal.SIGINT)
        return 128 + signal.SIGINT


def say(text: str) -> None:
    """One message on stderr."""
    put(f"allgone: {text}\n")


def put(text: str) -> None:
    """Lines to stderr, in one write; if nobody can read them any more, so be it."""
    if sys.stderr is None:
        return  # closed when we were started: fd 2 may be something else by now
    try:
        os.write(2, text.encode("utf-8", "surrogateescape"))
    except OSError:
        pass  # a closed pipe, a terminal that was hung up
