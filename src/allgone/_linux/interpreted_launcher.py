"""The launcher where there is no compiled one: the same arguments and reports as src/launcher/launcher.c.

Run as ``python -I -S -c <this file> IGNORED STATUS PROCS WAIT SELF TAG EXECUTABLE [ARGV...]``; IGNORED lists the
signals to leave ignored, for Python ignores SIGPIPE and SIGXFSZ when it starts. Not a shell script, because a POSIX
shell can't do it: dash takes no fd above 9, none can mark one close-on-exec, report an errno, set argv[0], or
pass on an environment untouched (tests/unit/test_launcher.py shows each).
"""

import os
import resource
import signal
import sys

BEFORE = 6  # python, -I, -S, -c, this text, IGNORED
USAGE, TAG, ENTER, WAIT, EXEC = range(5)


def raw(path):
    with open(path, "rb") as f:
        return f.read().split(b"\0")[:-1]


def launch():
    status, stage = None, USAGE
    try:
        # From the kernel, not sys.argv and os.environ: those went through a locale.
        words = raw("/proc/self/cmdline")
        environment = dict(entry.split(b"=", 1) for entry in raw("/proc/self/environ") if b"=" in entry[1:])
        ignored = words[BEFORE - 1].split(b",")
        fds = [None if word == b"-" else int(word) for word in words[BEFORE : BEFORE + 4]]
        status, procs, wait, _ = fds
        for fd in fds:
            if fd is not None:
                os.set_inheritable(fd, False)
        tag, name, argv = words[BEFORE + 4], words[BEFORE + 5], words[BEFORE + 6 :]
        stage = TAG
        if tag != b"-":
            resource.setrlimit(10, tuple(map(int, tag.split(b":"))))
        stage = ENTER
        if procs is not None:
            os.write(procs, b"0")
        stage = WAIT
        if wait is not None and os.read(wait, 1) == b"":
            raise BrokenPipeError(32, "supervisor is gone")
        stage = EXEC
        for signum in (signal.SIGPIPE, signal.SIGXFSZ):
            if str(int(signum)).encode() not in ignored:
                signal.signal(signum, signal.SIG_DFL)
        execute(name, argv, environment)
    except OSError as e:
        fail(status, stage, e.errno)


def execute(name, argv, environment):
    if b"/" in name:
        os.execve(name, argv, environment)
    telling = None
    for folder in environment.get(b"PATH", os.fsencode(os.defpath)).split(b":"):
        try:
            os.execve(os.path.join(folder, name), argv, environment)
        except OSError as e:
            last = e
            if telling is None and not isinstance(e, (FileNotFoundError, NotADirectoryError)):
                telling = e
    raise telling or last


def fail(status, stage, error):
    if status is not None:
        os.write(status, stage.to_bytes(4, sys.byteorder) + error.to_bytes(4, sys.byteorder))
        os._exit(125)
    os.write(2, f"allgone-launch: stage {stage}: errno {error}\n".encode())
    os._exit(125 if stage != EXEC else 127 if error == 2 else 126)


if __name__ == "__main__":
    launch()
