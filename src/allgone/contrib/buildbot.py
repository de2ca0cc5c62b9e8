"""Buildbot: steps whose command runs under ``allgone run``, for master.cfg; the worker needs the command alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from buildbot import config
from buildbot.process.buildstep import ShellMixin
from buildbot.steps import shell


class Contained(ShellMixin):  # type: ignore[misc]  # it has no types here
    """A mix-in for steps that run commands on the worker; it comes first among the bases.

    What a command has started is gone when it has ended, by itself, by a time-out or because somebody has stopped the
    build; and the step's log names what had to be stopped.

    run_options
        Options of ``allgone run``: ``["--timeout", "10m", "--memory-max", "2G"]``. Of the class or of a step, and
        rendered, as `command` is.
    allgone
        What the worker finds the command ``allgone`` by: a name in its PATH, or a path.
    sigtermTime
        Buildbot's: seconds from SIGTERM to SIGKILL when a step is to be ended (30 if not given). A bit more than twice
        ``--timeout-stop`` leaves ``allgone run`` the time for a whole stop. With None it is killed at once, and its
        guard ends the rest, of which no log tells.
    """

    allgone: ClassVar[str] = "allgone"
    command: Any
    run_options: Sequence[Any] = ()
    sigtermTime: float | None = 30
    renderables: ClassVar[Sequence[str]] = ["run_options"]

    def __init__(self, run_options: Any = None, **arguments: Any) -> None:
        if isinstance(run_options, str):
            config.error(f"run_options must be a list, not {run_options!r}")
        if run_options is not None:
            self.run_options = run_options
        super().__init__(**arguments)

    def makeRemoteShellCommand(self, **given: Any) -> Any:
        command = given.pop("command", self.command)
        words = command if isinstance(command, list | tuple) else ["/bin/sh", "-c", command]
        prefixed = [self.allgone, "run", *self.run_options, "--", *words]
        made = super().makeRemoteShellCommand(command=prefixed, **given)
        return made.addCallback(self._shown_as, command)

    def _shown_as(self, made: Any, command: Any) -> Any:
        self.command = command  # what Buildbot calls the step by
        return made


class ShellCommand(Contained, shell.ShellCommand):  # type: ignore[misc]
    """`steps.ShellCommand`, contained."""
