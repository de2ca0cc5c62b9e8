"""The event loops that allgone.aio is tested on."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import anyio
import pytest
from support.backends import BACKENDS, BackendUnderTest
from support.programs import PATIENCE
from support.tiers import missing

T = TypeVar("T")


@dataclass(frozen=True)
class Loop:
    """Runs coroutine functions, each in an event loop of its own."""

    label: str
    options: dict[str, Any]

    def run(self, function: Callable[..., Awaitable[T]], *args: Any, within: float = PATIENCE) -> T:
        async def bounded() -> T:
            with anyio.fail_after(within):
                return await function(*args)

        return anyio.run(bounded, **self.options)


LOOPS = (
    Loop("asyncio", {"backend": "asyncio"}),
    Loop("uvloop", {"backend": "asyncio", "backend_options": {"use_uvloop": True}}),
    Loop("trio", {"backend": "trio"}),
)


@pytest.fixture(scope="session", autouse=True)
def _loops_have_run() -> None:
    """libuv keeps a pipe from its first loop on, for the whole process."""
    for each in LOOPS:
        try:
            each.run(anyio.sleep, 0)
        except ImportError:
            continue  # the tests on it say so


@pytest.fixture(params=[each for each in BACKENDS if not each.sweep], ids=lambda each: each.label)
def backend(request: pytest.FixtureRequest) -> BackendUnderTest:
    """Each in turn; what sweeps does so in the blocking core."""
    if request.param.name == "cgroup":
        request.getfixturevalue("cgroup_base")
    return request.param


@pytest.fixture(params=LOOPS, ids=lambda each: each.label)
def loop(request: pytest.FixtureRequest) -> Loop:
    """Each in turn."""
    chosen: Loop = request.param
    if chosen.label == "uvloop":
        try:
            import uvloop  # noqa: F401
        except ImportError:
            missing("uvloop is not installed")
    return chosen
