"""allgone: start a process; when you stop it, all of it is gone.

Layers; imports point down only (tests/unit/test_layers.py):

    cli, reports, aio, contrib, pytest_plugin   front ends: no kernel knowledge
    _process, ready         what callers hold; the blocking driver; readiness probes
    _upkeep                 guard, janitor: what holds when the supervisor does not
    _backends               choose, cgroup, process_group: the one interface, its two implementations
    _linux                  one module per kernel or system interface; no policy
    _core                   values, protocols, decisions: no system call, no waiting
    errors                  every exception

Nothing is imported before it is used.
"""

from __future__ import annotations

TYPE_CHECKING = False  # typing.TYPE_CHECKING without importing typing
if TYPE_CHECKING:
    from subprocess import DEVNULL as DEVNULL
    from subprocess import PIPE as PIPE
    from subprocess import STDOUT as STDOUT
    from subprocess import CalledProcessError as CalledProcessError
    from subprocess import TimeoutExpired as TimeoutExpired

    from allgone._backends.cgroup import CgroupBackend as CgroupBackend
    from allgone._backends.process_group import ProcessGroupBackend as ProcessGroupBackend
    from allgone._core.containment import Backend as Backend
    from allgone._core.containment import Guarantees as Guarantees
    from allgone._core.genealogy import Exec as Exec
    from allgone._core.genealogy import Genealogy as Genealogy
    from allgone._core.genealogy import Life as Life
    from allgone._core.limits import Limits as Limits
    from allgone._core.notification import Notified as Notified
    from allgone._core.policy import StopPolicy as StopPolicy
    from allgone._core.report import Port as Port
    from allgone._core.report import Process as Process
    from allgone._core.report import Report as Report
    from allgone._core.report import Sample as Sample
    from allgone._core.report import Sent as Sent
    from allgone._core.sockets import ListeningSocket as ListeningSocket
    from allgone._core.usage import Pressure as Pressure
    from allgone._core.usage import Stalled as Stalled
    from allgone._core.usage import Usage as Usage
    from allgone._linux.netns import NetworkNamespace as NetworkNamespace
    from allgone._process.fixture import process_fixture as process_fixture
    from allgone._process.group import Group as Group
    from allgone._process.group import group as group
    from allgone._process.output import capture as capture
    from allgone._process.popen import Popen as Popen
    from allgone._process.ports import free_port as free_port
    from allgone._process.ports import reserved_port as reserved_port
    from allgone._process.run import CompletedProcess as CompletedProcess
    from allgone._process.run import call as call
    from allgone._process.run import check_call as check_call
    from allgone._process.run import check_output as check_output
    from allgone._process.run import run as run
    from allgone._process.start_all import start_all as start_all
    from allgone.errors import AllgoneError as AllgoneError
    from allgone.errors import BackendUnavailable as BackendUnavailable
    from allgone.errors import EscapedProcessWarning as EscapedProcessWarning
    from allgone.errors import ExitedBeforeReady as ExitedBeforeReady
    from allgone.errors import FreezeTimeout as FreezeTimeout
    from allgone.errors import GuardLostWarning as GuardLostWarning
    from allgone.errors import LimitUnavailable as LimitUnavailable
    from allgone.errors import NotReady as NotReady
    from allgone.errors import OutOfMemory as OutOfMemory
    from allgone.errors import PlacementFailed as PlacementFailed
    from allgone.errors import PortTaken as PortTaken
    from allgone.errors import Reason as Reason
    from allgone.errors import StopTimeout as StopTimeout
    from allgone.errors import SystemdError as SystemdError
    from allgone.errors import Unsupported as Unsupported
    from allgone.errors import WatchdogTimeout as WatchdogTimeout
    from allgone.errors import WrongProcess as WrongProcess
    from allgone.ready import http as http
    from allgone.ready import listening as listening
    from allgone.ready import log_line as log_line
    from allgone.ready import notify as notify
    from allgone.ready import path_exists as path_exists
    from allgone.ready import tcp as tcp

_WHERE = {
    "subprocess": ("CalledProcessError", "DEVNULL", "PIPE", "STDOUT", "TimeoutExpired"),
    "allgone._backends.cgroup": ("CgroupBackend",),
    "allgone._backends.process_group": ("ProcessGroupBackend",),
    "allgone._core.containment": ("Backend", "Guarantees"),
    "allgone._core.genealogy": ("Exec", "Genealogy", "Life"),
    "allgone._core.limits": ("Limits",),
    "allgone._core.notification": ("Notified",),
    "allgone._core.policy": ("StopPolicy",),
    "allgone._core.report": ("Port", "Process", "Report", "Sample", "Sent"),
    "allgone._core.sockets": ("ListeningSocket",),
    "allgone._core.usage": ("Pressure", "Stalled", "Usage"),
    "allgone._linux.netns": ("NetworkNamespace",),
    "allgone._process.fixture": ("process_fixture",),
    "allgone._process.group": ("Group", "group"),
    "allgone._process.output": ("capture",),
    "allgone._process.popen": ("Popen",),
    "allgone._process.ports": ("free_port", "reserved_port"),
    "allgone._process.run": ("CompletedProcess", "call", "check_call", "check_output", "run"),
    "allgone._process.start_all": ("start_all",),
    "allgone.errors": (
        "AllgoneError", "BackendUnavailable", "EscapedProcessWarning", "ExitedBeforeReady", "FreezeTimeout",
        "GuardLostWarning", "LimitUnavailable", "NotReady", "OutOfMemory", "PlacementFailed", "PortTaken", "Reason",
        "StopTimeout", "SystemdError", "Unsupported", "WatchdogTimeout", "WrongProcess",
    ),
    "allgone.ready": ("http", "listening", "log_line", "notify", "path_exists", "tcp"),
}  # fmt: skip
_HOME = {name: module for module, names in _WHERE.items() for name in names}

__all__ = sorted(_HOME)  # made from the one table above


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
