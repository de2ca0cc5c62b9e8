"""How each starts and stops the server: what a user of it would write. Nothing is imported that is not asked for."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
import types
import warnings
from collections.abc import Callable
from functools import partial

Stop = Callable[[], object]
Start = Callable[[list[str], str], Stop]  # the command, and a directory to work in


NOT_LOADED = 5  # systemctl(1): systemd has stopped it by itself, for its main process had ended


class NotHere(Exception):
    """This way can't be gone on this machine."""


def subprocess_terminate(command: list[str], _: str) -> Stop:
    process = subprocess.Popen(command)

    def stop() -> None:
        process.terminate()
        process.wait()

    return stop


def subprocess_killpg(command: list[str], _: str) -> Stop:
    process = subprocess.Popen(command, start_new_session=True)

    def stop() -> None:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait()

    return stop


def psutil_recipe(command: list[str], _: str) -> Stop:
    """ "Kill process tree", from psutil's documentation."""
    import psutil

    process = subprocess.Popen(command)

    def stop() -> None:
        try:
            parent = psutil.Process(process.pid)
            tree = [*parent.children(recursive=True), parent]
        except psutil.NoSuchProcess:
            tree = []
        for each in tree:
            try:
                each.send_signal(signal.SIGTERM)
            except psutil.NoSuchProcess:
                pass
        _, alive = psutil.wait_procs(tree, timeout=10)
        for each in alive:
            each.kill()
        process.wait()

    return stop


def mirakuru(command: list[str], _: str) -> Stop:
    from mirakuru import SimpleExecutor
    from mirakuru.exceptions import ProcessFinishedWithError

    executor = SimpleExecutor(command).start()

    def stop() -> None:
        try:
            executor.stop()
        except ProcessFinishedWithError:
            pass  # the foreman had crashed: it says so when it has done its work

    return stop


def xprocess(command: list[str], folder: str) -> Stop:
    import py
    from xprocess import ProcessStarter, XProcess

    class Server(ProcessStarter):
        pattern = "begins"
        args = command

    xprocess = XProcess(
        types.SimpleNamespace(), py.path.local(folder), log=types.SimpleNamespace(debug=lambda *_: None)
    )
    xprocess.ensure("server", Server)
    return xprocess.getinfo("server").terminate


def processkit(command: list[str], _: str) -> Stop:
    from processkit import Command, ProcessGroup

    group = ProcessGroup()
    process = group.start(Command(command[0], command[1:]))

    def stop() -> object:
        group.shutdown()  # what the end of its block does
        return process

    return stop


def systemd_run(command: list[str], _: str) -> Stop:
    if not os.path.isdir("/run/systemd/system") or shutil.which("systemd-run") is None:
        raise NotHere("systemd does not run here")
    unit = f"compare-{os.getpid()}.service"
    manager = [] if os.geteuid() == 0 else ["--user"]
    subprocess.run(["systemd-run", *manager, "--quiet", "--collect", f"--unit={unit}", "--", *command], check=True)

    def stop() -> None:
        done = subprocess.run(["systemctl", *manager, "stop", unit], stderr=subprocess.PIPE, text=True, check=False)
        if done.returncode not in (0, NOT_LOADED):
            raise RuntimeError(done.stderr)

    return stop


def allgone(command: list[str], _: str, **how: object) -> Stop:
    import allgone

    try:
        process = allgone.Popen(command, **how)
    except allgone.BackendUnavailable as e:
        raise NotHere(str(e.reasons[-1])) from e

    def stop() -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", allgone.EscapedProcessWarning)
            process.stop()

    return stop


WAYS: dict[str, Start] = {
    "subprocess: `terminate()`": subprocess_terminate,
    "subprocess: `setsid`, `killpg()`": subprocess_killpg,
    "psutil: `children(recursive=True)`": psutil_recipe,
    "mirakuru: `SimpleExecutor`": mirakuru,
    "pytest-xprocess": xprocess,
    "processkit-py: `ProcessGroup`": processkit,
    "systemd-run, `systemctl stop`": systemd_run,
    'allgone: `backend="process-group"`': partial(allgone, backend="process-group"),
    "allgone: the same, `sweep=True`": partial(allgone, backend="process-group", sweep=True),
    'allgone: `backend="cgroup"`': partial(allgone, backend="cgroup"),
}


def supervise(way: str, command: list[str], folder: str) -> None:
    """The supervisor: starts the server, stops it when a line is read, and waits for another one."""
    with open(os.dup(1), "w", buffering=1) as told:  # 1 is the server's
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        try:
            stop = WAYS[way](command, folder)
        except (NotHere, ImportError) as e:
            print(f"not here: {e}", file=told)
            return
        print("started", file=told)
        sys.stdin.readline()
        began = time.monotonic()
        stop()
        print((time.monotonic() - began) * 1000, file=told)
        sys.stdin.readline()
