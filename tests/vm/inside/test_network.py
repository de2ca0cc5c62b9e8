"""A veth pair on a machine whose systemd-networkd has files for interfaces of all kinds."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.machine import supervised
from support.systemd_env import CHECKOUT

pytestmark = pytest.mark.root
FOLDER = Path("/run/systemd/network")
# The guest's own card has a file that sorts before this one.
TAKES_IT = "[Match]\nType=ether\n\n[Network]\nDHCP=ipv4\nLinkLocalAddressing=no\n"
# What the documentation says to write, and where.
SNIPPET = re.compile(r'^```ini title="/etc/systemd/network/(.+)\.network"\n(.*?)^```', re.S | re.M)
DOCUMENTED = dict(SNIPPET.findall((CHECKOUT / "docs/network.md").read_text()))
PAIR = """
def shows(what):
    words = ["networkctl", "--no-legend", "list", "allgone0"]
    return what in subprocess.run(words, capture_output=True, text=True, check=True).stdout.split()

def has_address():
    words = ["ip", "-4", "-oneline", "address", "show", "dev", "allgone0"]
    return address in subprocess.run(words, capture_output=True, text=True, check=True).stdout

process = allgone.Popen(["sleep", "1000"], network="veth")
address = process.netns.peer_address
"""


@pytest.fixture
def networkd() -> Iterator[Callable[..., None]]:
    """Gives it files."""
    written = []

    def give(**files: str) -> None:
        FOLDER.mkdir(exist_ok=True)
        for name, text in files.items():
            written.append(FOLDER / f"{name}.network")
            written[-1].write_text(text)
        subprocess.run(["networkctl", "reload"], check=True)

    yield give
    for each in written:
        each.unlink()
    subprocess.run(["networkctl", "reload"], check=True)


def test_networkd_takes_away_the_address_where_a_file_fits(networkd: Callable[..., None]) -> None:
    networkd(takes_it=TAKES_IT)
    supervised(PAIR + "until(lambda: shows('configuring'))\nuntil(lambda: not has_address())\nprocess.stop()")


@pytest.mark.parametrize(
    "files",
    [
        pytest.param({"takes_it": TAKES_IT, **DOCUMENTED}, id="a file before it"),
        pytest.param({"takes_it": TAKES_IT.replace("Type=ether", "Type=ether\nKind=!*")}, id="no kind"),
    ],
)
def test_it_leaves_it_alone_by_each_documented_way(networkd: Callable[..., None], files: dict[str, str]) -> None:
    networkd(**files)
    reaches = """
import socket
until(lambda: shows('unmanaged'))
assert has_address()
with socket.create_server((address, 0)) as server:
    server.settimeout(60)
    with process.netns.entered():
        asks = socket.create_connection(server.getsockname(), 60)
    with asks, server.accept()[0] as connection:
        connection.sendall(b"outside")
        assert asks.recv(100) == b"outside"
assert has_address()
process.stop()
"""
    supervised(PAIR + reaches)
