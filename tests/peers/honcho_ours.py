"""A pytest plugin for Honcho's own suite: its manager, its command line and its command are ours."""

from __future__ import annotations

import multiprocessing
import os
import re
import stat
import sys
import tempfile
from types import SimpleNamespace
from typing import Any

import honcho.command
import honcho.manager
import pytest

from allgone.cli import app, manager, procfile


class Parser:
    """`honcho start …` is `allgone up …`."""

    def parse_args(self, args: list[str]) -> SimpleNamespace:
        assert args[0] == "start", "options come behind the subcommand"
        return SimpleNamespace(**app.allgone.commands["up"].make_context("up", args[1:]).params)


def map_from(args: SimpleNamespace) -> dict[str, str]:
    env = honcho.command._read_env(args.app_root, args.env)
    return {
        "port": procfile.setting("PORT", args.port, env, procfile.PORT),
        "procfile": procfile.setting("PROCFILE", args.procfile, env, procfile.PROCFILE),
    }


class Harness:
    """For the suite's own, whose processes are fakes: here real ones do what a history tells of."""

    def __init__(self, history: dict[str, Any], manager: manager.Manager) -> None:
        self.history = history
        self.manager = manager
        self._status = multiprocessing.Value("i", -999)

    def run(self, wait: bool = True) -> None:
        self.manager.printer = TellsThePidsOf(self.history, self.manager.printer)
        with tempfile.TemporaryDirectory() as folder:
            for name, options in self.history["processes"].items():
                self.manager.add_process(name, self._script(name, folder), options.get("quiet", False))
            loop = multiprocessing.get_context("fork").Process(target=self._loop)
            loop.start()
            loop.join(60)
            assert loop.exitcode == 0

    def _loop(self) -> None:
        self.manager.loop()
        self._status.value = self.manager.returncode

    @property
    def manager_returncode(self) -> int:
        return self._status.value

    def find_events(self, **_: object) -> list[object]:
        return []

    def _script(self, name: str, folder: str) -> str:
        """In the order of the history: what comes behind the first end is what it does when it is stopped."""
        messages = self.history["messages"]
        first_end = next(index for index, (_, kind, _) in enumerate(messages) if kind == "stop")
        before = [data for who, kind, data in messages[:first_end] if who == name and kind == "line"]
        after = [data for who, kind, data in messages[first_end:] if who == name and kind == "line"]
        (status,) = (data["returncode"] for who, kind, data in messages if who == name and kind == "stop")
        end = f"exit {status}" if status >= 0 else f"trap - TERM; kill {status} $$"
        if messages[first_end][0] == name:
            others = [f"{folder}/{each}" for each in self.history["processes"] if each != name]
            return _says(before) + "".join(f"until [ -e {each} ]; do sleep 0.01; done; " for each in others) + end
        stopped = (_says(after) + end).replace("'", "'\\''")
        return f"{_says(before)} trap '{stopped}' TERM; touch {folder}/{name}; while :; do sleep 0.02; done"


def _says(lines: list[bytes]) -> str:
    return "".join(f"echo '{line.decode().rstrip()}'; " for line in lines)


class TellsThePidsOf:
    """Real processes have other pids than the history's."""

    def __init__(self, history: dict[str, Any], printer: Any) -> None:
        self._pids = {who: data["pid"] for who, kind, data in history["messages"] if kind == "start"}
        self._printer = printer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._printer, name)

    def write(self, message: Any) -> None:
        if isinstance(message.data, str):
            pid = lambda found: f"{found[1]} started (pid={self._pids[found[1]]})"  # noqa: E731
            message = message._replace(data=re.sub(r"^(\w+) started \(pid=\d+\)", pid, message.data))
        self._printer.write(message)


def pytest_configure(config: pytest.Config) -> None:
    honcho.manager.Manager = manager.Manager
    honcho.command.parser = Parser()
    honcho.command.map_from = map_from
    honcho.command._read_env = procfile.environment
    folder = tempfile.mkdtemp(prefix="allgone-honcho-")
    config.add_cleanup(lambda: _remove(folder))
    command = os.path.join(folder, "honcho")
    with open(command, "w", encoding="utf-8") as f:
        f.write(f'#!/bin/sh\n[ "$1" = start ] || exit 64\nshift\nexec {sys.executable} -m allgone up "$@"\n')
    os.chmod(command, os.stat(command).st_mode | stat.S_IXUSR)
    os.environ["PATH"] = f"{folder}:{os.environ['PATH']}"


def _remove(folder: str) -> None:
    import shutil

    shutil.rmtree(folder)


def pytest_collection_finish(session: pytest.Session) -> None:
    for item in session.items:
        if hasattr(item, "module") and hasattr(item.module, "Harness"):
            item.module.Harness = Harness
