"""What a process tells of itself by sd_notify(3): the text of a message, and what it adds up to."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace

MOST = 4096  # bytes in a message; systemd ignores longer ones (NOTIFY_BUFFER_MAX)
_LARGEST_ERRNO = 4095  # MAX_ERRNO of linux/err.h
_LONGEST = 10**15  # microseconds: 30 years, for which waiting is no different from waiting for ever


@dataclass(frozen=True, slots=True)
class Notified:
    """What the processes of a ``ready=notify()`` have told until now, in the terms of sd_notify(3).

    ready
        Whether ``READY=1`` came.
    status
        The last ``STATUS=``; "" before the first.
    errno
        The last ``ERRNO=``; None before the first.
    exit_status
        The last ``EXIT_STATUS=``, as it was sent; "" before the first.
    reloading
        Whether ``RELOADING=1`` came, and no ``READY=1`` after it.
    stopping
        Whether ``STOPPING=1`` came.
    """

    ready: bool = False
    status: str = ""
    errno: int | None = None
    exit_status: str = ""
    reloading: bool = False
    stopping: bool = False

    def and_then(self, message: dict[str, str]) -> Notified:
        """After one more message."""
        ready = message.get("READY") == "1"
        return replace(
            self,
            ready=self.ready or ready,
            status=message.get("STATUS", self.status),
            errno=_errno(message.get("ERRNO"), self.errno),
            exit_status=message.get("EXIT_STATUS", self.exit_status),
            reloading=message.get("RELOADING") == "1" or (self.reloading and not ready),
            stopping=self.stopping or message.get("STOPPING") == "1",
        )


def in_words(told: Notified) -> str:
    """What helps to understand why it is not ready; "" if it told nothing of the kind."""
    said = [f"status {told.status!r}"] if told.status else []
    if told.errno is not None:
        said.append(f"errno {told.errno} ({os.strerror(told.errno)})")
    if told.exit_status:
        said.append(f"exit status {told.exit_status}")
    if told.stopping:
        said.append("it is stopping")
    return ", ".join(said)


def assignments(datagram: bytes) -> dict[str, str]:
    """The variables in a message; of one that is set twice, the first value. Lines that are no assignment are nothing.

    Raises ValueError for what systemd ignores as a whole: too long, or with a NUL in it.
    """
    if len(datagram) > MOST:
        raise ValueError(f"longer than {MOST} bytes")
    text = datagram.rstrip(b"\0")  # C programs send the end of their string along
    if b"\0" in text:
        raise ValueError("with a NUL byte in it")
    pairs = (line.partition("=") for line in text.decode("utf-8", "replace").split("\n"))
    found: dict[str, str] = {}
    for name, equals, value in pairs:
        if name and equals:
            found.setdefault(name, value)
    return found


def _errno(text: str | None, before: int | None) -> int | None:
    value = number(text)
    return value if value is not None and value <= _LARGEST_ERRNO else before


def number(text: str | None) -> int | None:
    """Its value, if it is a decimal number without a sign."""
    if text is None or not text.isascii() or not text.isdigit() or len(text) > 20:
        return None
    return int(text)


def seconds(microseconds: str | None) -> float | None:
    """The value of a variable called …_USEC in seconds; None for what is no such value."""
    value = number(microseconds)
    return None if value is None else min(value, _LONGEST) / 1_000_000
