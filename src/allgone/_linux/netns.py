"""Network namespaces (network_namespaces(7)): made, entered and left by unshare(2) and setns(2)."""

from __future__ import annotations

import errno
import fcntl
import io
import os
import socket
import struct
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cache, partial
from typing import Any, TypeVar

from allgone.errors import AllgoneError, Unsupported

_Result = TypeVar("_Result")
_Socket = socket.socket  # by a name that is not also a method's

_CLONE_NEWNET = 0x40000000
_OWN = "/proc/thread-self/ns/net"  # /proc/self is the main thread's
_SIOCSIFFLAGS, _IFREQ = 0x8914, struct.Struct("16sh22x")  # netdevice(7)
_IFF_UP = 1

_WHY_NOT = {
    errno.EPERM: "it takes CAP_SYS_ADMIN and CAP_NET_ADMIN, also over the network that the supervisor is in: run that "
    "as root, or, as any user, all of it by unshare --user --map-root-user --net",
    errno.ENOSPC: "there are as many as user.max_net_namespaces allows (namespaces(7)): raise it by sysctl(8)",
    errno.ENOENT: "this kernel has no network namespaces (CONFIG_NET_NS), or /proc is not mounted",
    errno.EINVAL: "this kernel has no network namespaces (CONFIG_NET_NS)",
    errno.ENOSYS: "this kernel, or the sandbox that we are in, has no network namespaces",
}


class NetworkNamespace:
    """A network that a process has for itself: ``Popen(…, network=…).netns``.

    It exists as long as a process or a socket is in it, or this object holds it, which ends with the stop. What
    enters it needs the rights that making it took.
    """

    def __init__(self, path: str = _OWN) -> None:
        """The one that the calling thread is in; or that of a ``/proc/PID/ns/net``."""
        self._file = io.FileIO(path)  # and no bare fd, which would be lost with a Ctrl-C just here
        self._link: int | None = None  # index, inside, of its end of the veth pair
        self._addresses: tuple[str, str] | None = None
        _held.add(self)

    @property
    def address(self) -> str | None:
        """The IPv4 address at which the supervisor reaches it (``network="veth"``); None where there is none."""
        return self._addresses[1] if self._addresses else None

    @property
    def peer_address(self) -> str | None:
        """The IPv4 address at which what is in it reaches the supervisor (``network="veth"``); None without."""
        return self._addresses[0] if self._addresses else None

    def fileno(self) -> int:
        """The fd that holds it, as setns(2) takes it; ours to close. Raises ValueError once it is closed."""
        if self._file.closed:
            raise ValueError("the network namespace is not held here: its process was stopped, or this is a fork")
        return self._file.fileno()

    def entered(self) -> AbstractContextManager[None]:
        """The calling thread is in the namespace until the block is left; all other threads stay where they are.

        What is started in the block, threads too, is born in the namespace, and stays there. (``/proc/self/net`` shows
        what the main thread is in.) Don't ``await`` in the block: others run in this thread then.

        Raises ValueError once the process was stopped, OSError where the thread may not enter, and `AllgoneError`
        where it has lost the right to go back by the end of the block: it stays in the namespace then.
        """
        return _inside(self._enter)

    def call(self, function: Callable[[], _Result]) -> _Result:
        """What `function` returns, called in the namespace.

        Shorter than `entered()`, and no Ctrl-C can come between the call and the way back.
        """
        return _call(self._enter, function)

    def _enter(self) -> None:
        _setns()(self.fileno(), _CLONE_NEWNET)

    def socket(self, family: int = socket.AF_INET, type: int = socket.SOCK_STREAM, proto: int = 0) -> _Socket:
        """A socket made in the namespace, as by `socket.socket()`. It stays there, and holds the namespace while open.

        Raises what `entered()` and `socket.socket()` raise.
        """
        return self.call(lambda: socket.socket(family, type, proto))

    def connect(self, port: int, host: str = "127.0.0.1", timeout: float | None = None) -> _Socket:
        """A TCP connection inside the namespace, as by `socket.create_connection()`, to what listens there.

        `timeout`: seconds for connecting, and for what is done with the socket then.

        Raises what `entered()` and `socket.create_connection()` raise.
        """
        return self.call(lambda: socket.create_connection((host, port), timeout))

    def close(self) -> None:
        """Let go of it, and have a veth pair removed at once. Idempotent."""
        if self._file.closed:
            return
        try:
            if self._link is not None:
                self._remove_link(self._link)
        finally:
            self._file.close()

    def __del__(self) -> None:
        self.close()  # only where a Ctrl-C came before anybody else got to know of it

    def _remove_link(self, index: int) -> None:
        from allgone._linux import veth

        try:
            with self.socket(socket.AF_NETLINK, socket.SOCK_RAW) as there:
                veth.remove(there, index)
        except PermissionError:
            pass  # we have given up our rights since: it goes with the namespace, a moment later

    def _pair_up(self) -> None:
        from allgone._linux import veth

        with (
            socket.socket(socket.AF_NETLINK, socket.SOCK_RAW) as here,
            self.socket(socket.AF_NETLINK, socket.SOCK_RAW) as there,
        ):
            pair = veth.make(here, there, self.fileno())
            self._link = pair.inside
            self._addresses = veth.connect(here, there, pair)


_held: weakref.WeakSet[NetworkNamespace] = weakref.WeakSet()
_thread = threading.local()  # home: fd of the namespace that it is not in, for it has entered another


def made(*, veth: bool) -> NetworkNamespace:
    """A new one with loopback up; `veth`: with a pair to the one that the calling thread is in.

    Raises `Unsupported` where the rights or the kernel for it are missing, and OSError.
    """
    try:
        namespace = _new()
    except OSError as e:
        if e.errno not in _WHY_NOT:
            raise
        raise Unsupported(f"no network namespace can be made: {_WHY_NOT[e.errno]} ({e.strerror})") from e
    if veth:
        try:
            namespace._pair_up()
        except BaseException:  # Ctrl-C as well
            namespace.close()
            raise
    return namespace


def _new() -> NetworkNamespace:
    return _call(partial(_unshare(), _CLONE_NEWNET), _take_up_loopback)


def _take_up_loopback() -> NetworkNamespace:
    # Not by pyroute2, whose import takes a hundred times as long as all of this.
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as anyone:
        fcntl.ioctl(anyone, _SIOCSIFFLAGS, _IFREQ.pack(b"lo", _IFF_UP))
    return NetworkNamespace()


def call_outside(function: Callable[[], _Result]) -> _Result:
    """What `function` returns, called where the calling thread was before it entered any."""
    home = getattr(_thread, "home", None)
    return function() if home is None else _call(partial(_setns(), home, _CLONE_NEWNET), function)


def _call(go: Callable[[], object], function: Callable[[], _Result]) -> _Result:
    there_and_back = _there_and_back(go)
    try:
        next(there_and_back)
        return function()
    finally:
        next(there_and_back, None)


def _there_and_back(go: Callable[[], object]) -> Iterator[None]:
    """Have the calling thread `go` to another namespace, and come back after the ``yield``.

    A generator, for what is raised by a signal as it is resumed is raised at the ``yield``, and the system call comes
    first after that. Raises OSError, the thread where it was, if it could not come back, and `AllgoneError` if it
    can't any more.
    """
    setns, before = _setns(), getattr(_thread, "home", None)
    file = io.FileIO(_OWN)
    home = file.fileno()
    try:
        # Whether we can come back: a process that is root in a user namespace of its own, but not of its network,
        # can go, and never return.
        setns(home, _CLONE_NEWNET)
        _thread.home = home if before is None else before
        try:
            go()
            yield
        finally:
            try:
                setns(home, _CLONE_NEWNET)
            except PermissionError as e:
                raise AllgoneError(
                    f"this thread can't go back to its network namespace, and stays in another: {e.strerror}"
                ) from e
    finally:
        _thread.home = before
        file.close()


_inside = contextmanager(_there_and_back)


@cache
def _setns() -> Callable[[int, int], object]:
    if sys.version_info >= (3, 12):
        return os.setns
    return _from_libc("setns")


@cache
def _unshare() -> Callable[[int], object]:
    if sys.version_info >= (3, 12):
        return os.unshare
    return _from_libc("unshare")


def _from_libc(name: str) -> Callable[..., object]:
    import ctypes

    def check(result: Any, function: object, arguments: object) -> Any:
        if result != 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))
        return result

    found = ctypes.CDLL(None, use_errno=True)[name]
    found.errcheck = check
    return found


def _after_fork_in_child() -> None:
    """A fork must not hold what is its parent's."""
    for each in list(_held):
        each._file.close()


os.register_at_fork(after_in_child=_after_fork_in_child)
