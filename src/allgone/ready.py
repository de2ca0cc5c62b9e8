"""Readiness: what `process_fixture(ready=…)` takes. A probe says whether the process can be used by now.

Any callable will do: with no parameters or one (the process), returning something true when it is ready. OSError
(a refused connection, say) counts as "not yet"; any other exception stops the process and is raised.
"""

from __future__ import annotations

import os
import re
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, Protocol, cast

if TYPE_CHECKING:
    from collections.abc import Mapping

    from allgone._core.sockets import Wanted
    from allgone._process.output import Output

_PROBE_TIMEOUT = 1.0  # seconds that one connection attempt may take


class Probe(Protocol):
    """Asked again and again until it says yes."""

    reads_output: bool
    is_told: bool  # an fd says when to ask again, so that there is no need to do so from time to time
    blocks: bool  # asking may take so long that an event loop should not wait for it

    def __call__(self, process: Any, output: Output) -> bool: ...


def tcp(port: int, host: str = "127.0.0.1") -> Probe:
    """Ready when a TCP connection to `host`:`port` is accepted.

    >>> tcp(8000)
    tcp(8000, '127.0.0.1')

    Raises ValueError for a port outside 1 to 65535.
    """
    if not isinstance(port, int) or isinstance(port, bool) or not 1 <= port <= 65535:
        raise ValueError(f"port must be 1 to 65535, not {port!r}")
    return _Tcp(port, host)


def http(url: str) -> Probe:
    """Ready when a GET of `url` (http or https) is answered with a status below 400, redirects followed.

    >>> http("http://127.0.0.1:8000/health")
    http('http://127.0.0.1:8000/health')

    Raises ValueError for another scheme.
    """
    if not isinstance(url, str) or not url.startswith(("http://", "https://")):
        raise ValueError(f"url must start with http:// or https://, not {url!r}")
    return _Http(url)


def listening(port: int | str | os.PathLike[str], host: str | None = None, proto: str = "tcp") -> Probe:
    """Ready when the process, or what it started, listens on `port`: a number, or the path of a unix socket.

    Nobody connects: the kernel is asked (sock_diag(7)) which sockets listen, and the answer counts only if the socket
    was made in the process's own cgroup or is held by one of its own processes. So a stale server at the same port is
    not mistaken for it: `PortTaken` names who holds the port, before anything is started.

    host
        The address that it must be reached by, as a number or a name: ``"127.0.0.1"`` is also reached through a
        socket at 0.0.0.0, and one at :: unless that takes IPv6 only. Default: any.
    proto
        ``"tcp"`` or ``"udp"``; for a path it is ``"unix"``, and ``"@name"`` is an abstract socket (unix(7)).

    >>> listening(8000)
    listening('tcp port 8000')

    Raises ValueError for a port outside 1 to 65535 or another protocol, `socket.gaierror` for an unknown host.
    """
    from allgone._process.listening import wanted

    return Listening(wanted(port, host, proto))


def log_line(regex: str) -> Probe:
    """Ready when a line of the output (stdout or stderr) contains a match of `regex`.

    The output is captured for that, unless ``output=`` names a file.

    >>> log_line("ready to accept connections")
    log_line('ready to accept connections')

    Raises `re.error` for a bad expression.
    """
    return _LogLine(re.compile(regex))


def notify(watchdog: float | None = None) -> Probe:
    """Ready when the process, or what it started, sends ``READY=1`` to the socket that NOTIFY_SOCKET in its environment
    names, as services of systemd's ``Type=notify`` do (sd_notify(3); as with ``NotifyAccess=all``, systemd.service(5)).

    What else it tells is in the fixture's `notified`; ``EXTEND_TIMEOUT_USEC=`` extends ``ready_timeout=``.

    watchdog
        Seconds: once it is ready it must send ``WATCHDOG=1`` at least as often (WATCHDOG_USEC and WATCHDOG_PID tell it
        so: sd_watchdog_enabled(3)). Else it is sent SIGABRT, after the policy's `timeout_stop` SIGKILL, and the block
        ends with `WatchdogTimeout`. None: no watchdog.

    >>> notify(watchdog=30)
    notify(watchdog=30)

    Raises ValueError and TypeError for a watchdog that is no number of seconds, 0.001 or more.
    """
    if watchdog is not None:
        if not isinstance(watchdog, (int, float)) or isinstance(watchdog, bool):
            raise TypeError(f"watchdog must be a number of seconds, not {watchdog!r}")
        if not 0.001 <= watchdog < 1e9:
            raise ValueError(f"watchdog must be 0.001 or more seconds, not {watchdog!r}")
    return Notify(watchdog)


def path_exists(path: str | os.PathLike[str]) -> Probe:
    """Ready when `path` exists: a unix socket, a pid file.

    >>> path_exists("/run/app.sock")
    path_exists('/run/app.sock')
    """
    return _PathExists(os.fspath(path))


def _in_network_of(process: Any) -> AbstractContextManager[None]:
    """Where the process has one of its own, connect there."""
    netns = getattr(process, "netns", None)
    return nullcontext() if netns is None else cast("AbstractContextManager[None]", netns.entered())


class _Asked:
    """What is asked from time to time."""

    reads_output = False
    is_told = False
    blocks = True


class _Tcp(_Asked):
    def __init__(self, port: int, host: str) -> None:
        self._address = (host, port)

    def __call__(self, process: Any, output: Output) -> bool:
        import socket

        with _in_network_of(process), socket.create_connection(self._address, timeout=_PROBE_TIMEOUT):
            return True

    def __repr__(self) -> str:
        return f"tcp({self._address[1]}, {self._address[0]!r})"


class _Http(_Asked):
    def __init__(self, url: str) -> None:
        self._url = url

    def __call__(self, process: Any, output: Output) -> bool:
        from http.client import HTTPException
        from urllib.error import HTTPError
        from urllib.request import ProxyHandler, build_opener

        try:
            # A proxy set in the environment is for the world outside, not for the server under test.
            with (
                _in_network_of(process),
                build_opener(ProxyHandler({})).open(self._url, timeout=_PROBE_TIMEOUT) as answer,
            ):
                return bool(answer.status < 400)
        except HTTPError as e:
            e.close()  # it is the answer, too
            raise
        except HTTPException as e:
            raise ConnectionError(f"{self._url}: {e!r}") from e

    def __repr__(self) -> str:
        return f"http({self._url!r})"


class Listening(_Asked):
    def __init__(self, wanted: Wanted) -> None:
        self._wanted = wanted

    def before_start(self, keywords: Mapping[str, Any]) -> None:
        if keywords.get("network") is not None:
            return  # all its ports are free
        from allgone._process import activation, listening

        stdin = keywords.get("stdin")
        passed = [*keywords.get("pass_fds", ()), *([stdin] if isinstance(stdin, int) and stdin >= 0 else [])]
        if (sockets := activation.checked(keywords.get("sockets"))) is not None:
            passed += sockets.fds
        listening.check_free(self._wanted, passed)

    def __call__(self, process: Any, output: Output) -> bool:
        return bool(process.is_listening(self._wanted))

    def __repr__(self) -> str:
        return f"listening({str(self._wanted)!r})"


class _LogLine(_Asked):
    reads_output = True
    blocks = False

    def __init__(self, regex: re.Pattern[str], position: int = 0) -> None:
        self._regex = regex
        self._position = position
        self._unfinished = b""

    def from_there(self, position: int) -> _LogLine:
        return _LogLine(self._regex, position)

    def __call__(self, process: Any, output: Output) -> bool:
        while True:
            data, self._position = output.since(self._position)
            if not data:
                return False
            *lines, self._unfinished = (self._unfinished + data).split(b"\n")
            if any(self._regex.search(line.decode("utf-8", "replace")) for line in (*lines, self._unfinished)):
                return True

    def __repr__(self) -> str:
        return f"log_line({self._regex.pattern!r})"


class Notify:
    reads_output = False
    is_told = True
    blocks = False

    def __init__(self, watchdog: float | None) -> None:
        self.watchdog = watchdog

    def __call__(self, process: Any, output: Output) -> bool:
        return bool(process.notified.ready)

    def __repr__(self) -> str:
        return "notify()" if self.watchdog is None else f"notify(watchdog={self.watchdog!r})"


class _PathExists(_Asked):
    blocks = False

    def __init__(self, path: str) -> None:
        self._path = path

    def __call__(self, process: Any, output: Output) -> bool:
        return os.path.exists(self._path)

    def __repr__(self) -> str:
        return f"path_exists({self._path!r})"


class Function(_Asked):
    def __init__(self, function: Any) -> None:
        import inspect

        self._function = function
        called = function if inspect.isroutine(function) else type(function).__call__
        self.is_async = inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(called)
        try:
            inspect.signature(function).bind()
        except TypeError:
            self._takes_process = True
        except ValueError:  # a builtin that does not tell
            self._takes_process = False
        else:
            self._takes_process = False

    def __call__(self, process: Any, output: Output) -> bool:
        return bool(self.called(process))

    def called(self, process: Any) -> Any:
        """What it returns: of one that `is_async`, what is to be awaited."""
        return self._function(process) if self._takes_process else self._function()

    def __repr__(self) -> str:
        return repr(self._function)


def probe(ready: object, position: int = 0, *, may_be_async: bool = False) -> Probe | None:
    """The probe for one start of a fixture, by its ``ready=``; its output is looked at from `position` on.

    Raises TypeError for what can't be called.
    """
    if isinstance(ready, _LogLine):
        return ready.from_there(position)  # the same one may be given to many fixtures
    if ready is None or isinstance(ready, (_Tcp, _Http, Listening, Notify, _PathExists)):
        return ready
    if not callable(ready):
        raise TypeError(f"ready must be a probe or a callable, not {type(ready).__name__}")
    function = Function(ready)
    if function.is_async and not may_be_async:
        raise TypeError(f"ready={ready!r} is a coroutine function; allgone.aio.process_fixture takes such")
    return function
