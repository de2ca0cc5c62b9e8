"""A `Popen` whose child is a fork of this process, which runs a function and not a command."""

from __future__ import annotations

import os
import select
import struct
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from allgone._core.command import Command
from allgone._linux import fds, launcher
from allgone._process import failures
from allgone._process.popen import Popen

_ERRNO = struct.Struct("=i")  # what the child tells: 0 when it is inside


class Forked(Popen):
    """`run` is called in the child, once that is in its containment; what it returns is the exit status.

    >>> Forked(lambda: 3).wait()
    3

    Raises what `Popen` raises; `Unsupported` where the child can't enter by itself.
    """

    def __init__(self, run: Callable[[], int], **options: Any) -> None:
        super().__init__([sys.executable], preexec_fn=run, **options)  # as with one, it must be able to enter by itself

    def _spawn(self, argv: Sequence[object], executable: object, options: dict[str, Any]) -> None:
        self.returncode = None
        self.stdin = self.stdout = self.stderr = None
        self._waitpid_lock = threading.Lock()  # subprocess.Popen's, as all of these
        reader, writer = fds.pipe()
        try:
            try:
                with self._containment.command(argv, executable, writer, same_process=True) as command:
                    self.pid = os.fork()
                    if self.pid == 0:
                        _enter_and_run(command, reader, writer, options["preexec_fn"])
                    self._child_created = True
                    self._adopt()
            finally:
                os.close(writer)
            error = self._told(reader)
        except BaseException:
            self._let_it_enter(reader)
            raise
        finally:
            os.close(reader)
        if error:
            raise failures.of_launch(launcher.Failure(launcher.ENTER, error), executable, self._containment.where())

    def _told(self, reader: int) -> int:
        """The errno with which the child could not enter. 0 also if it was killed before it could say so."""
        assert self._child is not None
        poller = select.poll()
        for fd in (reader, self._child.fileno()):  # forks by other threads can hold the other end of the pipe
            poller.register(fd, select.POLLIN)
        told = os.read(reader, _ERRNO.size) if reader in dict(poller.poll()) else b""
        return int(_ERRNO.unpack(told)[0]) if told else 0


def _enter_and_run(command: Command, reader: int, writer: int, run: Callable[[], int]) -> NoReturn:
    status = 1
    try:
        error = 0
        try:
            if command.start_new_session:
                os.setsid()
            command.enter()
        except OSError as e:
            error = e.errno or 1
        os.write(writer, _ERRNO.pack(error))
        for fd in {reader, *command.pass_fds}:  # the writer is among them
            os.close(fd)
        if not error:
            status = run()
    finally:
        os._exit(status)
