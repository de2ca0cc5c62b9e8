"""Where cgroup v2 is, read from the texts that the kernel gives, real ones and odd ones."""

from __future__ import annotations

import pytest

from allgone._linux.cgroupfs import Mount, directory, mounts, own_cgroup

PURE = "35 24 0:30 / /sys/fs/cgroup rw,nosuid,nodev,noexec,relatime shared:9 - cgroup2 cgroup2 rw,nsdelegate"
HYBRID = """\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw"""
CONTAINER = "1 2 0:30 /docker/3f2a /sys/fs/cgroup ro,nosuid,nodev,noexec,relatime - cgroup2 cgroup rw"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (PURE, [Mount("/sys/fs/cgroup", "/", True)]),
        (HYBRID, [Mount("/sys/fs/cgroup/unified", "/", True)]),
        (CONTAINER, [Mount("/sys/fs/cgroup", "/docker/3f2a", False)]),
        (HYBRID.replace("cgroup2 cgroup2 rw", "cgroup2 cgroup2 ro"), [Mount("/sys/fs/cgroup/unified", "/", False)]),
        (f"{PURE}\n{CONTAINER}", [Mount("/sys/fs/cgroup", "/", True), Mount("/sys/fs/cgroup", "/docker/3f2a", False)]),
        ("1 2 0:30 /.. /sys/fs/cgroup rw - cgroup2 cgroup rw", [Mount("/sys/fs/cgroup", "/..", True)]),
        ("32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu", []),
        ("1 2 8:1 / /mnt/cgroup2 rw - ext4 /dev/cgroup2 rw", []),
        ("", []),
    ],
)  # fmt: skip
def test_cgroup2_mounts_are_found_and_others_are_not(text: str, expected: list[Mount]) -> None:
    assert mounts(text) == expected


@pytest.mark.parametrize(
    ("written", "point"),
    [
        (r"/mnt/my\040cgroups", "/mnt/my cgroups"),
        (r"/mnt/a\011b\012c", "/mnt/a\tb\nc"),
        (r"/mnt/back\134slash", "/mnt/back\\slash"),
        ("/mnt/form\x0cfeed\x85and\u2028more", "/mnt/form\x0cfeed\x85and\u2028more"),
        (r"/mnt/not\134040an\134012escape", r"/mnt/not\040an\012escape"),
        ("/mnt/a#b", "/mnt/a#b"),
    ],
)
def test_an_odd_mount_point_is_unescaped_once(written: str, point: str) -> None:
    assert mounts(f"1 2 0:30 / {written} rw shared:1 master:2 - cgroup2 cgroup2 rw")[0].point == point


def test_optional_fields_of_any_number_are_skipped() -> None:
    for optional in ("", "shared:1 ", "shared:1 master:2 propagate_from:3 unbindable "):
        assert mounts(f"1 2 0:30 / /c rw {optional}- cgroup2 none rw") == [Mount("/c", "/", True)]


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("0::/user.slice/user-1000.slice/session-3.scope\n", "/user.slice/user-1000.slice/session-3.scope"),
        ("4:memory:/x\n1:name=systemd:/y\n0::/z\n", "/z"),
        ("0::/\n", "/"),
        ("0::/../x\n", "/../x"),
        ("0::/a/b (deleted)\n", "/a/b"),
        ("0::/a:b::c\n", "/a:b::c"),
        ("0::/with blank\n", "/with blank"),
        ("1:name=systemd:/a\x0c0::/not-ours\n0::/ours\u2028and more\n", "/ours\u2028and more"),
        ("10::/x\n4:memory:/x\n", None),
        ("", None),
    ],
)
def test_own_cgroup_is_the_line_of_hierarchy_0(text: str, path: str | None) -> None:
    assert own_cgroup(text) == path


@pytest.mark.parametrize(
    ("mount", "path", "folder"),
    [
        (Mount("/sys/fs/cgroup", "/", True), "/a/b", "/sys/fs/cgroup/a/b"),
        (Mount("/sys/fs/cgroup", "/", True), "/", "/sys/fs/cgroup"),
        (Mount("/sys/fs/cgroup", "/docker/3f2a", True), "/docker/3f2a/x", "/sys/fs/cgroup/x"),
        (Mount("/sys/fs/cgroup", "/docker/3f2a", True), "/docker/3f2a", "/sys/fs/cgroup"),
        (Mount("/sys/fs/cgroup", "/docker/3f2a", True), "/docker/3f2abc", None),
        (Mount("/sys/fs/cgroup", "/docker/3f2a", True), "/", None),
        (Mount("/sys/fs/cgroup", "/", True), "/../x", None),
        (Mount("/sys/fs/cgroup", "/..", True), "/", None),
        (Mount("/sys/fs/cgroup", "/", True), "/a..b", "/sys/fs/cgroup/a..b"),
        (Mount("/odd mount", "/", True), "/a", "/odd mount/a"),
    ],
)
def test_directory_of_a_cgroup_only_where_the_mount_shows_it(mount: Mount, path: str, folder: str | None) -> None:
    assert directory(mount, path) == folder
