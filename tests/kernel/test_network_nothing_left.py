"""network=: whatever becomes of the supervisor, neither the namespace nor the link is left; and where there can't be one."""

from __future__ import annotations

import errno
import os
import random
import signal
import subprocess
import sys
import warnings
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from support import every_point, networks, procfs
from support.backends import BackendUnderTest
from support.delegation import as_nobody
from support.every_point import FAILED, SUCCEEDED, Trial, errors_of
from support.programs import PATIENCE, Started, command
from support.supervisors import Supervisor, say
from support.users import spare_uid

import allgone

BOTH = pytest.mark.parametrize("network", ["private", "veth"])
# Numbers and names as in every_point.ERRORS. Left out is setns: that what could go can come back is tried out before.
OF_NETWORKS = {
    44: ("sendto", (errno.ENOBUFS, errno.ENOMEM)),
    45: ("recvfrom", (errno.ENOMEM,)),
    272: ("unshare", (errno.EPERM, errno.ENOSPC, errno.ENOMEM)),
}


def lives_on(options: dict, network: str) -> None:
    proc = allgone.Popen(["sh", "-c", "sleep 1000 & echo ready $$ $!; wait"], network=network, **options)
    say("started", proc.pid)
    signal.pause()


def started(supervisor: Supervisor, before: set[str]) -> tuple[set[int], networks.Watched]:
    """The pids of what it has started, and an eye on their network."""
    pids = {int(word) for word in supervisor.lines.wait_for("ready").split()[1:]}
    supervisor.lines.wait_for("started")
    new = networks.links() - before
    return pids, networks.Watched(next(iter(pids)), new.pop() if new else None)


@BOTH
def test_of_a_supervisor_that_is_killed(backend: BackendUnderTest, network: str) -> None:
    before = networks.links()
    with Supervisor(lives_on, backend, network) as supervisor:
        _, watched = started(supervisor, before)
        with watched:
            assert len(networks.links() - before) == (network == "veth")
            supervisor.process.kill()
            supervisor.ends()
            assert watched.is_gone()
            assert supervisor.lines.are_over(PATIENCE)
    assert networks.links() <= before


@BOTH
def test_of_a_supervisor_killed_with_its_guard_after_gc(
    backend: BackendUnderTest, network: str, cgroup_base: str
) -> None:
    """With process-group the user ends what gc lists."""
    before = networks.links()
    with Supervisor(lives_on, backend, network) as supervisor:
        pids, watched = started(supervisor, before)
        with watched:
            supervisor.process.send_signal(signal.SIGSTOP)
            every_point.end_guards_of(supervisor.process.pid)
            supervisor.process.kill()
            supervisor.ends()
            assert not watched.is_gone(within=0), "for its members live"
            listed = every_point.gc(cgroup_base if backend.name == "cgroup" else None)
            for pid in pids.intersection(listed):
                procfs.end(pid)
            assert watched.is_gone()
            assert supervisor.lines.are_over(PATIENCE)
    assert networks.links() <= before


def ends_without_a_stop(options: dict, network: str) -> None:
    global left, group  # until the interpreter has ended
    group = allgone.Group(**options)
    args = ["sleep", "1000"]
    left = [allgone.Popen(args, network=network, **options), group.Popen(args, network=network)]
    warnings.simplefilter("ignore", ResourceWarning)
    say("started")


@BOTH
def test_of_a_supervisor_that_ends_without_a_stop(backend: BackendUnderTest, network: str) -> None:
    before = networks.links()
    with Supervisor(ends_without_a_stop, backend, network) as supervisor:
        supervisor.lines.wait_for("started")
        supervisor.succeeds()
        assert supervisor.lines.are_over()
        assert networks.links() <= before


def gives_up_its_rights(options: dict, user: int, go: int) -> None:
    proc = allgone.Popen(["sleep", "1000"], network="veth", user=user, **options)
    say("started")
    os.read(go, 1)
    os.setresuid(user, user, user)
    try:
        proc.connect(8000)
    except PermissionError:
        say("refused")
    proc.stop()
    say("stopped", proc.returncode)


def test_of_a_supervisor_that_has_given_up_its_rights_a_moment_later() -> None:
    """It is no more than to let go of the namespace."""
    before = networks.links()
    process_group = BackendUnderTest("process-group", sweep=False)
    told, tell = os.pipe()
    with Supervisor(gives_up_its_rights, process_group, spare_uid(), told, pass_fds=(told,)) as supervisor:
        os.close(told)
        supervisor.lines.wait_for("started")
        (name,) = networks.links() - before
        with networks.WatchedLink(name) as link:
            os.close(tell)
            supervisor.lines.wait_for("refused")
            assert supervisor.lines.wait_for("stopped") == "stopped -15"
            assert link.is_gone()
        supervisor.succeeds()


def test_but_for_the_namespace_of_an_escapee() -> None:
    before = networks.links()
    started = Started(allgone.Popen, command("setsid_child"), network="veth", backend="process-group")
    with started, networks.Watched(started["escaped"].pid) as watched:
        with pytest.warns(allgone.EscapedProcessWarning):
            started.stop()
        assert networks.links() <= before
        assert not watched.is_gone(within=0)
        started["escaped"].end()
        assert watched.is_gone()


@pytest.mark.timeout(600)
def test_of_a_supervisor_killed_at_any_system_call(backend: BackendUnderTest, cgroup_base: str) -> None:
    base = cgroup_base if backend.name == "cgroup" else None
    with closing(Trial(backend, base, network="veth")) as trial:
        every_point.warm_up(trial.live)
        stops = every_point.stops_of(trial.live)
        assert not trial.nothing_is_left()
    for stop in random.sample(range(1, stops + 1), 8):
        before = networks.links()
        with closing(Trial(backend, base, network="veth")) as trial:
            every_point.killed_at(trial.live, stop)
            left = trial.nothing_is_left()
        assert not left, f"killed at stop {stop} of {stops}: {left}"
        assert links_go(before), f"killed at stop {stop} of {stops}"


@pytest.mark.timeout(600)
def test_of_a_supervisor_whose_system_calls_fail(
    backend: BackendUnderTest, cgroup_base: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = cgroup_base if backend.name == "cgroup" else None
    for number, entry in OF_NETWORKS.items():
        monkeypatch.setitem(every_point.ERRORS, number, entry)
    with closing(Trial(backend, base, network="veth")) as trial:
        every_point.warm_up(trial.live)
        calls = every_point.calls_of(trial.live_with_errors)
        assert not trial.nothing_is_left()
    points = [
        (call, sum(each == call for each, _ in calls[:at]) + 1, code)
        for at, (call, first) in enumerate(calls)
        if call in OF_NETWORKS or call == 41
        for code in errors_of(call, first)
    ]
    assert {call for call, *_ in points} == {*OF_NETWORKS, 41}
    results = []
    for call, nth, code in random.sample(points, min(len(points), 15)):
        before = networks.links()
        with closing(Trial(backend, base, network="veth")) as trial:
            result = None
            while result is None and nth:
                result = every_point.failed_at(trial.live_with_errors, call, nth, code)
                nth //= 2  # in this life were fewer
            results.append(result)
            left = trial.nothing_is_left()
        what = f"{every_point.ERRORS[call][0]} number {nth}, {errno.errorcode[code]}: exit code {results[-1]}, {left}"
        assert not left, what
        assert results[-1] in (SUCCEEDED, FAILED), what
        assert links_go(before), what
    assert FAILED in results


def links_go(before: set[str]) -> bool:
    """Wait until there are none that were not there before."""
    for name in networks.links() - before:
        try:
            with networks.WatchedLink(name) as link:
                if not link.is_gone():
                    return False
        except OSError:
            continue  # gone meanwhile
    return True


# Where there can be none

REFUSED = """
import allgone, os, socket
before = os.listdir("/proc/self/fd"), os.readlink("/proc/self/ns/net"), socket.if_nameindex()
for network in ("private", "veth"):
    try:
        allgone.Popen(["echo", "started"], network=network, backend="process-group")
    except allgone.Unsupported as e:
        print(network, e)
    else:
        print(network, "works")
    allgone.run(["true"], backend="process-group")
    assert (os.readlink("/proc/self/ns/net"), socket.if_nameindex()) == before[1:]
assert len(os.listdir("/proc/self/fd")) - len(before[0]) <= 2  # to the guard
"""
WORKING = REFUSED.replace('"echo", "started"', '"true"').replace("        allgone.Popen", "        allgone.run")


def refused(*before: str, code: str = REFUSED) -> list[str]:
    """What a supervisor started with this in front of it says of private and of veth."""
    done = subprocess.run(
        [*before, sys.executable, "-W", "error::ResourceWarning", "-c", code], capture_output=True, text=True,
        timeout=2 * PATIENCE,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_an_ordinary_user_is_told_what_it_takes(cgroup_base: str) -> None:
    for line, network in zip(as_nobody(REFUSED, cgroup_base).splitlines(), ("private", "veth"), strict=True):
        assert line.startswith(f"{network} no network namespace can be made: it takes CAP_SYS_ADMIN")
        assert "unshare --user --map-root-user --net" in line


def test_that_remedy_is_one() -> None:
    before = ("unshare", "--user", "--map-root-user", "--net")
    assert refused(*before, code=WORKING) == ["private works", "veth works"]


def test_who_could_go_and_never_come_back_does_not_go() -> None:
    """Root in a user namespace, and its network is another's."""
    lines = refused("unshare", "--user", "--map-root-user")
    assert ["also over the network that the supervisor is in" in line for line in lines] == [True, True]


def test_without_cap_net_admin() -> None:
    lines = refused("setpriv", "--bounding-set=-net_admin")
    assert ["it takes CAP_SYS_ADMIN and CAP_NET_ADMIN" in line for line in lines] == [True, True]


def test_a_limit_that_is_reached_is_named() -> None:
    limited = 'echo 1 >/proc/sys/user/max_net_namespaces; exec "$@"'
    lines = refused("unshare", "--user", "--map-root-user", "--net", "sh", "-c", limited, "sh")
    assert ["user.max_net_namespaces" in line for line in lines] == [True, True]


def test_sysctls_that_are_read_only_as_in_containers_are_no_matter() -> None:
    read_only = 'mount --bind /proc/sys /proc/sys && mount -o remount,bind,ro /proc/sys && exec "$@"'
    assert refused("unshare", "--mount", "sh", "-c", read_only, "sh", code=WORKING) == ["private works", "veth works"]


def test_a_kernel_without_veth_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from allgone._linux import veth

    def refuses(*_: Any) -> None:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    monkeypatch.setattr(veth, "_change", refuses)
    before = networks.own()
    with pytest.raises(allgone.Unsupported, match="no veth pair can be made: this kernel has no veth"):
        allgone.Popen(["true"], network="veth")
    assert networks.own() == before


def test_nothing_is_imported_for_those_without_a_network(tmp_path: Path) -> None:
    code = "import allgone, sys; allgone.run(['true']); print({'pyroute2', 'ctypes', 'socket', 'allgone._linux.netns'} & {*sys.modules})"
    assert refused(code=code) == ["set()"]
    private = code.replace("['true']", "['true'], network='private'").replace(
        "'ctypes', 'socket', 'allgone._linux.netns'", ""
    )
    assert refused(code=private) == ["set()"]
