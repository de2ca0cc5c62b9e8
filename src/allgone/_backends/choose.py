"""The one place where a backend is chosen."""

from __future__ import annotations

import os
import threading
from typing import Literal

from allgone._backends.cgroup import CgroupBackend
from allgone._backends.process_group import ProcessGroupBackend
from allgone._core.containment import Backend
from allgone.errors import BackendUnavailable

BackendName = Literal["auto", "cgroup", "process-group"]
NAMES = ("auto", "cgroup", "process-group")

_lock = threading.RLock()
_chosen: dict[tuple[str, bool, str | None], Backend] = {}


def backend(
    asked: BackendName | Backend | None = None, *, sweep: bool = False, scope: bool = False, preexec: bool = False
) -> Backend:
    """The backend for `asked`: an object as it is, a name by its one instance in this process.

    `scope`: for a containment in a scope of its own. `preexec`: for a command with a ``preexec_fn``.

    None means ALLGONE_BACKEND, or else ``"auto"``: cgroup where that works, process-group where not. A name is never
    silently replaced: raises `BackendUnavailable` with reasons and remedies, ValueError for an unknown name.
    """
    if asked is not None and not isinstance(asked, str):
        if not hasattr(asked, "create"):
            raise TypeError(f"backend must be a name or a backend object, not {type(asked).__name__}")
        return asked
    name = asked or os.environ.get("ALLGONE_BACKEND") or "auto"
    if name not in NAMES:
        source = "backend" if asked else "ALLGONE_BACKEND"
        raise ValueError(f"{source} must be one of {', '.join(NAMES)}, or a backend object, not {name!r}")
    if scope and name != "process-group":
        return _for_scopes()
    if name == "auto" and preexec:
        return _auto_with_preexec(sweep)
    key = (name, sweep, os.environ.get("ALLGONE_CGROUP"))
    with _lock:
        if key not in _chosen:
            _chosen[key] = _auto(sweep) if name == "auto" else _named(name, sweep)
        return _chosen[key]


def _named(name: str, sweep: bool) -> Backend:
    return _shared_cgroup() if name == "cgroup" else ProcessGroupBackend(sweep=sweep)


def _shared_cgroup() -> Backend:
    key = ("cgroup", False, os.environ.get("ALLGONE_CGROUP"))
    if key not in _chosen:
        _chosen[key] = CgroupBackend()
    return _chosen[key]


def _for_scopes() -> Backend:
    """It makes no directory of its own, so nothing is tried out beforehand."""
    key = ("scope", False, os.environ.get("ALLGONE_CGROUP"))
    with _lock:
        if key not in _chosen:
            _chosen[key] = CgroupBackend(try_it=False)
        return _chosen[key]


def _auto_with_preexec(sweep: bool) -> Backend:
    taken = backend("auto", sweep=sweep)
    if isinstance(taken, CgroupBackend) and taken.moves_in:
        return backend("process-group", sweep=sweep)
    return taken


def _auto(sweep: bool) -> Backend:
    import logging  # once per process, and only where somebody may be listening

    log = logging.getLogger("allgone")
    try:
        taken = backend("cgroup")
    except BackendUnavailable as e:
        taken = backend("process-group", sweep=sweep)
        log.info("backend: process-group, because %s", e)
    else:
        log.info("backend: cgroup")
    return taken


def _after_fork_in_child() -> None:
    global _lock
    _lock = threading.RLock()


os.register_at_fork(after_in_child=_after_fork_in_child)
