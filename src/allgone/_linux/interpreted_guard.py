"""The guard where there is no compiled one: the same arguments as src/launcher/guard.c, and the same behaviour.

It imports allgone's own modules only when there is something to do; until then it is an interpreter asleep in poll(2).
"""

import os
import select
import sys

try:
    import _signal as signal  # without the enums of signal
except ImportError:
    import signal

BORN, WAIT = 5, 3


def main(words):
    status, pipe, supervisor, register = (None if word == "-" else int(word) for word in words[:4])
    born_in = where_we_are()  # before anybody can know whom to move
    try:
        pid = os.fork()
    except OSError as e:
        report(status, WAIT, e.errno)
        os._exit(125)
    if pid:
        report(status, BORN, pid)
        os._exit(0)
    signal.pthread_sigmask(signal.SIG_SETMASK, set(range(1, 65)) - {signal.SIGTERM})
    os.setsid()
    with open("/proc/self/comm", "w") as f:
        f.write("allgone-guard")
    for fd in range(3, 64):
        if fd not in (pipe, supervisor, register):
            close(fd)
    os.closerange(64, 65536)
    os.chdir("/")
    watch(pipe, supervisor, register, born_in, words[4], words[5:])


def close(fd):
    try:
        os.close(fd)
    except OSError:  # none
        pass


def report(status, stage, value):
    os.write(status, stage.to_bytes(4, sys.byteorder) + value.to_bytes(4, sys.byteorder))


def watch(pipe, supervisor, register, born_in, own, program):
    poller = select.poll()
    for fd in (pipe, supervisor):
        poller.register(fd, select.POLLIN)
    guarded = None
    time_to_move = 0  # half seconds
    while True:
        ready = {fd for fd, _ in poller.poll()}
        if pipe in ready:
            message = os.read(pipe, 5)
            if message[:1] == b"q" or (not message and register is None):
                exit_once_moved(born_in, time_to_move)
            if not message:
                poller.unregister(pipe)
            elif message[:1] == b"s":
                time_to_move = int.from_bytes(message[1:5], "little")
            else:
                home = path_of(register, int.from_bytes(message[1:5], "little"))
                guarded = home if message[:1] == b"e" else None
                enter(home + b"/guard") if guarded else leave(home, own, True)
        elif register is None:
            exit_once_moved(born_in, time_to_move)
        else:
            signal.pthread_sigmask(signal.SIG_SETMASK, set(range(1, 65)))
            os.set_inheritable(register, True)
            pid = os.fork()
            if pid == 0:
                os.execv(program[0], program)
            os.waitpid(pid, 0)
            if guarded:
                leave(guarded, own, False)
            remove_homes(register)
            exit_once_moved(born_in, time_to_move)


def where_we_are():
    with open("/proc/self/cgroup", "rb") as f:
        return f.read()


def exit_once_moved(place, half_seconds):
    """From there, where that is to be waited for: guard.c says why."""
    for _ in range(500 * half_seconds):
        if where_we_are() != place:
            break
        select.select([], [], [], 0.001)
    os._exit(0)


def remove_homes(register):
    for number in range(min(int.from_bytes(os.pread(register, 4, 4), sys.byteorder), 1024)):
        home = path_of(register, number)
        if home and not home.endswith(b".scope"):
            for folder in (home + b"/guard", home):
                try:
                    os.rmdir(folder)
                except OSError:  # gone; or something was left running in it
                    continue


def path_of(register, number):
    return os.pread(register, 4096, (1 + number) * 4096)[8:].partition(b"\0")[0]


def leave(home, own, is_alive):
    places = [os.path.dirname(home), os.fsencode(own)]
    if is_alive:
        places.reverse()
    if not home.endswith(b".scope"):
        any(map(enter, [*places, os.path.dirname(home) + b"/allgone.supervisors"]))


def enter(folder):
    try:
        fd = os.open(folder + b"/cgroup.procs", os.O_WRONLY)
        try:
            os.write(fd, b"0")
        finally:
            os.close(fd)
    except OSError:  # removed meanwhile, say: its work can be done from anywhere
        return False
    return True


if __name__ == "__main__":
    main(sys.argv[1:])
