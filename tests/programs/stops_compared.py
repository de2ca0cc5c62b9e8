"""Starts each case of stdin (JSON) once as a service of systemd's and once by allgone, stops them all, and prints by case
and side what each process heard and how it ended (JSON). For a machine where systemd runs; test_kill_modes.py has the cases.
"""

import fcntl
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor

import allgone

TREE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "hears_signals.py")
READY_WITHIN = 60


def main():
    cases = json.load(sys.stdin)
    with tempfile.TemporaryDirectory() as top:
        fifo = os.path.join(top, "ready")
        os.mkfifo(fifo)
        folders = {
            side: [os.path.join(top, f"{side}-{n}") for n in range(len(cases))] for side in ("systemd", "allgone")
        }
        everyone = [*folders["systemd"], *folders["allgone"]]
        try:
            listening = os.open(fifo, os.O_RDWR)  # also for writing: no end of file while nobody else has it open
            for folder in everyone:
                os.mkdir(folder)
            units = start_services(cases, folders["systemd"], fifo)
            started = [
                allgone.Popen(
                    tree(case, folder, fifo), backend="cgroup", policy=policy(case), stdout=subprocess.DEVNULL
                )
                for case, folder in zip(cases, folders["allgone"], strict=True)
            ]
            await_ready(listening, everyone)
            with ThreadPoolExecutor(len(cases) + 1) as pool:
                stopped = pool.submit(subprocess.run, ["systemctl", "stop", *units], check=True)
                reports = list(pool.map(lambda each: each.stop(), started))
                stopped.result()
            found = [
                {"systemd": seen(theirs), "allgone": seen(ours), "report": told(ours, report)}
                for theirs, ours, report in zip(folders["systemd"], folders["allgone"], reports, strict=True)
            ]
            for each in started:
                each.stop(allgone.StopPolicy(timeout_stop=0))
        finally:
            end_survivors(everyone)
        json.dump(found, sys.stdout)


def tree(case, folder, fifo):
    return [sys.executable, "-S", "-E", TREE, folder, json.dumps(case["tree"]), fifo]


def policy(case):
    setting = case["setting"]
    return allgone.StopPolicy(
        kill_mode=setting["KillMode"],
        send_sighup=setting["SendSIGHUP"] == "yes",
        timeout_stop=float(setting["TimeoutStopSec"]),
        final_kill_signal=signal.Signals[setting["FinalKillSignal"]],
    )


def start_services(cases, folders, fifo):
    names = [f"unruly-{os.getpid()}-{n}.service" for n in range(len(cases))]
    # --collect: a unit that failed, for something outlived its stop, is forgotten as others are.
    options = ["systemd-run", "--quiet", "--collect", "--property=StandardOutput=null", "--property=StandardError=null"]
    running = [
        subprocess.Popen(
            [
                *options,
                f"--unit={name}",
                *(f"--property={key}={value}" for key, value in case["setting"].items()),
                "--",
                *tree(case, folder, fifo),
            ]
        )
        for name, case, folder in zip(names, cases, folders, strict=True)
    ]
    assert [each.wait() for each in running] == [0] * len(cases)
    return names


def await_ready(listening, folders):
    missing = set(folders)
    deadline = time.monotonic() + READY_WITHIN
    rest = b""
    while missing:
        if not select.select([listening], [], [], max(0, deadline - time.monotonic()))[0]:
            raise TimeoutError(f"not ready: {sorted(missing)}")
        *lines, rest = (rest + os.read(listening, 65536)).split(b"\n")
        missing -= {line.decode().removeprefix("ready ") for line in lines}


def logs(folder):
    for role in sorted(os.listdir(folder)):
        with open(os.path.join(folder, role)) as log:
            yield role, log, log.read().splitlines()


def lives(log):
    try:
        fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    return False


def seen(folder):
    """Role -> the signals it heard in order, then `ended` (by itself), `killed` or `lives`."""
    found = {}
    for role, log, (_, *lines) in logs(folder):
        ended = lines[-1:] == ["ended"]
        found[role] = lines if ended else [*lines, "lives" if lives(log) else "killed"]
    return found


def told(folder, report):
    """Role -> what the report says of it."""
    killed, left = ({each.pid for each in group} for group in (report.killed, report.left_running))
    pids = {role: int(first.removeprefix("pid ")) for role, _, (first, *_) in logs(folder)}
    return {role: {"killed": pid in killed, "left_running": pid in left} for role, pid in pids.items()}


def end_survivors(folders):
    for folder in folders:
        for _, log, (first, *_) in logs(folder):
            if lives(log):
                os.kill(int(first.removeprefix("pid ")), signal.SIGKILL)
                fcntl.flock(log, fcntl.LOCK_EX)  # until it has ended


main()
