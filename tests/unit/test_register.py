"""The register: what a supervisor writes, its guard reads, whatever is in the file."""

from __future__ import annotations

import os
import struct
import threading
from collections.abc import Callable, Iterator

import pytest

from allgone._core.policy import StopPolicy
from allgone._linux import register
from allgone._linux.register import GroupEntry, HomeEntry, Register

PAGE = 4096
GROUPS_AT = 1025 * PAGE  # as src/launcher/guard.c and other versions of allgone know it
POLICY = StopPolicy(timeout_stop=3).packed()


@pytest.fixture
def written() -> Iterator[Register]:
    made = Register()
    yield made
    made.close()


@pytest.fixture
def raw() -> Iterator[int]:
    """A file of somebody else's."""
    fd = os.memfd_create("raw")
    yield fd
    os.close(fd)


def entry(name: str = "1-sh", **changes: object) -> GroupEntry:
    made = GroupEntry(name, (1 << 61 | 5, 1 << 62 | 7), 4711, True, False, 1234.5, POLICY)
    return made._replace(**changes)


def homes(of: Register | int) -> list[HomeEntry]:
    return list(register.homes(of if isinstance(of, int) else of.fileno()))


def groups(of: Register | int) -> list[GroupEntry]:
    return list(register.groups(of if isinstance(of, int) else of.fileno()))


def read_back(found: GroupEntry) -> GroupEntry:
    return found._replace(policy=found.policy.rstrip(b"\0"))


def test_a_new_one_is_empty(written: Register) -> None:
    assert written.is_empty()
    assert homes(written) == []
    assert groups(written) == []


def test_its_file_is_above_the_standard_ones_and_closed_on_exec(written: Register) -> None:
    assert written.fileno() > 2
    assert not os.get_inheritable(written.fileno())


def test_a_home_is_known_before_it_is_made_and_then_by_its_inode(written: Register) -> None:
    number = written.add_home("/sys/fs/cgroup/allgone-1-00000000")
    assert homes(written) == [HomeEntry("/sys/fs/cgroup/allgone-1-00000000", 0)]
    written.home_made(number, (1 << 40) + 17)
    assert homes(written) == [HomeEntry("/sys/fs/cgroup/allgone-1-00000000", (1 << 40) + 17)]
    assert not written.is_empty()
    written.remove_home(number)
    assert homes(written) == []
    assert written.is_empty()


def test_a_place_that_was_freed_is_used_again_and_holds_nothing_of_what_was_there(written: Register) -> None:
    numbers = [written.add_home(f"/home/{'long' * n}") for n in range(5)]
    written.home_made(numbers[3], 99)
    written.remove_home(numbers[3])
    assert [each.path for each in homes(written)] == ["/home/", "/home/long", "/home/longlong", "/home/" + "long" * 4]
    assert written.add_home("/h") == numbers[3]
    assert homes(written)[3] == HomeEntry("/h", 0)


def test_homes_come_and_go_without_the_file_growing(written: Register) -> None:
    for _ in range(50):
        written.remove_home(written.add_home("/home"))
        written.remove_group(written.add_group(entry()))
    assert os.fstat(written.fileno()).st_size <= GROUPS_AT + 256


@pytest.mark.parametrize("length", [4087, 2000, 1])
def test_a_path_as_long_as_a_page_holds_is_taken_as_it_is(written: Register, length: int) -> None:
    path = "/" + "x" * (length - 1)
    written.home_made(written.add_home(path), 1)
    written.add_home("/next")
    assert homes(written) == [HomeEntry(path, 1), HomeEntry("/next", 0)]


@pytest.mark.parametrize("length", [4088, 5000])
def test_a_path_that_is_longer_is_refused(written: Register, length: int) -> None:
    with pytest.raises(ValueError, match="path too long"):
        written.add_home("/" + "x" * (length - 1))
    assert written.is_empty()


def test_a_path_is_bytes_to_the_kernel_and_stays_so(written: Register) -> None:
    path = os.fsdecode(b"/caf\xe9/\xf0\x9f\x90\x9d")
    written.add_home(path)
    assert homes(written) == [HomeEntry(path, 0)]


def test_more_homes_than_there_is_room_for_are_refused_and_a_freed_place_is_room(written: Register) -> None:
    for n in range(1024):
        assert written.add_home(f"/{n}") == n
    with pytest.raises(OSError, match="a supervisor can have 1024 scopes"):
        written.add_home("/one too many")
    assert len(homes(written)) == 1024
    written.remove_home(500)
    assert written.add_home("/now") == 500
    assert homes(written)[500].path == "/now"


def test_a_group_is_read_as_it_was_written(written: Register) -> None:
    number = written.add_group(entry(leader=0, sweep=True, session=False))
    assert list(map(read_back, groups(written))) == [entry(leader=0, sweep=True, session=False)]
    written.change_group(number, entry(leader=12))
    assert list(map(read_back, groups(written))) == [entry(leader=12)]
    assert StopPolicy.unpacked(groups(written)[0].policy) == StopPolicy(timeout_stop=3)
    assert not written.is_empty()
    written.remove_group(number)
    assert groups(written) == []
    assert written.is_empty()


def test_groups_are_many_and_freed_places_are_used_again(written: Register) -> None:
    numbers = [written.add_group(entry(str(n))) for n in range(3000)]
    assert [each.name for each in groups(written)] == [str(n) for n in range(3000)]
    for each in numbers[10:2990:7]:
        written.remove_group(each)
    left = {each.name for each in groups(written)}
    assert left == {str(n) for n in range(3000)} - {str(n) for n in numbers[10:2990:7]}
    assert sorted(written.add_group(entry("again")) for _ in numbers[10:2990:7]) == numbers[10:2990:7]
    assert len(groups(written)) == 3000


@pytest.mark.parametrize("name", ["", "x" * 128, "x" * 200, "é" * 100, "🐝" * 40])
def test_a_name_is_cut_where_it_is_too_long_and_hurts_nobody(written: Register, name: str) -> None:
    written.add_group(entry(name))
    written.add_group(entry("next"))
    first, second = groups(written)
    assert second.name == "next"
    assert name.startswith(first.name.rstrip("\ufffd"))
    assert len(first.name) >= min(len(name), 32)


@pytest.mark.parametrize(
    "policy",
    [
        StopPolicy(),
        StopPolicy(timeout_stop=float("inf"), guard_timeout=float("inf"), send_sighup=True, kill_mode="process"),
        StopPolicy(timeout_stop=1.7976931348623157e308, guard_timeout=1.2345678e-300, kill_signal=64),
    ],
)
def test_every_policy_has_room(written: Register, policy: StopPolicy) -> None:
    assert len(policy.packed()) <= 40
    written.add_group(entry(policy=policy.packed()))
    assert groups(written)[0].policy.rstrip(b"\0") == policy.packed()
    assert StopPolicy.unpacked(groups(written)[0].policy).kill_mode == policy.kill_mode


def test_threads_that_write_at_once_lose_nothing(written: Register) -> None:
    """Each keeps one in ten of its own."""
    kept: list[int] = []

    def come_and_go(who: int) -> None:
        for n in range(100):
            home, group = written.add_home(f"/{who}/{n}"), written.add_group(entry(f"{who}/{n}"))
            if n % 10:
                written.remove_home(home)
                written.remove_group(group)
            else:
                kept.append(home)

    threads = [threading.Thread(target=come_and_go, args=(who,)) for who in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    expected = sorted(f"{who}/{n}" for who in range(8) for n in range(0, 100, 10))
    assert len(set(kept)) == len(kept) == 80
    assert sorted(each.path for each in homes(written)) == [f"/{each}" for each in expected]
    assert sorted(each.name for each in groups(written)) == expected


# What others have written

HEADER = struct.pack("=II", register.VERSION, 2)


@pytest.mark.parametrize("read", [homes, groups])
@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"\1",
        HEADER[:-1],
        struct.pack("=II", 0, 1),
        struct.pack("=II", register.VERSION + 1, 1),
        b"garbage garbage",
    ],
    ids=["empty", "short", "torn", "version 0", "next version", "garbage"],
)
def test_what_is_no_register_of_this_version_is_refused(
    raw: int, text: bytes, read: Callable[[int], list[object]]
) -> None:
    os.pwrite(raw, text, 0)
    with pytest.raises(ValueError, match="not a register, or another version's"):
        read(raw)


def test_a_file_that_ends_too_early_has_what_is_there(raw: int) -> None:
    os.pwrite(raw, HEADER, 0)
    assert homes(raw) == []
    assert groups(raw) == []
    os.pwrite(raw, struct.pack("=Q", 5) + b"/there", PAGE)
    assert homes(raw) == [HomeEntry("/there", 5)]


def test_a_number_of_homes_beyond_all_bounds_is_bounded(raw: int) -> None:
    os.pwrite(raw, struct.pack("=II", register.VERSION, 0xFFFFFFFF), 0)
    os.pwrite(raw, bytes(8) + b"/last", 1024 * PAGE)
    os.pwrite(raw, bytes(8) + b"/no home", GROUPS_AT)
    assert homes(raw) == [HomeEntry("/last", 0)]


def test_a_home_that_was_about_to_be_written_is_none(raw: int) -> None:
    """One pwrite(2) within a page is not torn; if it were, an inode without a path would still be no home."""
    os.pwrite(raw, HEADER, 0)
    os.pwrite(raw, struct.pack("=Q", 5), PAGE)
    os.pwrite(raw, struct.pack("=Q", 6) + b"/second", 2 * PAGE)
    assert homes(raw) == [HomeEntry("/second", 6)]


def test_a_group_at_the_torn_end_of_the_file_is_none_and_those_before_it_are(written: Register) -> None:
    for n in range(3):
        written.add_group(entry(str(n)))
    os.ftruncate(written.fileno(), GROUPS_AT + 2 * 256 + 255)
    assert [each.name for each in groups(written)] == ["0", "1"]


def test_groups_of_garbage_are_read_without_an_error(raw: int) -> None:
    """Their tags are nobody's; what is not a policy is told by `StopPolicy.unpacked()`."""
    os.pwrite(raw, HEADER, 0)
    os.pwrite(raw, b"\xff" * 2560, GROUPS_AT)
    found = groups(raw)
    assert len(found) == 10
    for each in found:
        with pytest.raises(ValueError, match=r"invalid literal|not enough values|too many values|no kill mode"):
            StopPolicy.unpacked(each.policy)
