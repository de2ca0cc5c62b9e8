"""What the launchers hand over unchanged, what they report, and what they do before the command."""

from __future__ import annotations

import errno
import os
import resource
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any

import pytest
from support import procfs
from support.launchers import Launcher

from allgone._linux import fds
from allgone._linux import launcher as launcher_module
from allgone._linux.launcher import ENTER, EXEC, SOCKETS, TAG, USAGE, WAIT, Failure
from allgone._linux.processes import RLIMIT_LOCKS

SHOW_SIGNALS = ["grep", "-E", "Sig(Blk|Ign|Cgt)", "/proc/self/status"]
OWN_TAG = (1 << 61 | 5, 1 << 62 | 7)


def plain(argv: list[Any], **how: Any) -> bytes:
    return subprocess.run(argv, stdout=subprocess.PIPE, check=True, **how).stdout


def launched(launcher: Launcher, argv: list[Any], **how: Any) -> bytes:
    done = launcher.run(argv, **how)
    assert (done.failure, done.returncode, done.errors) == (None, 0, b"")
    return done.output


# What is handed over unchanged


@pytest.mark.parametrize(
    "words",
    [
        ["", "", "x", ""],
        ["a b", "a\tb", "a\nb", "'", '"', "\\", "$x", "*"],
        [bytes(range(1, 256))],
        ["ä€😀", b"\xff\xfe\x80"],
        ["x" * 100_000],
        ["x" * 131_071],  # MAX_ARG_STRLEN: 32 pages, the closing 0 included
        ["-", "-I", "--", "-c"],
        ["y"] * 2_000,
    ],
    ids=lambda words: repr(words)[:20],
)
def test_arguments_arrive_unchanged(launcher: Launcher, words: list[Any]) -> None:
    argv = ["sh", "-c", "cat /proc/$$/cmdline", *words]
    assert launched(launcher, argv) == b"".join(os.fsencode(word) + b"\0" for word in argv)


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"PATH": "/bin", "HOME": "/"},
        {"EMPTY": ""},
        {b"\xff\xfe": b"\xfd\n", b"ODD NAME.-": b"=x="},
        {"NEWLINE": "a\nb", "BIG": "x" * 100_000},
        {"LANG": "C", "LC_ALL": ""},
        {"LC_ALL": "C.UTF-8", "PYTHONHOME": "/nonexistent", "PYTHONSTARTUP": "x", "PYTHONVERBOSE": "1"},
        {"LD_PRELOAD": ""},
    ],
    ids=lambda environment: repr(environment)[:30],
)
def test_the_environment_arrives_unchanged(launcher: Launcher, environment: dict[Any, Any]) -> None:
    argv = ["/bin/cat", "/proc/self/environ"]
    pairs = {os.fsencode(name): os.fsencode(value) for name, value in environment.items()}
    expected = b"".join(name + b"=" + value + b"\0" for name, value in pairs.items())
    arrived = launched(launcher, argv, env=environment)
    if launcher.emulated:  # qemu turns the order round
        assert sorted(arrived.split(b"\0")) == sorted(expected.split(b"\0"))
    else:
        assert arrived == expected


def test_even_an_environment_that_makes_no_sense_arrives_unchanged(native_launcher: Launcher) -> None:
    launcher = native_launcher
    # Only execve() itself can make one: a word without "=", doubles, an empty name.
    odd = b"WORD\0A=1\0A=2\0=C:=x\0PATH=/bin\0PATH=/nonexistent\0"
    make_odd = (
        "import ctypes, os, sys\n"
        "def array(words): return (ctypes.c_char_p * (len(words) + 1))(*words)\n"
        f"odd = {odd!r}.split(b'\\0')[:-1]\n"
        "ctypes.CDLL(None).execve(os.fsencode(sys.argv[1]), array([os.fsencode(w) for w in sys.argv[2:]]), array(odd))"
    )
    with launcher_module.prefix(status=None) as prefix:
        before = launcher.in_front(prefix)
    words = [before.executable, *before.argv, "cat", "cat", "/proc/self/environ"]
    assert plain([launcher_module.sys.executable, "-c", make_odd, *words]) == odd


@pytest.mark.parametrize("restore_signals", [True, False])
def test_signal_dispositions_and_mask_arrive(native_launcher: Launcher, restore_signals: bool) -> None:
    launcher = native_launcher
    blocked = {signal.SIGUSR1, signal.SIGTERM, signal.SIGRTMIN + 3}
    hup = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, blocked)
    try:
        expected = plain(SHOW_SIGNALS, restore_signals=restore_signals)
        assert launched(launcher, SHOW_SIGNALS, restore_signals=restore_signals) == expected
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        signal.signal(signal.SIGHUP, hup)
    ignored = int(expected.split(b"SigIgn:\t")[1].split()[0], 16)
    assert bool(ignored >> (signal.SIGPIPE - 1) & 1) is not restore_signals
    assert ignored >> (signal.SIGHUP - 1) & 1


def test_a_supervisor_that_does_not_ignore_sigpipe_hands_that_on(launcher: Launcher) -> None:
    before = {each: signal.signal(each, signal.SIG_DFL) for each in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT)}
    try:
        expected = plain(SHOW_SIGNALS, restore_signals=False)
        assert launched(launcher, SHOW_SIGNALS, restore_signals=False) == expected
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
    assert b"SigIgn:\t0000000000000000" in expected


def test_no_fd_of_the_launchers_reaches_the_command(launcher: Launcher) -> None:
    reader, writer = fds.pipe()
    os.write(writer, b"!")
    try:
        options = {"wait": reader, "tag": OWN_TAG}
        assert launched(launcher, ["ls", "/proc/self/fd"], options=options) == plain(["ls", "/proc/self/fd"])
    finally:
        os.close(reader)
        os.close(writer)


def test_fds_that_the_user_passes_do_reach_it(launcher: Launcher) -> None:
    reader, writer = fds.pipe()
    try:
        show = ["ls", "/proc/self/fd"]
        assert launched(launcher, show, pass_fds=(reader,)) == plain(show, pass_fds=(reader,))
    finally:
        os.close(reader)
        os.close(writer)


def test_sockets_become_fds_3_and_4_and_the_pid_is_told(launcher: Launcher) -> None:
    """Its own fds, which may have these numbers, are out of the way."""
    show = ["sh", "-c", 'readlink /proc/self/fd/3 /proc/self/fd/4; [ "$LISTEN_PID" = $$ ] && [ "$WATCHDOG_PID" = $$ ]']
    environment = {**os.environ, "LISTEN_PID": launcher_module.OWN_PID, "WATCHDOG_PID": launcher_module.OWN_PID}
    with socket.socket() as one, socket.socket() as two:
        copies = [fds.copy(each.fileno(), 5) for each in (one, two)]
        try:
            names = "".join(f"socket:[{os.fstat(fd).st_ino}]\n" for fd in copies)
            done = launcher.run(show, options={"sockets": copies}, env=environment)
        finally:
            for fd in copies:
                os.close(fd)
    assert (done.failure, done.output.decode(), done.returncode) == (None, names, 0)


def test_without_sockets_the_environment_stays_as_it_is(launcher: Launcher) -> None:
    show = ["sh", "-c", "echo $LISTEN_PID"]
    assert launched(launcher, show, env={**os.environ, "LISTEN_PID": "0000000000"}) == b"0000000000\n"


@pytest.mark.parametrize("word", ["=x,", "=3", "=,", "=999999,"])
def test_bad_sockets_are_reported(launcher: Launcher, monkeypatch: pytest.MonkeyPatch, word: str) -> None:
    in_front = Launcher.in_front

    def with_bad_sockets(self: Launcher, before: Any) -> Any:
        made = in_front(self, before)
        return type(made)(made.executable, (*made.argv[:-1], word), made.pass_fds)

    monkeypatch.setattr(Launcher, "in_front", with_bad_sockets)
    done = launcher.run(["echo", "ran"])
    assert done.failure is not None
    assert done.failure.stage in (USAGE, SOCKETS)
    assert done.output == b""


def test_the_working_directory_and_umask_arrive(launcher: Launcher, tmp_path: Path) -> None:
    show = ["sh", "-c", "pwd -P; umask"]
    assert launched(launcher, show, cwd=tmp_path, umask=0o027) == f"{tmp_path}\n0027\n".encode()


def test_the_process_stays_the_same(launcher: Launcher) -> None:
    reader, writer = fds.pipe()
    with launcher.start(["sh", "-c", "echo $$ $PPID"], status=writer, stdout=subprocess.PIPE) as process:
        os.close(writer)
        os.close(reader)
        assert process.communicate()[0] == f"{process.pid} {os.getpid()}\n".encode()


# What is reported


@pytest.mark.parametrize(
    ("command", "options", "expected"),
    [
        ("/nonexistent", {}, Failure(EXEC, errno.ENOENT)),
        ("/etc/passwd", {}, Failure(EXEC, errno.EACCES)),
        ("/dev/null/x", {}, Failure(EXEC, errno.ENOTDIR)),
        ("true", {"tag": (2, 1)}, Failure(TAG, errno.EINVAL)),
    ],
)
def test_failure_is_reported_with_stage_and_errno(
    launcher: Launcher, command: str, options: dict[str, Any], expected: Failure
) -> None:
    done = launcher.run([command], options=options)
    assert (done.failure, done.returncode, done.output, done.errors) == (expected, 125, b"", b"")


def test_a_cgroup_that_cannot_be_entered_is_reported_and_the_command_not_run(launcher: Launcher) -> None:
    with open("/dev/null", "rb") as not_writable:
        done = launcher.run(["echo", "ran"], options={"procs": not_writable.fileno()})
    assert (done.failure, done.output) == (Failure(ENTER, errno.EBADF), b"")


def test_a_full_device_in_place_of_the_cgroup_is_reported(launcher: Launcher) -> None:
    with open("/dev/full", "wb", buffering=0) as full:
        done = launcher.run(["echo", "ran"], options={"procs": full.fileno()})
    assert (done.failure, done.output) == (Failure(ENTER, errno.ENOSPC), b"")


@pytest.mark.parametrize("word", ["999999", "x", "", "3x", "-1"])
def test_a_bad_fd_argument_is_reported(launcher: Launcher, monkeypatch: pytest.MonkeyPatch, word: str) -> None:
    in_front = Launcher.in_front

    def with_bad_fd(self: Launcher, before: Any) -> Any:
        made = in_front(self, before)
        argv = list(made.argv)
        argv[-4] = word  # WAIT, of STATUS PROCS WAIT SELF TAG SOCKETS
        return type(made)(made.executable, tuple(argv), made.pass_fds)

    monkeypatch.setattr(Launcher, "in_front", with_bad_fd)
    done = launcher.run(["echo", "ran"])
    assert done.failure is not None
    assert (done.failure.stage, done.output) == (USAGE, b"")
    assert done.failure.error == (errno.EBADF if word == "999999" else errno.EINVAL) or word == "-1"


@pytest.mark.usefixtures("searchable_path")
@pytest.mark.parametrize(
    ("command", "status", "message"),
    [
        ("/nonexistent", 127, "cannot execute: /nonexistent: errno 2"),
        ("no-such-command", 127, "cannot execute: no-such-command: errno 2"),
        ("/etc/passwd", 126, "cannot execute: /etc/passwd: errno 13"),
        ("/dev/null/x", 126, "cannot execute: /dev/null/x: errno 20"),
    ],
)
def test_without_a_status_fd_it_speaks_and_exits_as_env_does(
    launcher: Launcher, command: str, status: int, message: str
) -> None:
    with launcher.start([command], stderr=subprocess.PIPE) as process:
        assert process.communicate()[1].decode() == f"allgone-launch: {message}\n"
    assert process.returncode == status


def test_without_a_status_fd_its_own_failure_is_125(launcher: Launcher) -> None:
    with launcher.start(["true"], stderr=subprocess.PIPE, options={"tag": (2, 1)}) as process:
        assert process.communicate()[1].decode() == "allgone-launch: cannot tag: 2:1: errno 22\n"
    assert process.returncode == 125


def test_without_a_status_fd_a_good_command_runs(launcher: Launcher) -> None:
    with launcher.start(["sh", "-c", "exit 7"]) as process:
        assert process.wait() == 7


# The fd to wait for


@contextmanager
def waiting(launcher: Launcher, argv: list[Any]) -> Iterator[tuple[subprocess.Popen[bytes], IO[bytes], int]]:
    """The process while it waits, the end to tell it to go on, and the end where its failure can be read."""
    with ExitStack() as stack:
        go_reader, go, status, status_writer = (
            os.fdopen(fd, mode, 0) for fd, mode in zip((*fds.pipe(), *fds.pipe()), ("rb", "wb") * 2, strict=True)
        )
        for each in (go_reader, go, status, status_writer):
            stack.callback(each.close)
        process = launcher.start(
            argv, status=status_writer.fileno(), options={"wait": go_reader.fileno()}, stdout=subprocess.PIPE
        )
        status_writer.close()
        with process:
            while not reads_from(process.pid, go_reader.fileno()):
                assert process.poll() is None
            yield process, go, status.fileno()
            go.close()


def reads_from(pid: int, fd: int) -> bool:
    """Whether it is in read(2) from that fd now."""
    with open(f"/proc/{pid}/syscall", encoding="ascii") as f:
        words = f.read().split()
    return len(words) > 1 and words[1] == hex(fd) and procfs.state(pid) == "S"


def test_a_byte_lets_it_go_on(launcher: Launcher) -> None:
    with waiting(launcher, ["echo", "ran"]) as (process, go, status):
        go.write(b"!")
        assert launcher_module.outcome(status).failure is None
        assert process.communicate()[0] == b"ran\n"


def test_end_of_file_means_that_the_command_never_runs(launcher: Launcher) -> None:
    with waiting(launcher, ["echo", "ran"]) as (process, go, status):
        go.close()
        assert launcher_module.outcome(status).failure == Failure(WAIT, errno.EPIPE)
        assert process.communicate()[0] == b""
    assert process.returncode == 125


def test_stop_and_continue_do_not_let_it_go_on(launcher: Launcher) -> None:
    with waiting(launcher, ["echo", "ran"]) as (process, go, status):
        process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED)
        process.send_signal(signal.SIGCONT)
        os.waitid(os.P_PID, process.pid, os.WCONTINUED)
        go.write(b"!")
        assert launcher_module.outcome(status).failure is None
        assert process.communicate()[0] == b"ran\n"


def test_a_launcher_killed_while_it_waits_ran_nothing(launcher: Launcher) -> None:
    with waiting(launcher, ["echo", "ran"]) as (process, _, status):
        process.kill()
        assert launcher_module.outcome(status).failure is None
        assert process.communicate()[0] == b""
    assert process.returncode == -signal.SIGKILL


def test_nobody_left_to_report_to_is_not_a_reason_to_speak(launcher: Launcher) -> None:
    reader, writer = fds.pipe()
    os.close(reader)
    try:
        with launcher.start(["/nonexistent"], status=writer, stderr=subprocess.PIPE) as process:
            assert process.communicate()[1] == b""
    finally:
        os.close(writer)
    assert process.returncode in (125, -signal.SIGPIPE)


# The tag


def test_the_tag_is_inherited_through_fork_setsid_and_exec(launcher: Launcher) -> None:
    show = ["setsid", "--fork", "--wait", "sh", "-c", "grep 'file locks' /proc/self/limits"]
    line = launched(launcher, show, options={"tag": OWN_TAG}).split()
    assert [int(word) for word in line[3:5]] == list(OWN_TAG)


def test_a_command_of_a_supervisor_that_was_gone_before_the_tag_was_there_does_not_run(launcher: Launcher) -> None:
    """Whoever has ended what it left has looked for the tag already."""
    reader, writer = fds.pipe()
    os.close(reader)
    try:
        options = {"tag": OWN_TAG}
        with launcher.start(["echo", "ran"], status=writer, stdout=subprocess.PIPE, options=options) as process:
            assert process.communicate()[0] == b""
    finally:
        os.close(writer)
    assert process.returncode in (125, -signal.SIGPIPE)


def test_without_a_tag_the_limit_stays(launcher: Launcher) -> None:
    with launcher.start(["cat"], stdin=subprocess.PIPE) as process:
        assert resource.prlimit(process.pid, RLIMIT_LOCKS) == resource.getrlimit(RLIMIT_LOCKS)
        process.communicate()
