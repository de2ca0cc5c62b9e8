"""What the fixtures give: a callable that starts processes, which live as long as its scope."""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import pytest

from allgone._process import ports, start_all
from allgone._process.fixture import FixtureProcess, ProcessFixture, process_fixture
from allgone._process.output import capture
from allgone._process.reporting import stop_after
from allgone.errors import AllgoneError, ExitedBeforeReady
from allgone.pytest_plugin.failures import Failures, Record

Reuse = bool | Literal["module", "package", "session"]
Entered = TypeVar("Entered")
_SCOPES = ("module", "package", "session")


@dataclass
class _Kept:
    """One that is used again."""

    fixture: ProcessFixture
    process: FixtureProcess
    used_by: str


class ProcessFactory:
    """Call it as `allgone.process_fixture`: the process is started, ready when this returns, and stopped with all that
    it started at the end of the fixture's scope."""

    def __init__(self, request: pytest.FixtureRequest) -> None:
        self._request = request
        self._failures = Failures.of(request.config)
        self._open: list[tuple[AbstractContextManager[object], list[Record]]] = []
        self._kept: dict[tuple[object, ...], _Kept] = {}

    def __call__(self, args: Any, *, reuse: Reuse = False, **options: Any) -> FixtureProcess:
        """Start a process, and wait until it is ready.

        reuse
            Whether one that was started before, by the same arguments, will do, and is kept for others: until the end
            of the ``"module"``, the ``"package"`` or the ``"session"`` (True).
        options
            As for `allgone.process_fixture`; ``output=`` is ``allgone.capture()`` unless something else is said.

        Raises what `allgone.process_fixture` raises, ValueError for another ``reuse=``. One that is used again and has
        died, or is not ready any more, fails the test that asks; whoever asks next gets a new one.
        """
        options.setdefault("output", capture())
        if reuse is False:
            fixture = process_fixture(args, **options)
            return self._entered(fixture, lambda process: [process])
        scope = "session" if reuse is True else reuse
        if scope not in _SCOPES:
            raise ValueError(f"reuse must be True, False or one of {', '.join(_SCOPES)}, not {reuse!r}")
        keeper: ProcessFactory = self._request.getfixturevalue(f"{scope}_process_fixture")
        return keeper._again(args, options, self._request.node.nodeid)

    def start_all(self, *fixtures: ProcessFixture) -> tuple[FixtureProcess, ...]:
        """Start several at the same time: `allgone.start_all`, until the end of the scope."""
        return self._entered(start_all.start_all(*fixtures), list)

    def free_port(self) -> int:
        """A TCP port that nobody else is given until the end of the scope: `allgone.reserved_port`."""
        return self._entered(ports.reserved_port(), lambda port: [])

    def _entered(
        self, fixture: AbstractContextManager[Entered], processes: Callable[[Entered], list[FixtureProcess]]
    ) -> Entered:
        entered = fixture.__enter__()
        records: list[Record] = []
        self._open.append((fixture, records))
        records += [self._failures.add(process, self._request) for process in processes(entered)]
        return entered

    # One that is used again

    def _again(self, args: Any, options: dict[str, Any], who: str) -> FixtureProcess:
        key = _key(args, options)
        kept = self._kept.get(key)
        if kept is None:
            fixture = process_fixture(args, **options)
            process = self._entered(fixture, lambda process: [process])
            kept = self._kept[key] = _Kept(fixture, process, who)
        else:
            self._check(key, kept)
        kept.used_by = who
        return kept.process

    def _check(self, key: tuple[object, ...], kept: _Kept) -> None:
        why, error = self._unusable_because(kept)
        if not why:
            return
        del self._kept[key]  # once is enough to tell of it
        message = f"{kept.process.args!r}, which was to be used again, {why}. It was last used by {kept.used_by}."
        tail = kept.process._output.tail()
        failure = pytest.fail.Exception(message + (f"\nlast output:\n{tail}" if tail else ""), pytrace=False)
        stop_after(failure, functools.partial(self._leave, kept.fixture))
        raise failure from error

    @staticmethod
    def _unusable_because(kept: _Kept) -> tuple[str, Exception | None]:
        process = kept.process
        if process.report is not None:
            return "has been stopped", None
        try:
            kept.fixture.check()
        except ExitedBeforeReady:
            return f"has ended with return code {process.returncode}", None
        except (AllgoneError, OSError) as e:
            return "is not ready any more", e
        if process.poll() not in (None, 0) or not process.members():
            return f"has ended with return code {process.returncode}", None
        return "", None

    def _leave(self, fixture: ProcessFixture) -> None:
        index = next(n for n, (each, _) in enumerate(self._open) if each is fixture)
        _, records = self._open.pop(index)
        _exit(fixture, records)

    # The end

    def close(self) -> None:
        """Stop all, the last one first, whatever happens. Raises the first error, with notes of the others."""
        first: BaseException | None = None
        while self._open:
            fixture, records = self._open.pop()
            try:
                _exit(fixture, records)
            except BaseException as error:  # noqa: BLE001  # the others are to be stopped all the same
                if first is None:
                    first = error
                elif isinstance(error, Exception):
                    stop_after(first, functools.partial(_raise, error))
                else:
                    first = error  # Ctrl-C
        if first is not None:
            raise first


def _exit(fixture: AbstractContextManager[object], records: list[Record]) -> None:
    for record in records:
        record.ends()
    try:
        fixture.__exit__(None, None, None)
    finally:
        for record in records:
            record.ended()


def _raise(error: Exception) -> None:
    raise error


def _key(args: Any, options: dict[str, Any]) -> tuple[object, ...]:
    """What is the same for two calls that ask for the same."""
    return (repr(args), *sorted((name, _same(value)) for name, value in options.items()))


def _same(value: object) -> str:
    """A function that is made anew with each call is the same by its name."""
    name = getattr(value, "__qualname__", None)
    return repr(value) if name is None else f"{getattr(value, '__module__', '')}.{name}"
