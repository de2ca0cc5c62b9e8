"""systemd: whether it is the one who hands out cgroups here."""

from __future__ import annotations

import os


def is_running() -> bool:
    """Whether this machine was booted with systemd (sd_booted(3))."""
    return os.path.isdir("/run/systemd/system")
