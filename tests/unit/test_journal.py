"""Entries for the journal: what is sent, and that nobody waits for one who does not take them."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.journal import Journal

from allgone._linux import journal


@pytest.fixture
def taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Journal]:
    made = Journal(tmp_path / "socket")
    monkeypatch.setattr(journal, "SOCKET", made.path)
    yield made
    made.close()


def test_fields_arrive_as_they_are(taken: Journal) -> None:
    fields = [("MESSAGE", "one line"), ("A_1", ""), ("A_1", "a=b"), ("B", "two\nlines\n"), ("C", "ü\n=\x00")]
    assert journal.send(fields)
    assert taken.entry() == {"MESSAGE": ["one line"], "A_1": ["", "a=b"], "B": ["two\nlines\n"], "C": ["ü\n=\x00"]}
    assert not taken.was_sealed


def test_what_is_too_large_for_a_datagram_arrives_in_a_sealed_file(taken: Journal) -> None:
    large = "x" * (4 << 20)
    assert journal.send([("MESSAGE", large)])
    assert taken.entry() == {"MESSAGE": [large]}
    assert taken.was_sealed


def test_a_journal_that_takes_nothing_is_not_waited_for(taken: Journal) -> None:
    sent = 0
    while journal.send([("MESSAGE", "x")]):
        sent += 1
        assert sent < 100_000, "it takes more than any queue has room for"
    assert not journal.send([("MESSAGE", "x")])
    taken.entry()
    assert journal.send([("MESSAGE", "there is room again")])


@pytest.mark.parametrize("what", ["nothing", "nobody"])
def test_without_a_journal_nothing_happens(what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(tmp_path / "socket")
    if what == "nobody":
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as closed:
            closed.bind(path)
    monkeypatch.setattr(journal, "SOCKET", path)
    assert not journal.send([("MESSAGE", "x")])
