"""What a `Popen` and a `Group` tell of the containment that they hold."""

from __future__ import annotations

from typing import TYPE_CHECKING

from allgone._core.containment import Containment
from allgone._core.report import Report
from allgone._core.usage import Usage

if TYPE_CHECKING:
    from allgone._core.sockets import ListeningSocket


class Inside:
    """One that has a containment."""

    _containment: Containment
    _report: Report | None = None
    _ports_matter = False  # whether somebody asked what it listens on: then the report says what became of that

    @property
    def backend(self) -> str:
        """``"cgroup"`` or ``"process-group"``: what holds its processes."""
        return self._containment.backend

    @property
    def name(self) -> str:
        """The name of the containment."""
        return self._containment.name

    @property
    def report(self) -> Report | None:
        """What `stop()` found and did; None before it."""
        return self._report

    def usage(self) -> Usage | None:
        """What all of it has used until now, those that have ended included; after the stop, until that.

        In a cgroup the kernel keeps the books. With process-group it is what the live members have used, with what
        they have waited for, and what ended as a child of ours: `Usage.approximate`. After the stop it is the latter
        only, and None if others have reaped all of that.

        >>> import allgone
        >>> with allgone.Popen(["sleep", "1000"]) as proc:
        ...     proc.usage().cpu_user < 60
        ...     proc.kill()
        True

        None where it can't be known: the cgroup's books could not be read.
        """
        return self._containment.usage(pressure=True)

    def members(self) -> frozenset[int]:
        """Pids of all live processes in the containment: those that were started, and what they started."""
        return self._containment.members()

    def listening(
        self, port: int | str | None = None, host: str | None = None, proto: str | None = None
    ) -> tuple[ListeningSocket, ...]:
        """The listening sockets that belong to what is inside: at the port (or a unix socket's path) and host, if
        given, of the protocol, if given. See `allgone.listening` for how they are told from others'.

        >>> import allgone
        >>> with allgone.Popen(["sleep", "1000"]) as proc:
        ...     proc.listening()
        ...     proc.kill()
        ()

        Raises ValueError and TypeError for what makes no sense, OSError where the kernel does not say.
        """
        from allgone._process import listening  # pyroute2 behind it takes a tenth of a second to import

        self._ports_matter = True
        return listening.of(self._containment, listening.wanted(port, host, proto))
