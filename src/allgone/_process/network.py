"""`network=`: a process born in a network namespace of its own, and the connections to it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

from allgone._core.containment import Containment

if TYPE_CHECKING:  # both are imported where there is a use for them
    from socket import socket

    from allgone._linux.netns import NetworkNamespace

Network = Literal["private", "veth"]
_NETWORKS = ("private", "veth")


class Networked:
    """A process that may have one."""

    _netns: NetworkNamespace | None = None

    @property
    def netns(self) -> NetworkNamespace | None:
        """The network namespace of its own (``network=``); None without one."""
        return self._netns

    def connect(self, port: int, host: str = "127.0.0.1", timeout: float | None = None) -> socket:
        """A TCP connection to what listens on `port`, made in its network namespace; without one, from our own.

        `timeout`: seconds for connecting, and for what is done with the socket then (`socket.create_connection`).

        Raises OSError, and ValueError when the process with its network has been stopped.
        """
        if self._netns is not None:
            return self._netns.connect(port, host, timeout)
        from socket import create_connection

        return create_connection((host, port), timeout)

    def _have_network(self, network: Network | None, containment: Containment) -> None:
        """Make it, to be let go with the containment. Raises `Unsupported` and OSError."""
        if network is None:
            return
        from allgone._linux import netns

        self._netns = netns.made(veth=network == "veth")
        containment.close_with(self._netns.close)

    def _in_network(self, function: Callable[[], object]) -> None:
        if self._netns is None:
            function()
        else:
            self._netns.call(function)


def check_network(network: object) -> None:
    """Raises ValueError."""
    if network is not None and network not in _NETWORKS:
        raise ValueError(f"network must be one of {', '.join(_NETWORKS)}, or None, not {network!r}")
