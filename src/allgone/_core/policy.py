"""How a stop is done: systemd's directives, in snake_case."""

from __future__ import annotations

import math
import signal
from dataclasses import dataclass, replace
from typing import Literal, get_args

_SIGNALS = frozenset(map(int, signal.valid_signals()))
KillMode = Literal["control-group", "mixed", "process"]


@dataclass(frozen=True, slots=True)
class StopPolicy:
    """What a stop sends, to whom, and how long it waits (systemd.kill(5), ``TimeoutStopSec=`` in systemd.service(5)).

    kill_mode
        ``"control-group"``: `kill_signal` goes to every member, then `final_kill_signal` to every member left.
        ``"mixed"``: `kill_signal` goes to the leader only; once it has ended (or time is up) the rest is killed.
        ``"process"``: only the leader is signalled at all; other members are left running, as in systemd.
    kill_signal
        The polite signal. It is followed by SIGCONT, so that a stopped member can act on it.
    send_sighup
        Send SIGHUP as well, right after `kill_signal`; shells want it.
    timeout_stop
        Seconds from `kill_signal` to `final_kill_signal`; 0 skips the polite part, ``math.inf`` waits for ever.
    final_kill_signal
        Sent when the time is up. Should it not be SIGKILL, another `timeout_stop` later SIGKILL follows.
    guard_timeout
        The most that `timeout_stop` may be when the supervisor is gone and its guard does the stop; 0 kills at once.
        SIGKILL follows, and then nothing is left, whatever `kill_mode` says: nobody is there to take care of it.

    >>> StopPolicy(kill_mode="mixed", timeout_stop=2.5).timeout_stop
    2.5

    Raises ValueError or TypeError for values that are none of these.
    """

    kill_mode: KillMode = "control-group"
    kill_signal: int = signal.SIGTERM
    send_sighup: bool = False
    timeout_stop: float = 10.0
    final_kill_signal: int = signal.SIGKILL
    guard_timeout: float = 0.0

    def __post_init__(self) -> None:
        if self.kill_mode not in get_args(KillMode):
            raise ValueError(f"kill_mode must be one of {', '.join(get_args(KillMode))}, not {self.kill_mode!r}")
        for field in ("kill_signal", "final_kill_signal"):
            value = getattr(self, field)
            if not isinstance(value, int) or isinstance(value, bool) or value not in _SIGNALS:
                raise ValueError(f"{field} must be a signal number, not {value!r}")
        for field in ("timeout_stop", "guard_timeout"):
            value = getattr(self, field)
            if not isinstance(value, (int, float)) or isinstance(value, bool):
                raise TypeError(f"{field} must be a number of seconds, not {value!r}")
            if math.isnan(value) or value < 0:
                raise ValueError(f"{field} must be 0 or more seconds, not {value!r}")

    def at_once(self) -> StopPolicy:
        """The same policy without its polite part: SIGKILL now."""
        return replace(self, timeout_stop=0.0, final_kill_signal=signal.SIGKILL)

    def of_guard(self) -> StopPolicy:
        """What its guard does when the supervisor is gone."""
        mode: KillMode = "mixed" if self.kill_mode == "process" else self.kill_mode
        return replace(self.at_once(), kill_mode=mode, timeout_stop=min(self.timeout_stop, self.guard_timeout))

    def packed(self) -> bytes:
        """Without `final_kill_signal`, in 40 bytes at most; `unpacked()` reads it."""
        mode = get_args(KillMode).index(self.kill_mode)
        times = f"{self.timeout_stop:.6g} {self.guard_timeout:.6g}"
        return f"{mode} {self.kill_signal} {self.send_sighup:d} {times}".encode()

    @classmethod
    def unpacked(cls, text: bytes) -> StopPolicy:
        """Raises ValueError for what `packed()` never makes."""
        mode, kill_signal, send_sighup, timeout_stop, guard_timeout = text.rstrip(b"\0").split(b" ")
        modes = get_args(KillMode)
        if int(mode) not in range(len(modes)):
            raise ValueError(f"no kill mode: {mode!r}")
        return cls(
            modes[int(mode)], int(kill_signal), send_sighup == b"1", float(timeout_stop),
            guard_timeout=float(guard_timeout),
        )  # fmt: skip

    def as_unit_properties(self) -> dict[str, object]:
        """The same for `systemctl stop` of a scope. It has no main process, so `kill_mode` is control-group."""
        seconds = "infinity" if math.isinf(self.timeout_stop) else f"{max(self.timeout_stop, 0.001):.6f}s"
        return {
            "KillSignal": int(self.kill_signal),
            "SendSIGHUP": self.send_sighup,
            "TimeoutStopSec": seconds,
            "FinalKillSignal": int(self.final_kill_signal),
        }


DEFAULT = StopPolicy()


def policy_or(policy: StopPolicy | None, default: StopPolicy) -> StopPolicy:
    """`policy`, or `default` where it is None. Raises TypeError for anything else."""
    if policy is not None and not isinstance(policy, StopPolicy):
        raise TypeError(f"policy must be a StopPolicy, not {type(policy).__name__}")
    return policy or default
