"""The launcher where there is no compiled one: the same arguments and reports as src/launcher/launcher.c.

Run as ``python -I -S -c <this file> IGNORED STATUS CGROUP WAIT SELF TAG SOCKETS EXECUTABLE [ARGV...]``; IGNORED lists
the signals to leave ignored, for Python ignores SIGPIPE and SIGXFSZ when it starts. Not a shell script, because a POSIX
shell can't do it: dash takes no fd above 9, none can mark one close-on-exec, report an errno, set argv[0], or
pass on an environment untouched (tests/unit/test_why_not_sh.py shows each).
"""

import os
import resource
import select
import sys

try:
    import _signal as signal  # without the enums of signal, whose import takes a third of the whole launch
except ImportError:
    import signal

BEFORE = 6  # python, -I, -S, -c, this text, IGNORED
USAGE, TAG, ENTER, WAIT, EXEC, BORN, SEAL, SOCKETS = range(8)
DOING = (
    "bad arguments", "cannot tag", "cannot enter the cgroup", "supervisor is gone", "cannot execute", "",
    "cannot seal in", "cannot hand over the sockets",
)  # fmt: skip
EINVAL, EPIPE = 22, 32


def raw(path):
    with open(path, "rb") as f:
        return f.read().split(b"\0")[:-1]


def launch():
    status, stage, what = None, USAGE, b"STATUS CGROUP WAIT SELF TAG SOCKETS EXECUTABLE [ARGV...]"
    try:
        # From the kernel, not sys.argv and os.environ: those went through a locale.
        words, environment = raw("/proc/self/cmdline"), raw("/proc/self/environ")
        ignored = words[BEFORE - 1].split(b",")
        fds = []
        for what in words[BEFORE : BEFORE + 4]:
            fds.append(None if what == b"-" else int(what.lstrip(b"+@").split(b":")[0]))
            if fds[-1] is not None:
                os.set_inheritable(fds[-1], False)
            status = fds[0]
        what, sockets, name, argv = *words[BEFORE + 4 : BEFORE + 7], words[BEFORE + 7 :]
        *handed, nothing = sockets[1:].split(b",")
        if nothing:
            raise ValueError
        handed = [int(fd) for fd in handed]
        stage = SOCKETS
        if handed:
            fds = [out_of_the_way(fd, 3 + len(handed)) for fd in fds]
        status, cgroup, wait, _ = fds
        stage = USAGE
        tag = None if what == b"-" else tuple(map(int, what.split(b":")))
        stage = TAG
        if tag is not None:
            resource.setrlimit(10, tag)  # RLIMIT_LOCKS
            if status is not None and is_unread(status):  # launcher.c, tag(), says why
                stage, what = WAIT, b"before the command was started"
                raise BrokenPipeError(EPIPE, "supervisor is gone")
        cpus = os.sched_getaffinity(0)
        stage, what = ENTER, words[BEFORE + 1]
        if words[BEFORE + 1].startswith(b"+"):  # a directory to be born in: no clone3 here, so enter it
            cgroup = os.open("cgroup.procs", os.O_WRONLY | os.O_CLOEXEC, dir_fd=cgroup)
        if cgroup is not None:
            os.write(cgroup, b"0")
        stage, what = WAIT, b"before the command was started"
        if wait is not None and os.read(wait, 1) == b"":
            raise BrokenPipeError(EPIPE, "supervisor is gone")
        keep(cpus)
        if words[BEFORE + 1].startswith(b"@"):
            stage, what = SEAL, words[BEFORE + 1].partition(b":")[2]
            seal(what)
        if sockets.startswith(b"="):
            stage, what = SOCKETS, sockets
            environment = hand_over(handed, environment)
        stage, what = EXEC, name
        for signum in (signal.SIGPIPE, signal.SIGXFSZ):
            if str(int(signum)).encode() not in ignored:
                signal.signal(signum, signal.SIG_DFL)
        execute(name, argv, environment)
    except OSError as e:
        fail(status, stage, e.errno, what)
    except (ValueError, IndexError):
        fail(status, stage, EINVAL, what)


def out_of_the_way(fd, behind):
    import fcntl

    return fd if fd is None or fd >= behind else fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, behind)


def keep(cpus):
    if os.sched_getaffinity(0) != cpus:
        try:
            os.sched_setaffinity(0, cpus)  # launcher.c, keep_cpus(), says why
        except OSError:  # none of them is there for the cgroup
            pass


def hand_over(sockets, environment):
    for to, fd in enumerate(sockets, 3):
        os.set_inheritable(fd, False)
        os.dup2(fd, to)
    own = b"%d" % os.getpid()
    numbered = (b"LISTEN_PID", b"WATCHDOG_PID")
    return [name + b"=" + own if (name := each.partition(b"=")[0]) in numbered else each for each in environment]


def seal(point):
    import ctypes  # for os has no mount(), and unshare() only from 3.12 on

    libc = ctypes.CDLL(None, use_errno=True)
    for failed in (  # launcher.c, seal(), says why
        lambda: libc.unshare(0x2000000 | 0x20000),  # CLONE_NEWCGROUP, CLONE_NEWNS
        lambda: libc.mount(b"none", b"/", None, ctypes.c_ulong(1 << 19 | 1 << 14), None),  # MS_SLAVE, MS_REC
        lambda: libc.umount2(point, 2),  # MNT_DETACH
        lambda: libc.mount(
            b"cgroup2", point, b"cgroup2", ctypes.c_ulong(2 | 4 | 8), None
        ),  # MS_NOSUID, _NODEV, _NOEXEC
    ):
        if failed():
            raise OSError(ctypes.get_errno(), "seal")


def execute(name, argv, environment):
    if b"/" in name:
        execve(name, argv, environment)
    telling = None
    path = next((entry[5:] for entry in environment if entry.startswith(b"PATH=")), os.fsencode(os.defpath))
    for folder in path.split(b":"):
        try:
            execve(os.path.join(folder, name), argv, environment)
        except OSError as e:
            last = e
            if telling is None and not isinstance(e, (FileNotFoundError, NotADirectoryError)):
                telling = e
    raise telling or last


def execve(path, argv, environment):
    pairs = dict(entry.split(b"=", 1) for entry in environment if b"=" in entry[1:])
    if argv and argv[0] and len(pairs) == len(environment) and b"" not in pairs:
        os.execve(path, argv, pairs)
    # os.execve() refuses an empty argv[0], and takes no environment with doubles or words without "=".
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    texts = [(ctypes.c_char_p * (len(each) + 1))(*each) for each in (argv, environment)]
    libc.execve(path, *texts)
    raise OSError(ctypes.get_errno(), "execve")


def is_unread(pipe):
    poller = select.poll()
    poller.register(pipe, 0)
    return bool(poller.poll(0))


def report(status, stage, value):
    os.write(status, stage.to_bytes(4, sys.byteorder) + value.to_bytes(4, sys.byteorder))


def fail(status, stage, error, what):
    if status is not None:
        try:
            report(status, stage, error)
        finally:
            os._exit(125)  # also where nobody is left to read it
    os.write(2, b"allgone-launch: %s: %s: errno %d\n" % (DOING[stage].encode(), what, error))
    os._exit(125 if stage != EXEC else 127 if error == 2 else 126)


if __name__ == "__main__":
    launch()
