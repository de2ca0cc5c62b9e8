"""Which sockets are meant by a port, a host and a protocol."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from allgone._core.sockets import Found, ListeningSocket, Wanted
from allgone._linux import sockets


def bound(address: str, *, only_v6: bool = False) -> Found:
    return Found(ListeningSocket("tcp", address, 80), 1, None, only_v6, 0)


MET = [
    ("127.0.0.1", "127.0.0.1", True),
    ("127.0.0.1", "127.0.0.2", False),
    ("0.0.0.0", "127.0.0.1", True),
    ("0.0.0.0", "::1", False),
    ("::", "::1", True),
    ("::", "127.0.0.1", True),
    ("::1", "127.0.0.1", False),
    ("::ffff:127.0.0.1", "127.0.0.1", True),
    ("127.0.0.1", "::ffff:127.0.0.1", True),
    ("127.0.0.1", "0.0.0.0", True),
    ("::1", "0.0.0.0", False),
    ("fe80::1", "fe80::1%eth0", True),
]


@pytest.mark.parametrize(("address", "host", "met"), MET)
def test_a_host_is_met(address: str, host: str, met: bool) -> None:
    assert Wanted("tcp", 80, hosts=[ip_address(host)]).is_met_by(bound(address)) is met


def test_who_takes_ipv6_only_takes_no_ipv4() -> None:
    assert not Wanted("tcp", 80, hosts=[ip_address("127.0.0.1")]).is_met_by(bound("::", only_v6=True))
    assert Wanted("tcp", 80, hosts=[ip_address("::1")]).is_met_by(bound("::", only_v6=True))


def test_one_of_several_hosts_will_do() -> None:
    assert Wanted("tcp", 80, hosts=[ip_address("::1"), ip_address("127.0.0.1")]).is_met_by(bound("127.0.0.1"))


def test_what_is_wanted_in_words() -> None:
    assert str(Wanted("tcp", 80)) == "tcp port 80"
    assert str(Wanted("udp", 53, hosts=[ip_address("::1")])) == "udp [::1]:53"
    assert str(Wanted("unix", path="/run/x")) == "unix /run/x"
    assert str(Wanted()) == "any port"


def test_the_kernels_refusal_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sockets, "_made_in", lambda cgroups: b"\xff" * 4)  # no such code
    with sockets.own_namespace() as own, pytest.raises(OSError, match="Invalid argument"):
        own.listening(Wanted("tcp"), cgroups=[1])
