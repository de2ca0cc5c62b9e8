"""trace=True: what the kernel tells of a command and its descendants."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time

import pytest
from support import leaks
from support.backends import BackendUnderTest
from support.delegation import as_nobody
from support.programs import Started, command

import allgone
from allgone._core.genealogy import Life
from allgone._linux import launcher, processes, procevents, tracer


def python(code: str) -> list[str]:
    return [sys.executable, "-S", "-B", "-c", textwrap.dedent(code)]


def lives(report: allgone.Report | None) -> tuple[Life, ...]:
    """All of them; nothing of it may be lost."""
    assert report is not None
    assert report.genealogy is not None
    assert report.genealogy.lost == 0
    assert report.genealogy.unrecorded == 0
    return report.genealogy.lives


def test_who_started_whom_ran_what_and_ended_how(backend: BackendUnderTest) -> None:
    script = "(exec sleep 0) & (exit 3) & setsid --wait sh -c 'exit 4' & wait; kill -9 $$"
    with backend.Popen(["sh", "-c", script], trace=True) as process:
        process.wait()
    leader, *children = lives(process.report)
    assert (leader.pid, leader.parent, leader.returncode) == (process.pid, os.getpid(), -signal.SIGKILL)
    assert leader.began == 0.0
    assert [each.command for each in leader.execs] == [f"sh -c {script}"]
    assert leader.sessions == ()
    assert [each.parent for each in children] == [leader.pid] * 3
    assert [each.returncode for each in children] == [0, 3, 4]
    assert [len(each.execs) for each in children] == [1, 0, 2]
    assert [len(each.sessions) for each in children] == [0, 0, 1]
    assert all(0 < each.began < each.ended < leader.ended for each in children)  # type: ignore[operator]


@pytest.mark.parametrize("kind", ["compiled", "interpreted"])
def test_with_each_launcher_the_leaders_story_begins_with_its_command(
    backend: BackendUnderTest, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launcher, "kind", lambda: kind)
    report = backend.run(["sh", "-c", "exec sleep 0"], trace=True).report
    (leader,) = lives(report)
    assert leader.execs[0].command == "sh -c exec sleep 0"
    assert (len(leader.execs), leader.sessions) == (2, ())


def test_a_daemon_is_a_descendant(backend: BackendUnderTest) -> None:
    with Started(backend.Popen, command("double_fork_daemon"), trace=True) as started:
        daemon = started["escaped"].pid
        known = {life.pid: life for life in started.process.genealogy().lives}
        assert known[daemon].sessions or known[known[daemon].parent].sessions
        assert known[daemon].ended is None
        assert known[known[daemon].parent].returncode == 0
        if backend.ends_daemons:
            assert {life.pid: life.returncode for life in lives(started.stop())}[daemon] == -signal.SIGTERM


def test_up_to_now_means_that(backend: BackendUnderTest) -> None:
    code = """
        import os
        for line in iter(lambda: os.read(0, 1), b""):
            pid = os.fork()
            if pid == 0:
                os._exit(0)
            os.waitpid(pid, 0)
            os.write(1, b"x")
    """
    with backend.Popen(python(code), stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0, trace=True) as process:
        for n in range(50):
            process.stdin.write(b"x")
            process.stdout.read(1)
            found = process.genealogy()
            assert len(found.lives) == 2 + n
            assert all(life.ended is not None for life in found.lives[1:])
            assert found.lives[0].ended is None


def test_the_end_of_the_leader_is_in_it_as_soon_as_one_knows_of_it() -> None:
    for code in range(30):
        process = allgone.Popen(["sh", "-c", f"exit {code}"], trace=True)
        assert process.wait() == code
        assert process.genealogy().lives[0].returncode == code
        process.stop()


def test_an_end_that_the_kernel_tells_late_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    with allgone.Popen(["sleep", "1000"], trace=True) as process:

        def seems_dead(pid: int) -> bool:
            process.send_signal(signal.SIGKILL)
            return False

        monkeypatch.setattr(processes, "is_alive", seems_dead)
        (leader,) = process.genealogy().lives
        monkeypatch.undo()
        process.kill()
    assert leader.returncode == -signal.SIGKILL


@pytest.mark.parametrize("stop", ["term", "kill"])
def test_how_a_stop_ended_each_is_in_the_report(backend: BackendUnderTest, stop: str) -> None:
    policy = allgone.StopPolicy(timeout_stop=20 if stop == "term" else 0)
    with Started(backend.Popen, command("forking_server"), trace=True, policy=policy) as started:
        found = lives(started.stop())
    expected = -signal.SIGTERM if stop == "term" else -signal.SIGKILL
    assert {life.returncode for life in found} <= {expected, 0}
    assert expected in {life.returncode for life in found}
    assert len(found) > 1


def test_a_process_whose_main_thread_has_ended_lives_on(backend: BackendUnderTest) -> None:
    with Started(backend.Popen, command("zombie_leader"), trace=True) as started:
        assert started.process.genealogy().lives[0].ended is None
        (leader,) = lives(started.stop(allgone.StopPolicy(timeout_stop=0)))
    assert leader.returncode == -signal.SIGKILL


def test_threads_are_no_processes_and_one_of_them_may_exec() -> None:
    code = """
        import os, threading
        def work():
            for _ in range(10):
                thread = threading.Thread(target=lambda: None)
                thread.start()
                thread.join()
            os.execv("/bin/sh", ["sh", "-c", "exit 5"])
        threading.Thread(target=work).start()
        threading.Event().wait(120)
    """
    (leader,) = lives(allgone.run(python(code), trace=True).report)
    assert (leader.returncode, len(leader.execs)) == (5, 2)


def test_a_program_that_was_gone_too_soon_has_its_name_at_most() -> None:
    found = lives(allgone.run(["sh", "-c", "for i in 1 2 3 4 5 6 7 8 9; do /bin/true; done"], trace=True).report)
    assert len(found) == 10
    assert {each.command for life in found[1:] for each in life.execs} <= {"/bin/true", "true", ""}


def test_several_at_a_time_are_told_apart_and_read_by_one_thread() -> None:
    with allgone.Popen(["sh", "-c", "sleep 1000 & echo up; wait"], stdout=subprocess.PIPE, trace=True) as one:
        one.stdout.readline()
        with allgone.Popen(["sh", "-c", "true & true & wait"], trace=True) as two:
            assert [each.name for each in threading.enumerate()].count("allgone-trace") == 1
        assert len(lives(two.report)) == 3
        assert one.genealogy().lives[0].ended is None
        one.stop()
    assert len(lives(one.report)) == 2
    assert tracer._tracer is None
    assert "allgone-trace" not in [each.name for each in threading.enumerate()]


def test_started_by_many_threads_at_once() -> None:
    reports = []

    def work(n: int) -> None:
        for _ in range(5):
            done = allgone.run(["sh", "-c", "true & " * n + "wait"], trace=True)
            reports.append((n, len(lives(done.report))))

    threads = [threading.Thread(target=work, args=(n,)) for n in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(reports) == sorted((n, n + 1) for n in range(1, 5) for _ in range(5))


def test_the_processes_of_a_group_are_traced_each_by_itself(backend: BackendUnderTest) -> None:
    with backend.group() as group:
        one = group.Popen(["sh", "-c", "sleep 1000 & echo up; wait"], stdout=subprocess.PIPE, trace=True)
        one.stdout.readline()
        two = group.Popen(["sleep", "1000"], trace=True)
        three = group.Popen(["sleep", "1000"])
    assert group.report is not None
    assert group.report.genealogy is None
    assert len(one.genealogy().lives) == 2
    assert [life.returncode for life in two.genealogy().lives] == [-signal.SIGTERM]
    with pytest.raises(ValueError, match="without trace=True"):
        three.genealogy()


def test_of_a_group_whose_processes_are_all_traced_there_is_one_genealogy(backend: BackendUnderTest) -> None:
    with backend.group() as group:
        one = group.Popen(["sh", "-c", "sleep 1000 & echo up; wait"], stdout=subprocess.PIPE, trace=True)
        one.stdout.readline()
        before = time.time()
        two = group.Popen(["sh", "-c", "true; echo up; exec sleep 1000"], stdout=subprocess.PIPE, trace=True)
        two.stdout.readline()
    after = time.time()
    assert group.report is not None
    whole = group.report.genealogy
    assert whole is not None
    assert [life.pid for life in whole.lives[:3]] == [one.pid, one.genealogy().lives[1].pid, two.pid]
    assert {life.pid for life in whole.lives} == {life.pid for each in (one, two) for life in each.genealogy().lives}
    assert whole.since == one.genealogy().since
    for each in whole.lives[2:]:
        assert before <= whole.since + each.began <= after
        assert all(before <= whole.since + run.at <= after for run in each.execs)
        assert each.ended is not None


def test_a_fixture_can_be_traced(backend: BackendUnderTest) -> None:
    script = "true & wait; echo up; exec sleep 1000"
    ready = allgone.log_line("up")
    with allgone.process_fixture(["sh", "-c", script], ready=ready, trace=True, **backend.options) as process:
        assert len(process.genealogy().lives) == 2
    assert lives(process.report)[0].returncode == -signal.SIGTERM


def test_what_a_stop_leaves_running_is_watched_on(backend: BackendUnderTest) -> None:
    policy = allgone.StopPolicy(kill_mode="process")
    with Started(backend.Popen, command("forking_server"), trace=True, policy=policy) as started:
        first = lives(started.stop())
        assert first[0].ended is not None
        assert [life.ended for life in first[1:]] == [None] * len(first[1:])
        again = lives(started.stop(allgone.StopPolicy(timeout_stop=0)))
    assert {life.returncode for life in again[1:]} == {-signal.SIGKILL}


def test_the_story_of_an_escapee_ends_where_the_trace_does() -> None:
    with Started(allgone.Popen, command("double_fork_daemon"), trace=True, backend="process-group") as started:
        with pytest.warns(allgone.EscapedProcessWarning):
            report = started.stop()
        assert {life.pid: life.ended for life in lives(report)}[started["escaped"].pid] is None
        assert started["escaped"].is_alive()
        assert started.process.genealogy() == report.genealogy
        assert tracer._tracer is None


def test_nobody_reads_on_when_all_that_was_traced_has_ended() -> None:
    process = allgone.Popen(["true"], trace=True)
    process.wait()
    assert process._traced is not None
    trace = process._traced._trace
    before = process.genealogy()
    trace.tracer._thread.join(30)
    assert not trace.tracer._thread.is_alive()
    assert process.genealogy() == before
    process.stop()


def test_a_command_that_can_t_be_executed_leaves_nothing(backend: BackendUnderTest) -> None:
    with pytest.raises(FileNotFoundError):
        backend.Popen(["no-such-command"], trace=True)
    assert tracer._tracer is None
    assert "allgone-trace" not in [each.name for each in threading.enumerate()]


def test_a_fork_of_the_supervisor_has_nothing_of_it() -> None:
    with allgone.Popen(["sh", "-c", "read x; true & wait"], stdin=subprocess.PIPE, trace=True) as process:
        assert process._traced is not None
        sockets = {os.readlink(f"/proc/self/fd/{process._traced._trace.tracer.subscription.socket.fileno()}")}
        child = os.fork()
        if child == 0:
            status = 1
            try:
                assert not [each for fd, each in leaks._fds() if "comm" in each or each in sockets]
                assert tracer._tracer is None
                options = {"backend": "process-group", "guard": False, "trace": True}
                assert len(lives(allgone.run(["sh", "-c", "true & wait"], **options).report)) == 2
                status = 0
            finally:
                os._exit(status)
        assert os.waitpid(child, 0)[1] == 0
        process.stdin.write(b"\n")
        process.stdin.close()
        process.wait()
    assert len(lives(process.report)) == 2


def test_a_preexec_fn_is_before_the_story() -> None:
    (leader,) = lives(allgone.run(["sleep", "0"], preexec_fn=os.getpid, trace=True).report)
    assert [each.command for each in leader.execs] == ["sleep 0"]


def test_whoever_does_not_trace_pays_nothing() -> None:
    code = """
        import sys, threading, allgone
        allgone.run(["true"])
        assert threading.active_count() == 1
        assert not {"allgone._linux.tracer", "allgone._linux.procevents", "allgone._core.lineage"} & set(sys.modules)
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True)


REFUSED = """
import allgone, os, sys
from allgone._linux import procevents
{before}
try:
    allgone.Popen(["touch", sys.argv[1]], trace=True, backend="process-group")
except allgone.Unsupported as e:
    print(e)
    try:
        print(os.waitpid(-1, os.WNOHANG))
    except ChildProcessError:
        print("nothing was started")
"""


@pytest.mark.parametrize(
    ("namespaces", "before", "why"),
    [
        ("--pid --fork --mount-proc", "", "in a pid namespace of its own"),
        ("--user --map-root-user", "", "in a user namespace of its own"),
        ("--net", "", "in a network namespace of its own"),
        ("--pid --fork --mount-proc", "procevents._INITIAL.clear()", "did not answer"),
    ],
    ids=["pid", "user", "net", "silence"],
)
def test_where_the_kernel_does_not_tell_nothing_is_started(
    namespaces: str, before: str, why: str, tmp_path: os.PathLike[str]
) -> None:
    touched = os.path.join(tmp_path, "touched")
    python = [sys.executable, "-c", REFUSED.format(before=before), touched]
    done = subprocess.run(["unshare", *namespaces.split(), *python], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    reason, started = done.stdout.splitlines()
    assert why in reason
    assert started == "nothing was started"
    assert not os.path.exists(touched)


def test_without_the_connector_in_the_kernel_it_is_said_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(procevents, "_NETLINK_CONNECTOR", 31)  # a netlink family that no kernel has
    with pytest.raises(allgone.Unsupported, match="built without it"):
        allgone.Popen(["true"], trace=True)


def test_an_ordinary_user_is_told_why_or_traces(cgroup_base: str) -> None:
    code = """
import allgone
try:
    print(len(allgone.run(["sh", "-c", "true & wait"], trace=True, backend="process-group").report.genealogy.lives))
except allgone.Unsupported as e:
    print(e)
"""
    said = as_nobody(code, cgroup_base).strip()
    assert said == "2" or "CAP_NET_ADMIN" in said
