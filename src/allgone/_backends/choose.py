"""The one place where a backend is chosen."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Literal

from allgone._backends.cgroup import CgroupBackend
from allgone._backends.process_group import ProcessGroupBackend
from allgone._core.containment import Backend
from allgone.errors import BackendUnavailable

BackendName = Literal["auto", "cgroup", "process-group"]
NAMES = ("auto", "cgroup", "process-group")

_lock = threading.RLock()
_chosen: dict[tuple[object, ...], Backend] = {}


def backend(
    asked: BackendName | Backend | None = None,
    *,
    sweep: bool = False,
    guard: bool = True,
    scope: bool = False,
    preexec: bool = False,
) -> Backend:
    """The backend for `asked`: an object as it is, a name by its one instance in this process.

    `scope`: for a containment in a scope of its own. `preexec`: for a command with a ``preexec_fn``.

    None means ALLGONE_BACKEND, or else ``"auto"``: cgroup where that works, process-group where not. A name is never
    silently replaced: raises `BackendUnavailable` with reasons and remedies, ValueError for an unknown name.
    """
    if not isinstance(guard, bool):
        raise TypeError(f"guard must be True or False, not {guard!r}")
    if asked is not None and not isinstance(asked, str):
        if not hasattr(asked, "create"):
            raise TypeError(f"backend must be a name or a backend object, not {type(asked).__name__}")
        if not guard:
            raise ValueError("guard=False is for the backend object to be made with")
        return asked
    name = asked or os.environ.get("ALLGONE_BACKEND") or "auto"
    if name not in NAMES:
        source = "backend" if asked else "ALLGONE_BACKEND"
        raise ValueError(f"{source} must be one of {', '.join(NAMES)}, or a backend object, not {name!r}")
    if scope and name != "process-group":
        # It makes no directory of its own, so nothing is tried out beforehand.
        return _kept(("scope", guard, *_told()), lambda: CgroupBackend(try_it=False, guard=guard))
    if name == "auto":
        return _auto_with_preexec(sweep, guard) if preexec else _auto(sweep, guard)
    if name == "cgroup":
        return _kept(("cgroup", guard, *_told()), lambda: CgroupBackend(guard=guard))
    return _kept(("process-group", guard, sweep), lambda: ProcessGroupBackend(sweep=sweep, guard=guard))


def is_at_hand(asked: BackendName | Backend | None, *, sweep: bool = False, guard: bool = True) -> bool:
    """Whether the backend for `asked` has been used, and need not look for a place to make containments in."""
    taken: object = asked
    if asked is None or isinstance(asked, str):
        name = asked or os.environ.get("ALLGONE_BACKEND") or "auto"
        keys = {
            "auto": ("auto", guard, sweep, *_told()),
            "cgroup": ("cgroup", guard, *_told()),
            "process-group": ("process-group", guard, sweep),
        }
        taken = _chosen.get(keys.get(name, ()))
    return bool(getattr(taken, "is_at_hand", False))


def _told() -> tuple[str | None, ...]:
    return (os.environ.get("ALLGONE_CGROUP"),)


def _kept(key: tuple[object, ...], make: Callable[[], Backend]) -> Backend:
    with _lock:
        if key not in _chosen:
            _chosen[key] = make()
        return _chosen[key]


def _auto_with_preexec(sweep: bool, guard: bool) -> Backend:
    taken = _auto(sweep, guard)
    if isinstance(taken, CgroupBackend) and taken.moves_in:
        return backend("process-group", sweep=sweep, guard=guard)
    return taken


def _auto(sweep: bool, guard: bool) -> Backend:
    return _kept(("auto", guard, sweep, *_told()), lambda: _tried(sweep, guard))


def _tried(sweep: bool, guard: bool) -> Backend:
    import logging  # once per process, and only where somebody may be listening

    log = logging.getLogger("allgone")
    try:
        taken = backend("cgroup", guard=guard)
    except BackendUnavailable as e:
        taken = backend("process-group", sweep=sweep, guard=guard)
        log.info("backend: process-group, because %s", e)
    else:
        log.info("backend: cgroup")
    return taken


def _after_fork_in_child() -> None:
    global _lock
    _lock = threading.RLock()


os.register_at_fork(after_in_child=_after_fork_in_child)
