"""An outlet writes what there is room for, all of it in order, and never waits; it leaves the fd's flags alone."""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from allgone._linux.outlet import Outlet, nobody_reads

DATA = b"".join(b"%07d\n" % number for number in range(1 << 17))  # 1 MiB: more than a pipe, socket or pty takes


def pipe() -> tuple[int, int]:
    return os.pipe()


def sockets() -> tuple[int, int]:
    one, two = socket.socketpair()
    return one.detach(), two.detach()


def terminal() -> tuple[int, int]:
    import tty

    master, slave = os.openpty()
    tty.setraw(slave)
    return master, slave


@pytest.mark.parametrize("make", [pipe, sockets, terminal])
@pytest.mark.parametrize("can_be_opened_again", [True, False])
def test_all_arrives_in_order_and_no_write_waits(
    make: Callable[[], tuple[int, int]], can_be_opened_again: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader, writer = make()
    if not can_be_opened_again:
        monkeypatch.setattr("os.open", refuse)
    flags = fcntl.fcntl(writer, fcntl.F_GETFL)
    with Outlet(writer) as outlet:
        monkeypatch.undo()
        outlet.add(DATA)
        got = b""
        while outlet:
            if can_be_opened_again or is_writable(outlet):
                outlet.push()
            got += os.read(reader, 1 << 20)
        assert fcntl.fcntl(writer, fcntl.F_GETFL) == flags
    while len(got) < len(DATA):
        got += os.read(reader, 1 << 20)
    assert got == DATA
    os.close(reader)
    os.close(writer)


def refuse(*_: object) -> int:
    raise PermissionError


def is_writable(outlet: Outlet) -> bool:
    import select

    return bool(select.select([], [outlet], [], 0)[1])


def test_a_file_is_written_where_others_have_left_off(tmp_path: Path) -> None:
    with open(tmp_path / "file", "wb", buffering=0) as file:
        file.write(b"before\n")
        with Outlet(file.fileno()) as outlet:
            outlet.add(DATA)
            outlet.push()
            assert not outlet
        file.write(b"after\n")
    assert (tmp_path / "file").read_bytes() == b"before\n" + DATA + b"after\n"


@pytest.mark.parametrize("make", [pipe, sockets, terminal])
def test_that_nobody_reads_is_an_error_that_is_told_apart(make: Callable[[], tuple[int, int]]) -> None:
    reader, writer = make()
    with Outlet(writer) as outlet:
        os.close(reader)
        outlet.add(b"lost")
        with pytest.raises(OSError, match=r"Broken pipe|Input/output error") as error:
            outlet.push()
        assert nobody_reads(error.value)
        assert outlet.drop() == 4
    os.close(writer)
    with open("/dev/full", "wb") as full, Outlet(full.fileno()) as outlet:
        outlet.add(b"lost")
        with pytest.raises(OSError, match="No space") as error:
            outlet.push()
        assert not nobody_reads(error.value)
