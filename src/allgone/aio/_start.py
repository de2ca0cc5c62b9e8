"""Starts: a millisecond on the event loop's thread, or longer in another one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import anyio

from allgone._backends import choose
from allgone._core.policy import StopPolicy
from allgone._process.stopping import Stoppable
from allgone.aio import _driver

# Those of Popen's parameters with which a start, and the end of a stop, ask others, or the kernel for a network.
_SLOW = ("unit", "slice", "description", "properties", "network", "seal", "trace")
_TEXT = ("text", "universal_newlines", "encoding", "errors")
_AT_ONCE = StopPolicy(timeout_stop=0.0)
_S = TypeVar("_S", bound=Stoppable)


def is_slow(keywords: Mapping[str, Any]) -> bool:
    """Whether starts with these take long, each of them, and the end of a stop as well."""
    return any(keywords.get(each) for each in _SLOW)


def without_text(keywords: dict[str, Any]) -> dict[str, Any]:
    """For streams of bytes. Raises ValueError where text was asked for, or a buffer."""
    for each in _TEXT:
        if keywords.get(each):
            raise ValueError(f"{each}= is not supported: the streams are of bytes (anyio.streams.text decodes them)")
    if keywords.get("bufsize", 0) not in (0, -1):
        raise ValueError("bufsize= is not supported: nothing is buffered")
    return {**keywords, "bufsize": 0}


async def started(make: Callable[[], _S], keywords: Mapping[str, Any], *, slow: bool = False) -> _S:
    """What `make` starts. Cancelled meanwhile, that is stopped.

    It may stay on this thread, as asyncio's own starts do, where there is a place to start it in. To find one takes
    longer the first time (systemd is asked for a scope): then, and where each start takes long, a thread does it all.
    """
    await anyio.lowlevel.checkpoint()
    if not slow and not is_slow(keywords) and _has_a_place(keywords):
        return make()
    made, cancelled = await _driver.undisturbed(_driver.in_thread(make))
    if cancelled is not None:
        await _driver.stop_after(cancelled, lambda: _driver.stop(made, _AT_ONCE))
        made.close_streams()
        raise cancelled
    return made


def _has_a_place(keywords: Mapping[str, Any]) -> bool:
    if keywords.get("_within") is not None:
        return True
    return choose.is_at_hand(
        keywords.get("backend"), sweep=keywords.get("sweep", False), guard=keywords.get("guard", True)
    )
