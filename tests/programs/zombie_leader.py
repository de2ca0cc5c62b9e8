"""Its main thread ends while another one goes on: a zombie to look at, alive in truth. cgroup.kill misses it."""

import ctypes
import os
import platform
import threading

from unruly import here, ready, sleep_on

_EXIT_OF_A_THREAD = {"x86_64": 60, "aarch64": 93, "riscv64": 93}[platform.machine()]


def go_on():
    main = f"/proc/self/task/{os.getpid()}/stat"
    while True:
        with open(main, "rb") as f:
            if f.read().rsplit(b")", 1)[1].split()[0] == b"Z":
                break
    ready()
    sleep_on_in_a_thread()


def sleep_on_in_a_thread():
    threading.Event().wait(120)
    os._exit(0)


here("leader")
threading.Thread(target=go_on).start()
ctypes.CDLL(None).syscall(_EXIT_OF_A_THREAD, 0)
sleep_on()
