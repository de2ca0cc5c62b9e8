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

    >>> StopPolicy(kill_mode="mixed", timeout_stop=2.5).timeout_stop
    2.5

    Raises ValueError or TypeError for values that are none of these.
    """

    kill_mode: KillMode = "control-group"
    kill_signal: int = signal.SIGTERM
    send_sighup: bool = False
    timeout_stop: float = 10.0
    final_kill_signal: int = signal.SIGKILL

    def __post_init__(self) -> None:
        if self.kill_mode not in get_args(KillMode):
            raise ValueError(f"kill_mode must be one of {', '.join(get_args(KillMode))}, not {self.kill_mode!r}")
        for field in ("kill_signal", "final_kill_signal"):
            value = getattr(self, field)
            if not isinstance(value, int) or isinstance(value, bool) or value not in _SIGNALS:
                raise ValueError(f"{field} must be a signal number, not {value!r}")
        if not isinstance(self.timeout_stop, (int, float)) or isinstance(self.timeout_stop, bool):
            raise TypeError(f"timeout_stop must be a number of seconds, not {self.timeout_stop!r}")
        if math.isnan(self.timeout_stop) or self.timeout_stop < 0:
            raise ValueError(f"timeout_stop must be 0 or more seconds, not {self.timeout_stop!r}")

    def at_once(self) -> StopPolicy:
        """The same policy without its polite part: SIGKILL now."""
        return replace(self, timeout_stop=0.0, final_kill_signal=signal.SIGKILL)

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
