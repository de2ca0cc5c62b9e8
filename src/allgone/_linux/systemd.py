"""systemd's managers over D-Bus: transient scopes, and who is in them. The only module that knows pystemd.

Interfaces: org.freedesktop.systemd1(5). Spoken to over the manager's own socket, as systemctl does, so that no message
bus is needed and none can be in the way.
"""

from __future__ import annotations

import errno
import itertools
import os
import select
import struct
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple, TypeVar

from allgone.errors import SystemdError

ANSWER_WITHIN = 10.0  # seconds for a manager to do what it was asked, a daemon-reexec in between included
_PIDFDS = 255  # the first version that takes them
_COARSE = 0.02  # seconds that the time of a file may be behind the clock (CONFIG_HZ)
RETRY_AFTER = 0.01  # seconds between two attempts to reach a manager that re-executes itself: there is no event for it
PACKAGES = "apt-get install gcc pkg-config libsystemd-dev python3-dev, then pip install 'allgone[systemd]'"

_SERVICE = b"org.freedesktop.systemd1"
_MANAGER = (_SERVICE, b"/org/freedesktop/systemd1", b"org.freedesktop.systemd1.Manager")
_UNIT = b"org.freedesktop.systemd1.Unit"
_GONE = {errno.ECONNREFUSED, errno.ECONNRESET, errno.ENOTCONN, errno.EPIPE, errno.ESHUTDOWN, errno.EAGAIN}
# What pystemd's table of unit properties lacks.
_MORE_SIGNATURES = {
    b"PIDs": b"au", b"PIDFDs": b"ah", b"OOMPolicy": b"s", b"FinalKillSignal": b"i", b"CPUWeight": b"t",
    b"IOWeight": b"t", b"MemoryMin": b"t", b"ManagedOOMSwap": b"s", b"ManagedOOMMemoryPressure": b"s",
    b"DelegateControllers": b"as",
}  # fmt: skip

UNIT_EXISTS = "org.freedesktop.systemd1.UnitExists"
NOT_THERE = "org.freedesktop.DBus.Error.FileNotFound"
NO_SUCH_UNIT = "org.freedesktop.systemd1.NoSuchUnit"
OUTSIDE = "org.freedesktop.systemd1"  # of ours: a systemd that knows other pids than we do
OUTSIDE_REMEDY = (
    "keep /run/systemd out of the container, and cgroups are made below the container's own; "
    "or let ALLGONE_CGROUP name a cgroup that is writable here"
)
_NO_REPLY = "org.freedesktop.DBus.Error.NoReply"
_DISCONNECTED = "org.freedesktop.DBus.Error.Disconnected"
UNANSWERED = (_NO_REPLY, _DISCONNECTED)  # it may be done all the same
_JOB_FAILED = "org.freedesktop.systemd1.JobFailed"  # of ours
_NO_UNIT_FOR_PID = "org.freedesktop.systemd1.NoUnitForPID"
_REMEDIES = {
    UNIT_EXISTS: "stop the unit of that name, or choose another name",
    "org.freedesktop.DBus.Error.AccessDenied": "run as root, or without sudo as the user whose manager it is; "
    "if dbus was restarted since that manager started: systemctl --user daemon-reexec",
    "org.freedesktop.systemd1.TransactionIsDestructive": "the machine or the supervisor's unit is being stopped",
    NO_SUCH_UNIT: "somebody stopped it just now; the next child gets a new one",
    _JOB_FAILED: "its journal says why; if dbus was restarted since a user's manager started: "
    "systemctl --user daemon-reexec",
    "org.freedesktop.systemd1.JobTimeout": "look at systemctl list-jobs",
}
_T = TypeVar("_T")
_seen: set[str] = set()  # addresses where a manager has answered


def is_running() -> bool:
    """Whether this machine was booted with systemd (sd_booted(3))."""
    return os.path.isdir("/run/systemd/system")


def transient_units(since: float) -> list[str]:
    """The transient services and scopes that there are, but for ours, and were made after `since` (seconds since 1970).

    Of the system's manager and of all users' that we may look at; each has a file for as long as it is loaded.
    """
    users = [f"{each.path}/systemd/transient" for each in _entries("/run/user")]
    found = (each for folder in ("/run/systemd/transient", *users) for each in _entries(folder))
    return sorted(
        each.name for each in found if not each.name.startswith("allgone-") and _changed(each) >= since - _COARSE
    )


def _entries(folder: str) -> list[os.DirEntry[str]]:
    try:
        return list(os.scandir(folder))
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return []  # no systemd, no such user's manager, or another user's


def _changed(entry: os.DirEntry[str]) -> float:
    try:
        return entry.stat().st_mtime
    except FileNotFoundError:
        return 0.0  # it ended meanwhile


def oomd_has_killed(folder: str) -> bool:
    """Whether systemd-oomd killed what was in the cgroup: it marks it before that (251) and after it (248)."""
    try:
        return not {"user.oomd_ooms", "user.oomd_kill"}.isdisjoint(os.listxattr(folder))
    except OSError:  # it is gone; or cgroups have no attributes: before Linux 5.7
        return False


@cache
def pystemd_missing_because() -> str | None:
    """Why pystemd can't be used; None where it can."""
    try:
        import pystemd.dbuslib  # noqa: F401
    except ImportError as e:
        return str(e)
    return None


class UnitState(NamedTuple):
    """A unit as its manager sees it."""

    name: str
    active_state: str  # "active", "activating", "deactivating", "inactive", "failed", …
    slice: str
    delegate: bool


Properties = Callable[[UnitState | None, int], Mapping[str, object]]  # from our own unit, and the manager's version


class _Disconnected(Exception):
    """The manager went away in the middle, as in a daemon-reexec."""


@dataclass(frozen=True, slots=True)
class Manager:
    """The system's manager or a user's. Every call has a connection of its own: safe in threads and after a fork.

    All raise `SystemdError`, within `ANSWER_WITHIN` seconds, except that a manager which falls silent in the
    middle of a call is given libsystemd's 25 seconds (SYSTEMD_BUS_TIMEOUT, in the environment, says otherwise).
    """

    address: str  # path of its socket

    def __str__(self) -> str:
        return self.address

    def start_scope(self, name: str, pid: int, properties: Properties) -> str:
        """StartTransientUnit for a scope with the process `pid` in it; returns its ControlGroup.

        Waits for the job. Should the manager re-execute itself in between, it is asked what came of it.
        """
        asked = False

        def start(connection: _Connection) -> str:  # all in one conversation: a connection takes 1 to 2 ms
            nonlocal asked
            state = connection.state(name)
            if state == "failed":  # kept only to be looked at
                connection.call(b"ResetFailedUnit", b"s", [name])
            elif state != "inactive" and not asked:
                remedy = _REMEDIES[UNIT_EXISTS]
                raise SystemdError(f"unit {name} exists already, and is {state} ({remedy})", UNIT_EXISTS)
            if state in ("failed", "inactive"):
                again, asked = asked, True
                version = connection.version()
                given = properties(connection.unit_of(os.getpid()), version)
                connection.start_scope(name, pid, given, version, again=again)
            result = "done" if state == "active" else connection.result_of_job(name)
            if result != "done":
                raise SystemdError(f"the job that starts {name}: {result} ({_REMEDIES[_JOB_FAILED]})", _JOB_FAILED)
            return connection.property(_path(name), b"org.freedesktop.systemd1.Scope", b"ControlGroup")

        return self._ask(start)

    def attach(self, unit: str, subgroup: str, pid: int) -> None:
        """AttachProcessesToUnit: have the manager move `pid` to a cgroup below that of `unit`."""
        self._call(b"AttachProcessesToUnit", b"ssau", [unit, subgroup, [pid]])

    def stop_unit(self, name: str) -> None:
        """StopUnit, and wait until it is done; nothing happens where there is no such unit."""
        self._ask(lambda connection: connection.stop_unit(name))

    def kill_unit(self, name: str, signum: int) -> None:
        """KillUnit: a signal to all processes of the unit."""
        self._call(b"KillUnit", b"ssi", [name, "all", signum])

    def reset_failed(self, name: str) -> None:
        """ResetFailedUnit: forget that it failed."""
        self._call(b"ResetFailedUnit", b"s", [name])

    def unit_of(self, pid: int) -> UnitState | None:
        """The unit that a process belongs to; None if it is none of this manager's."""
        return self._ask(lambda connection: connection.unit_of(pid))

    def state(self, name: str) -> str:
        """A unit's ActiveState; "inactive" where there is none of that name."""
        return self._ask(lambda connection: connection.state(name))

    def _call(self, method: bytes, signature: bytes, arguments: list[object]) -> None:
        self._ask(lambda connection: connection.call(method, signature, arguments))

    def _ask(self, operation: Callable[[_Connection], _T]) -> _T:
        deadline = time.monotonic() + ANSWER_WITHIN
        while True:
            try:
                with _connected(self.address, deadline) as connection:
                    _seen.add(self.address)
                    return operation(connection)
            except _Disconnected as e:
                if time.monotonic() + RETRY_AFTER >= deadline:
                    raise SystemdError(f"{self.address}: {e}", _DISCONNECTED) from e
            except SystemdError as e:
                # In a daemon-reexec the socket is removed, and made again.
                if not (self.address in _seen and e.dbus_name == NOT_THERE) or time.monotonic() >= deadline:
                    raise
            time.sleep(RETRY_AFTER)


SYSTEM = Manager("/run/systemd/private")


def manager_of_user(uid: int) -> Manager:
    """The manager of the user that we are."""
    told = os.environ.get("XDG_RUNTIME_DIR", "")
    # What su and sudo leave in the environment can be somebody else's.
    runtime = told if told and _is_owned_by(told, uid) else f"/run/user/{uid}"
    return Manager(f"{runtime}/systemd/private")


def _is_owned_by(path: str, uid: int) -> bool:
    try:
        return os.stat(path).st_uid == uid
    except OSError:  # not there, or not for us to see
        return False


def check_properties(properties: Mapping[str, object]) -> dict[str, object]:
    """The properties as a manager takes them: texts, as in a unit file, are converted.

    Raises ValueError for a name that is not known and a value that makes no sense.
    """
    from allgone._linux import systemd_values

    signatures = _signatures()
    return {
        name: systemd_values.converted(name, value, signatures.get(name.encode(), b""), signatures)
        for name, value in properties.items()
    }


@cache
def _signatures() -> dict[bytes, Any]:
    from pystemd.systemd1.unit_signatures import KNOWN_UNIT_SIGNATURES

    for name, signature in _MORE_SIGNATURES.items():
        KNOWN_UNIT_SIGNATURES.setdefault(name, signature)
    return dict(KNOWN_UNIT_SIGNATURES)


@contextmanager
def _connected(address: str, deadline: float) -> Iterator[_Connection]:
    from pystemd.dbuslib import DBusAddress

    bus = DBusAddress(b"unix:path=" + os.fsencode(address), True)
    try:
        with _errors(f"connecting to {address}"):
            bus.open()  # sends the greeting
        connection = _Connection(bus, address, deadline)
        connection.greet()
        yield connection
    finally:
        bus.close()  # exactly once: libsystemd aborts the process otherwise


@contextmanager
def _errors(doing: str) -> Iterator[None]:
    """pystemd's exceptions as ours."""
    from pystemd.dbusexc import DBusBaseError

    try:
        yield
    except DBusBaseError as e:
        if -e.errno in _GONE:
            raise _Disconnected(os.strerror(-e.errno)) from e
        name, message = _dbus_name(e), _text(e.err_message) or os.strerror(-e.errno)
        remedy = _REMEDIES.get(name, "")
        raise SystemdError(f"{doing}: {message}" + (f" ({remedy})" if remedy else ""), name) from e


def _dbus_name(e: Any) -> str:
    """The D-Bus error name, which pystemd drops where it has made a class for it."""
    if -e.errno == errno.ETIMEDOUT:
        return _NO_REPLY
    if e.err_name:
        return _text(e.err_name)
    word = type(e).__name__.removeprefix("DBus").removesuffix("Error")
    return NO_SUCH_UNIT if word == "NoSuchUnit" else f"org.freedesktop.DBus.Error.{word}"


def _text(value: object) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value or "")


def _bytes(value: object) -> object:
    return [_bytes(each) for each in value] if isinstance(value, list) else _encoded(value)


def _encoded(value: object) -> object:
    return os.fsencode(value) if isinstance(value, str) else value


class _Connection:
    """One conversation with a manager, by one thread."""

    def __init__(self, bus: Any, address: str, deadline: float) -> None:
        self._bus = bus
        self._address = address
        self._deadline = deadline
        self._removed: dict[str, str] = {}  # unit: result of its job
        self._poller = select.poll()
        self._poller.register(bus.get_fd(), select.POLLIN)

    def greet(self) -> None:
        """Wait until it answers: a call to one that does not would block, and all our threads with it (the GIL)."""
        if _peer_pid(self._bus.get_fd()) == 0:
            raise SystemdError(f"{self._address} is of a systemd outside this container", OUTSIDE)
        self._wait("to answer")
        removed = self._removed

        def job_removed(message: Any, error: object, userdata: object) -> None:
            message.process_reply(False)
            _, _, unit, result = message.body
            removed[_text(unit)] = _text(result)

        self._callback = job_removed  # libsystemd keeps a bare pointer
        with _errors("JobRemoved"):
            self._bus.match_signal(*_MANAGER, b"JobRemoved", job_removed)

    def _wait(self, what: str) -> None:
        left = self._deadline - time.monotonic()
        if left <= 0 or not self._poller.poll(left * 1000):
            raise SystemdError(f"{self._address}: waited {ANSWER_WITHIN:g} s for systemd {what}", _NO_REPLY)

    def call(self, method: bytes, signature: bytes, arguments: list[object]) -> Any:
        """The body of the reply of the Manager's `method`."""
        from pystemd.dbuslib import apply_signature

        return self._call(method, apply_signature(signature, _bytes(arguments)))

    def _call(self, method: bytes, arguments: list[Any]) -> Any:
        with _errors(method.decode()):
            return self._bus.call_method(*_MANAGER, method, arguments).body

    def property(self, path: bytes, interface: bytes, name: bytes) -> str:
        with _errors(name.decode()):
            return _text(self._bus.get_property(_SERVICE, path, interface, name, b"s"))

    def unit_of(self, pid: int) -> UnitState | None:
        try:
            path = self.call(b"GetUnitByPID", b"u", [pid])
        except SystemdError as e:
            if e.dbus_name in (_NO_UNIT_FOR_PID, NO_SUCH_UNIT):
                return None
            raise
        name, state = (self.property(path, _UNIT, each) for each in (b"Id", b"ActiveState"))
        kind = name.rpartition(".")[2].title()
        if kind not in ("Service", "Scope"):
            return UnitState(name, state, "", False)
        interface = _SERVICE + b"." + kind.encode()
        return UnitState(name, state, self.property(path, interface, b"Slice"), self.flag(path, interface, b"Delegate"))

    def flag(self, path: bytes, interface: bytes, name: bytes) -> bool:
        with _errors(name.decode()):
            return bool(self._bus.get_property(_SERVICE, path, interface, name, b"b"))

    def state(self, unit: str) -> str:
        return self.property(_path(unit), _UNIT, b"ActiveState")

    def version(self) -> int:
        text = self.property(_MANAGER[1], _MANAGER[2], b"Version")  # "252.39-1~deb12u1"
        return int("".join(itertools.takewhile(str.isdigit, text)) or 0)

    def start_scope(self, name: str, pid: int, properties: Mapping[str, object], version: int, *, again: bool) -> None:
        """`again`: it was asked before, and the answer was lost, so the unit may be there with its job undone."""
        from pystemd.dbuslib import apply_signature
        from pystemd.systemd1.unit_signatures import signature_array

        _signatures()  # completes its table
        # A call that fails leaks its message in pystemd 0.15, and with it the pidfd: so ask before, not by trying.
        fd = os.pidfd_open(pid) if version >= _PIDFDS else None
        try:
            which: dict[str, object] = {"PIDs": [pid]} if fd is None else {"PIDFDs": [fd]}
            given = {key: _bytes(value) for key, value in (which | dict(properties)).items()}
            arguments = apply_signature(b"ss", [name.encode(), b"fail"]) + signature_array(given)
            self._call(b"StartTransientUnit", arguments + apply_signature(b"a(sa(sv))", [[]]))
        except SystemdError as e:
            if not (again and e.dbus_name == UNIT_EXISTS):
                raise
            self.call(b"StartUnit", b"ss", [name, "replace"])
        finally:
            if fd is not None:
                os.close(fd)

    def stop_unit(self, name: str) -> None:
        try:
            self.call(b"StopUnit", b"ss", [name, "replace"])
        except SystemdError as e:
            if e.dbus_name != NO_SUCH_UNIT:
                raise
            return
        self.result_of_job(name)

    def result_of_job(self, unit: str) -> str:
        """Wait until the job of a unit is done: "done", "failed", "timeout", …"""
        self._drain()  # what came before a reply is queued: no poll(2) tells of it
        while unit not in self._removed:
            self._wait(f"to start or stop {unit}")
            self._drain()
        return self._removed.pop(unit)

    def _drain(self) -> None:
        with _errors("reading"):
            while not self._bus.process().is_empty():
                pass


def _path(unit: str) -> bytes:
    from pystemd.dbuslib import path_encode

    return bytes(path_encode(b"/org/freedesktop/systemd1/unit", unit.encode()))


def _peer_pid(fd: int) -> int:
    """Who listens at the other end, as seen from our pid namespace: 0 if from outside."""
    import socket  # a few milliseconds

    with socket.socket(fileno=os.dup(fd)) as copy:
        found = copy.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return int(struct.unpack("3i", found)[0])
