"""Another, ordinary user, whom nobody else on the machine is."""

from __future__ import annotations

import os

from support.tiers import missing


def spare_uid() -> int:
    """A user id without processes and without a name. Skips where this process may not become others."""
    if os.geteuid() != 0:
        missing("only root can start processes as another user")
    return 50_000 + os.getpid() % 10_000
