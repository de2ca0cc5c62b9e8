"""What to hand to a spawner so that the child is born inside a containment."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Command:
    """A command with the launcher in front of it, and what must be inherited for that to work."""

    argv: tuple[Any, ...]  # str, bytes or os.PathLike, as the user gave them
    executable: str
    pass_fds: tuple[int, ...]
    start_new_session: bool
    enter: Callable[[], None]  # does what the launcher will do, for a preexec_fn, which runs before it
