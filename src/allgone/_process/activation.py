"""`sockets=`: what the command finds open as fd 3, 4, … (socket activation, sd_listen_fds(3))."""

from __future__ import annotations

import os
import stat
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple, Protocol

from allgone._linux import fds, launcher
from allgone._process.spawn_arguments import with_variables

_FIRST = 3  # SD_LISTEN_FDS_START
_LONGEST_NAME = 255  # sd_listen_fds(3)
_VARIABLES = ("LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "LISTEN_PIDFDID")


class HasFileno(Protocol):
    """A socket, by whatever library: what has its fd."""

    def fileno(self) -> int: ...


Given = Sequence[HasFileno] | Mapping[str, HasFileno] | None


class Sockets(NamedTuple):
    """Sockets of the caller's, in the order in which the command gets them."""

    fds: tuple[int, ...]
    inodes: frozenset[int]  # by which they are recognised when the caller has closed them
    names: tuple[str, ...] | None

    def variables(self) -> dict[str, str]:
        if not self.fds:
            return {}
        named = {} if self.names is None else {"LISTEN_FDNAMES": ":".join(self.names)}
        return {"LISTEN_FDS": str(len(self.fds)), "LISTEN_PID": launcher.OWN_PID, **named}


def checked(sockets: Given, pass_fds: Collection[int] = ()) -> Sockets | None:
    """What was given as ``sockets=``, to a command that is also given `pass_fds`. Raises TypeError and ValueError."""
    if sockets is None:
        return None
    names, given = None, sockets
    if isinstance(sockets, Mapping):
        names, given = tuple(map(_checked_name, sockets)), tuple(sockets.values())
    elif not isinstance(sockets, (list, tuple)):
        raise TypeError(f"sockets must be a list of sockets, or a dict of names and sockets, not {sockets!r}")
    numbers = tuple(map(_checked_fd, given))
    behind = _FIRST + len(numbers)
    if doubled := [fd for fd in pass_fds if _FIRST <= fd < behind]:
        raise ValueError(
            f"pass_fds: {doubled[0]} is one of the fds {_FIRST} to {behind - 1} that sockets= become in the command; "
            f"pass a copy that is higher (fcntl.fcntl(fd, fcntl.F_DUPFD, {behind}))"
        )
    _check_count(behind)
    return Sockets(numbers, frozenset(os.fstat(fd).st_ino for fd in numbers), names)


def _checked_name(name: object) -> str:
    if not isinstance(name, str):
        raise TypeError(f"sockets: a name must be a str, not {name!r}")
    if not 1 <= len(name) <= _LONGEST_NAME or not (name.isascii() and name.isprintable()) or ":" in name:
        raise ValueError(
            f"sockets: a name is 1 to {_LONGEST_NAME} printable ASCII characters without a colon, not {name!r}"
        )
    return name


def _checked_fd(socket: Any) -> int:
    if not callable(getattr(socket, "fileno", None)):
        raise TypeError(f"sockets: {socket!r} is not a socket")
    fd = int(socket.fileno())
    try:
        mode = os.fstat(fd).st_mode
    except OSError:
        raise ValueError(f"sockets: {socket!r} is closed") from None
    if not stat.S_ISSOCK(mode):
        raise ValueError(f"sockets: {socket!r} is not a socket")
    return fd


def _check_count(behind: int) -> None:
    import resource

    most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if most != resource.RLIM_INFINITY and behind > most:
        raise ValueError(f"sockets: {behind - _FIRST} are too many for RLIMIT_NOFILE, which is {most}")


@contextmanager
def handed(sockets: Sockets | None, options: dict[str, Any], *, own_pid: bool) -> Iterator[tuple[int, ...] | None]:
    """What `Containment.command` takes as `sockets`, while the command is being started; sets `options`' env.

    `own_pid`: there is another variable that the launcher is to set to the command's pid.
    """
    if sockets is None:
        yield () if own_pid else None
        return
    options["env"] = with_variables(options.get("env"), sockets.variables(), instead_of=_VARIABLES)
    with ExitStack() as stack:
        copies = []
        for fd in sockets.fds:
            copies.append(fds.copy(fd, _FIRST + len(sockets.fds)))
            stack.callback(os.close, copies[-1])
        yield tuple(copies)
