"""The controlling terminal: whose it is, who is in its foreground (tty(4), termios(3), credentials(7))."""

from __future__ import annotations

import os
import signal
import termios
from types import TracebackType

from allgone._linux.fds import above_stdio

SI_KERNEL = 0x80  # sigaction(2); terminals' signals carry it, kill(2)'s carry SI_USER


def _opened() -> int | None:
    try:
        return above_stdio(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC))
    except OSError:
        return None  # ENXIO: none. Whatever else keeps us from it (no /dev/tty, EIO after a hang-up): none for us


def _exists(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # somebody is there
    return True


class Terminal:
    """The controlling terminal of this process, as it was found. A context manager."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._had_foreground = self.in_foreground()
        self._modes = termios.tcgetattr(fd)

    @classmethod
    def found(cls) -> Terminal | None:
        """None where this process has no controlling terminal."""
        fd = _opened()
        if fd is None:
            return None
        try:
            return cls(fd)
        except (OSError, termios.error):
            os.close(fd)  # hung up between the two
            return None

    def is_gone(self) -> bool:
        """Whether it was hung up: the kernel then takes it away from every process of the session."""
        fd = _opened()
        if fd is not None:
            os.close(fd)
        return fd is None

    def in_foreground(self) -> bool:
        """Whether our process group is the one that the terminal's signals and input go to."""
        return self._foreground() == os.getpgrp()

    def _foreground(self) -> int | None:
        try:
            return os.tcgetpgrp(self._fd)
        except OSError:
            return None  # ENOTTY, EIO: hung up

    def hand_to(self, group: int) -> None:
        """Put a process group of our session in the foreground."""
        # Blocked SIGTTOU: a process in the background would be stopped for this otherwise (tcsetpgrp(3)).
        before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTTOU])
        try:
            os.tcsetpgrp(self._fd, group)
        except OSError:
            pass  # hung up, or the group is of another session by now: it can't have the terminal then
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def put_back(self) -> None:
        """Foreground and modes as they were found: for when those who changed them were killed."""
        if not self._had_foreground:
            return  # then the modes found were somebody else's, a shell's at its prompt perhaps
        group = self._foreground()
        if group is not None and group != os.getpgrp() and not _exists(group):
            self.hand_to(os.getpgrp())
        if not self.in_foreground():
            return  # we are in the background by now, and the modes are those of who is not
        try:
            termios.tcsetattr(self._fd, termios.TCSADRAIN, self._modes)
        except termios.error:
            pass  # hung up meanwhile

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, kind: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None) -> None:
        self.close()
