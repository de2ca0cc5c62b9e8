"""``--allgone-leaks``: who leaves processes behind, and what was left."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import ExitStack
from functools import partial
from typing import Any

import pytest

from allgone._process import descendants
from allgone._process.descendants import Found, Who
from allgone.pytest_plugin import LEAKS, LeftProcessWarning

_SETTLE = 1.0  # seconds for those that have been told to end, and do
_KILL = 10.0  # seconds that SIGKILL may take


class Owner:
    """A fixture with a scope wider than a test: what is started while it is set up is its own until its end."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.is_over = False


class Leaks:
    """Looks before and after each test at what is below this process. With pytest-xdist: in each worker."""

    def __init__(self, mode: str) -> None:
        self._mode = mode
        self._mode_now = mode  # for the present test
        self._held = ExitStack()
        self._is_held = False
        self._before: Found = {}
        self._named: set[Who] = set()  # once is enough
        self._owned: dict[Who, Owner] = {}
        self._owners: dict[object, Owner] = {}

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> Generator[None, object, object]:
        mode = _mode_of(item, self._mode)
        self._mode_now = mode if mode in LEAKS else "off"
        if not self._is_held:
            self._is_held = True
            self._held.enter_context(descendants.held())
        self._before = found = descendants.look()
        self._named &= found.keys()
        self._owned = {who: owner for who in found if (owner := self._owner(who, found)) is not None}
        result = yield
        if mode not in LEAKS:
            raise pytest.UsageError(f"{item.nodeid}: the marker allgone_leaks takes one of {', '.join(LEAKS)}")
        return result

    def _owner(self, who: Who, found: Found) -> Owner | None:
        """A fixture's process has children that are the fixture's, too."""
        owners = (self._owned.get(each) for each in (who, *descendants.above(who, found)))
        return next(filter(None, owners), None)

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: Any) -> Generator[None, object, object]:
        if fixturedef.scope == "function":
            return (yield)
        owner = self._owners[fixturedef] = Owner(f"fixture {fixturedef.argname!r} (scope {fixturedef.scope})")
        before = descendants.look()
        try:
            return (yield)
        finally:
            found = descendants.look()
            for who in found.keys() - before.keys():
                if before.keys().isdisjoint(descendants.above(who, found)):  # else it is a matter of those
                    self._owned.setdefault(who, owner)

    def pytest_fixture_post_finalizer(self, fixturedef: Any) -> None:
        owner = self._owners.pop(fixturedef, None)
        if owner is not None:
            owner.is_over = True

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_teardown(self, item: pytest.Item) -> Generator[None, object, object]:
        try:
            result = yield
        except Exception:
            self._tell(item, only_warn=True)  # the error that came first is the one to be raised
            raise
        self._tell(item)
        return result

    def _tell(self, item: pytest.Item, *, only_warn: bool = False) -> None:
        if self._mode_now == "off":
            return
        unwanted = partial(self._unwanted, item)
        if not (left := unwanted()):
            return
        descendants.are_gone(left, _SETTLE)
        if not (left := unwanted()):
            return
        text = self._in_words(item, left)
        if self._mode_now == "fail" and (survivors := descendants.end(unwanted, _KILL)):
            text += f"\nand could not be ended: {', '.join(str(who.pid) for who in survivors)}"
        self._named |= unwanted()
        if self._mode_now == "fail" and not only_warn:
            pytest.fail(text, pytrace=False)
        item.warn(LeftProcessWarning(text))

    def _unwanted(self, item: pytest.Item) -> set[Who]:
        """What is new since the test began, and belongs to no fixture that goes on."""
        found = descendants.look()
        kept = {who for who in found if self._may_live(who)}
        left = {who for who in found if who not in kept and kept.isdisjoint(descendants.above(who, found))}
        if left:
            others = descendants.helpers() | _of_fixtures_that_go_on(item.config)
            left = {who for who in left if who.pid not in others}
        return left

    def _may_live(self, who: Who) -> bool:
        owner = self._owned.get(who)
        return who in self._named or (who in self._before if owner is None else not owner.is_over)

    def _in_words(self, item: pytest.Item, left: set[Who]) -> str:
        by_owner: dict[str, list[Who]] = {}
        for who in left:
            owner = self._owned.get(who)
            by_owner.setdefault(item.nodeid if owner is None else owner.name, []).append(who)
        lines = []
        for name, whom in sorted(by_owner.items()):
            lines.append(f"{name} has left {'1 process' if len(whom) == 1 else f'{len(whom)} processes'} behind:")
            lines += [f"  {each}" for each in descendants.in_words(whom)]
        return "\n".join(lines)

    def pytest_unconfigure(self) -> None:
        self._held.close()


def _mode_of(item: pytest.Item, default: str) -> str:
    marker = item.get_closest_marker("allgone_leaks")
    if marker is None:
        return default
    return str(marker.args[0]) if len(marker.args) == 1 and not marker.kwargs else ""


def _of_fixtures_that_go_on(config: pytest.Config) -> frozenset[int]:
    """What has been started by fixtures of a wider scope in the middle of a test, and by what they started."""
    failures = config.pluginmanager.get_plugin("allgone-failures")
    return frozenset() if failures is None else failures.members_of_wide_scopes()
