"""pexpect.spawn on a terminal of its own, contained: `close()` ends all that was started there."""

from __future__ import annotations

import fcntl
import os
import struct
import termios
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pexpect
import ptyprocess

from allgone._backends.choose import BackendName
from allgone._core.containment import Backend
from allgone._core.policy import StopPolicy
from allgone._core.report import Report
from allgone._process.popen import Popen


class spawn(pexpect.spawn):  # type: ignore[misc]  # it has no types; its name is pexpect's
    """`pexpect.spawn`, with five arguments more: `backend`, `name`, `policy`, `sweep` and `guard` are those of `Popen`.

    When `close()` has ended the process as pexpect does, what is left in the containment is stopped by the policy; so
    at the end of a ``with`` block. `report` is the `Report` of that, `process` the `Popen`.

    >>> with spawn("sh -c 'setsid sleep 1000 & echo started; read line'") as child:
    ...     child.expect("started")
    0
    >>> child.process.members()
    frozenset()

    Raises what pexpect raises, and what `Popen` raises: `Unsupported` where only systemd may move processes to their
    cgroup (an ordinary user's login session), for it is this process that makes the terminal theirs.
    """

    process: Popen | None = None
    report: Report | None = None

    def __init__(
        self,
        *args: Any,
        backend: BackendName | Backend | None = None,
        name: str | None = None,
        policy: StopPolicy | None = None,
        sweep: bool = False,
        guard: bool = True,
        **keywords: Any,
    ) -> None:
        self._contained = {"backend": backend, "name": name, "policy": policy, "sweep": sweep, "guard": guard}
        super().__init__(*args, **keywords)

    def _spawnpty(self, args: Sequence[Any], **keywords: Any) -> Any:
        self.ptyproc = _spawned(args, self._contained, **keywords)
        self.process = self.ptyproc.process
        return self.ptyproc

    def kill(self, sig: int) -> None:
        """To the process itself, as pexpect does; `process.signal_all()` reaches all."""
        if self.process is not None and self.isalive():
            self.process.send_signal(sig)

    def close(self, force: bool = True) -> None:
        super().close(force)
        if self.process is not None and self.process.returncode is not None:
            self.report = self.process.stop()


class _PtyProcess(ptyprocess.PtyProcess):  # type: ignore[misc]  # it has no types
    """One that was started by, and is waited for by, a `Popen`."""

    def __init__(self, process: Popen, fd: int) -> None:
        super().__init__(process.pid, fd)
        self.process = process

    def isalive(self) -> bool:
        if self.terminated:
            return False
        # At the end of file it is about to end; ptyprocess waits for that, too.
        code = self.process.wait() if self.flag_eof else self.process.poll()
        if code is not None:
            self._note(code)
        return code is None

    def wait(self) -> int | None:
        if not self.terminated:
            self._note(self.process.wait())
        return self.exitstatus

    def kill(self, sig: int) -> None:
        if self.isalive():
            self.process.send_signal(sig)

    def _note(self, code: int) -> None:
        self.terminated = True
        self.exitstatus: int | None = code if code >= 0 else None
        self.signalstatus: int | None = -code if code < 0 else None
        self.status = code << 8 if code >= 0 else -code  # as waitpid(2) has it


def _spawned(
    args: Sequence[Any],
    contained: Mapping[str, Any],
    *,
    cwd: str | None = None,
    env: Mapping[str, str] | None = None,
    echo: bool = True,
    preexec_fn: Callable[[], None] | None = None,
    dimensions: tuple[int, int] = (24, 80),
) -> _PtyProcess:
    """As ptyprocess.PtyProcess.spawn()."""

    def take_the_terminal() -> None:
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)  # the session is new: start_new_session
        if preexec_fn is not None:
            preexec_fn()

    master, slave = os.openpty()
    try:
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", *dimensions, 0, 0))
        if not echo:
            modes = termios.tcgetattr(slave)
            modes[3] &= ~termios.ECHO
            termios.tcsetattr(slave, termios.TCSANOW, modes)
        process = Popen(
            list(args), stdin=slave, stdout=slave, stderr=slave, cwd=cwd, env=env, start_new_session=True,
            preexec_fn=take_the_terminal, **contained,
        )  # fmt: skip
    except BaseException:
        os.close(master)
        raise
    finally:
        os.close(slave)
    made = _PtyProcess(process, master)
    made.argv, made.env = list(args), env
    made.echo = echo
    return made
