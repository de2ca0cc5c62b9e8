"""From what kept a command from being executed to the error that says so."""

from __future__ import annotations

import errno
import os
from typing import Any

from allgone._backends import cgroup_base
from allgone._linux import launcher
from allgone.errors import PlacementFailed

# What execve(2) says about the file; anything else (E2BIG, ENOMEM, …) is about what it was asked to do.
_OF_THE_LAUNCHER = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EACCES, errno.EPERM, errno.ENOEXEC}


def of_launch(failed: launcher.Failure, executable: Any, where: str) -> OSError:
    """What the launcher reported; it was to enter `where`."""
    message = os.strerror(failed.error)
    if failed.stage == launcher.EXEC:
        return OSError(failed.error, message, executable)
    if failed.stage == launcher.SEAL:
        return PlacementFailed(failed.error, f"the command can't be sealed in: {message}", where)
    if failed.stage == launcher.SOCKETS:
        return OSError(failed.error, f"the sockets can't be handed over: {message}")
    return PlacementFailed(failed.error, message, where, cgroup_base.placement_remedy(failed.error))


def launcher_not_executed(e: OSError, executable: object) -> OSError:
    """The launcher itself could not be."""
    if e.errno not in _OF_THE_LAUNCHER:
        return OSError(e.errno, e.strerror, executable)
    remedy = (
        "ALLGONE_LAUNCHER=interpreted uses the Python interpreter instead"
        if launcher.kind() == "compiled"
        else "it must be within reach of the user that the command is to run as"
    )
    message = f"the launcher can't be executed: {e.strerror}"
    return PlacementFailed(e.errno or 0, message, launcher.program(), remedy)
