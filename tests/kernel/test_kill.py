"""cgroup.kill, and the processes that one write of it is known to miss or that look dead and are not."""

from __future__ import annotations

import os
import signal
import subprocess
import time

import pytest
from support.cgroupv2 import Start, folder_of, read, says, write
from support.programs import Started, command

import allgone
from allgone import CgroupBackend, StopPolicy
from allgone._linux import cgroupfs, processes

AT_ONCE = StopPolicy(timeout_stop=0)
POLITE = StopPolicy(timeout_stop=20)


@pytest.fixture
def zombie_leader(cgroups: CgroupBackend) -> Started:
    """A process whose main thread has ended while another one runs."""
    with Started(allgone.Popen, command("zombie_leader"), backend=cgroups) as started:
        assert processes.stat(started.process.pid).state == "Z"  # type: ignore[union-attr]
        yield started


def test_one_write_of_cgroup_kill_misses_a_process_whose_main_thread_has_ended(zombie_leader: Started) -> None:
    folder = folder_of(zombie_leader)
    write(folder, "cgroup.kill", "1")
    if zombie_leader["leader"].ends_within(0.1):
        pytest.skip("this kernel's cgroup.kill does not miss it: the tests below hold all the same")
    write(folder, "cgroup.kill", "1")
    assert not zombie_leader["leader"].ends_within(0.1)
    assert says(folder, "populated")


@pytest.mark.parametrize("policy", [AT_ONCE, StopPolicy(timeout_stop=0.05), POLITE], ids=str)
def test_stop_ends_a_process_whose_main_thread_has_ended(zombie_leader: Started, policy: StopPolicy) -> None:
    began = time.monotonic()
    zombie_leader.stop(policy)
    assert zombie_leader.all_gone()
    assert time.monotonic() - began < 5


def test_a_process_whose_main_thread_has_ended_is_a_member_and_its_leader_has_not_ended(zombie_leader: Started) -> None:
    assert zombie_leader.process.members() == {zombie_leader.process.pid}
    assert zombie_leader.process.poll() is None


def test_an_ended_leader_that_is_unreaped_does_not_count(cgroups: CgroupBackend) -> None:
    process = allgone.Popen(["true"], backend=cgroups)
    folder = process._containment.where()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert processes.stat(process.pid).state == "Z"  # type: ignore[union-attr]
    assert not says(folder, "populated")
    assert process.members() == frozenset()
    assert cgroupfs.remove(folder)
    assert processes.stat(process.pid).state == "Z"  # type: ignore[union-attr]
    assert process.wait() == 0


def test_empty_and_reaped_are_two_things_and_stop_takes_care_of_both(cgroups: CgroupBackend) -> None:
    process = allgone.Popen(["sleep", "1000"], backend=cgroups)
    process.stop(AT_ONCE)
    assert not os.path.exists(process._containment.where())
    assert processes.stat(process.pid) is None


STOPPED = "import os, signal; from unruly import *\nhere('leader'); ready()\nos.kill(os.getpid(), signal.SIGSTOP)"
TRACED = """
import ctypes, os, signal
from unruly import *
def trace_me():
    ctypes.CDLL(None).ptrace(0, 0, 0, 0)  # PTRACE_TRACEME
    os.kill(os.getpid(), signal.SIGSTOP)
    sleep_on()
here('leader')
tracee = fork() or trace_me()
os.waitpid(tracee, 0)  # it is in a ptrace stop now, and nobody will continue it
say('tracee', tracee)
ready()
sleep_on()
"""
# clone() with CLONE_VFORK alone: not on shared memory, but the caller waits, uninterruptibly, as in vfork().
VFORKED = """
import ctypes, os, platform, signal
from unruly import *
here('leader')
clone = {'x86_64': 56, 'aarch64': 220, 'riscv64': 220}[platform.machine()]
if ctypes.CDLL(None).syscall(clone, 0x4000 | signal.SIGCHLD, 0, 0, 0, 0) == 0:
    bounded()
    while open(f'/proc/{os.getppid()}/stat').read().rsplit(')', 1)[1].split()[0] != 'D':
        pass
    here('child')
    ready()
    sleep_on()
"""


@pytest.mark.parametrize("text", [STOPPED, TRACED, VFORKED], ids=["stopped", "ptrace-stopped", "waiting in vfork"])
@pytest.mark.parametrize("policy", [AT_ONCE, StopPolicy(timeout_stop=0.05)], ids=["at once", "asked first"])
def test_a_member_that_cannot_run_is_killed(start: Start, text: str, policy: StopPolicy) -> None:
    started = start(text)
    began = time.monotonic()
    started.stop(policy)
    assert started.all_gone()
    assert time.monotonic() - began < 5


def test_a_member_waiting_in_vfork_is_in_uninterruptible_sleep(start: Start) -> None:
    assert processes.stat(start(VFORKED).process.pid).state == "D"  # type: ignore[union-attr]


def test_a_stopped_member_acts_on_sigterm(start: Start) -> None:
    text = "import os, signal, sys; from unruly import *\nsignal.signal(15, lambda *_: (say('heard'), os._exit(7)))\n"
    started = start(text + STOPPED)
    os.waitid(os.P_PID, started.process.pid, os.WSTOPPED | os.WNOWAIT)
    assert started.stop(POLITE).returncode == 7


@pytest.fixture
def threaded(start: Start) -> tuple[Started, str]:
    """A process with a thread in a threaded cgroup that it has made itself; that cgroup."""
    started = start("""
import os, threading
from unruly import *
here('leader')
def move():
    folder = own_cgroup() + '/threaded'
    os.mkdir(folder)
    open(folder + '/cgroup.type', 'w').write('threaded')
    open(folder + '/cgroup.threads', 'w').write(str(threading.get_native_id()))
    ready()
    threading.Event().wait()
threading.Thread(target=move, daemon=True).start()
sleep_on()
""")
    return started, f"{folder_of(started)}/threaded"


def test_a_threaded_cgroup_does_not_tell_its_processes(threaded: tuple[Started, str]) -> None:
    _, folder = threaded
    with pytest.raises(OSError, match="not supported"):
        read(folder, "cgroup.procs")


def test_a_process_with_a_thread_in_a_threaded_cgroup_is_found_and_stopped(threaded: tuple[Started, str]) -> None:
    started, folder = threaded
    assert cgroupfs.procs(folder) == {started.process.pid}
    assert started.process.members() == {started.process.pid}
    report = started.stop(POLITE)
    assert report.returncode == -signal.SIGTERM
    assert not os.path.exists(folder)


def test_a_process_with_a_thread_in_a_threaded_cgroup_is_killed(threaded: tuple[Started, str]) -> None:
    assert threaded[0].stop(AT_ONCE).returncode == -signal.SIGKILL


def test_cgroup_kill_reaches_what_has_called_setsid_forked_twice_and_lost_its_parent(cgroups: CgroupBackend) -> None:
    with Started(allgone.Popen, command("double_fork_daemon"), backend=cgroups) as started:
        write(folder_of(started), "cgroup.kill", "1")
        assert started.lines.are_over(within=10)
        started.process.wait()


def test_a_process_in_nobodys_cgroup_is_not_touched(cgroups: CgroupBackend) -> None:
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as stranger:
        process = allgone.Popen(["sleep", "1000"], backend=cgroups)
        containment = process._containment
        assert not cgroupfs.signal_member(containment.where(), containment._mount, stranger.pid, (signal.SIGKILL,))
        process.stop()
        assert stranger.poll() is None
        stranger.communicate()
