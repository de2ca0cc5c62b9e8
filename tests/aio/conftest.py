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


WITH_UVLOOP = ("test_streams", "test_many", "test_groups")


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


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """uvloop differs in how it waits for fds: where that is not what a test is about, it takes --run-slow."""
    if "loop" in metafunc.fixturenames:
        every = metafunc.config.getoption("--run-slow") or metafunc.module.__name__.endswith(WITH_UVLOOP)
        loops = [each for each in LOOPS if every or each.label != "uvloop"]
        metafunc.parametrize("loop", loops, indirect=True, ids=lambda each: each.label)


@pytest.fixture
def loop(request: pytest.FixtureRequest) -> Loop:
    """Each in turn."""
    chosen: Loop = request.param
    if chosen.label == "uvloop":
        try:
            import uvloop  # noqa: F401
        except ImportError:
            missing("uvloop is not installed")
    return chosen
