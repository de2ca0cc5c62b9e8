"""GitHub's runner as far as processes, environment and hooks go: Runner.Listener, and a Runner.Worker for each job.

github.py               the listener; reads lines: the path of a job's script, "cancel", "kill" (the worker)
github.py worker STEP   what it starts for a job, with a pipe for its words as stdin

From actions/runner: JobDispatcher.cs, JobExtension.cs, JobHookProvider.cs, ScriptHandler.cs, ProcessInvoker.cs. The times
from SIGINT to SIGTERM and to SIGKILL are shorter than there.
"""

import os
import select
import signal
import subprocess
import sys
import uuid

SIGINT_TIMEOUT, SIGTERM_TIMEOUT = 0.5, 0.5


def say(*words):
    print(*words, flush=True)


def wait(process, stdin, seconds=None):
    """Until the process has ended, or there is something to read; whether it is the former."""
    fd = os.pidfd_open(process.pid)
    try:
        poller = select.poll()
        for each in (fd, *([] if stdin is None else [stdin])):
            poller.register(each, select.POLLIN)
        return fd in dict(poller.poll(None if seconds is None else seconds * 1000))
    finally:
        os.close(fd)


def listen():
    """Jobs one after the other. SIGTERM and SIGINT end it when the job has ended."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    signal.signal(signal.SIGINT, lambda *_: sys.exit(0))
    says = Words(0)
    while (step := says.next()) is not None:
        command = [sys.executable, __file__, "worker", step]
        worker = subprocess.Popen(command, stdin=subprocess.PIPE)
        while not wait(worker, says.fd):
            word = says.next()
            if word == "kill":
                worker.kill()
            elif word is None:
                worker.stdin.close()  # the worker then knows that the listener is gone
                worker.wait()
            else:
                worker.stdin.write(word.encode() + b"\n")
                worker.stdin.flush()
        say("job", "succeeded" if worker.wait() == 0 else "failed")


class Words:
    """Lines that are read one by one, as they come."""

    def __init__(self, fd):
        self.fd = fd

    def next(self):
        line = b""
        while not line.endswith(b"\n"):
            byte = os.read(self.fd, 1)
            if not byte:
                return None
            line += byte
        return line.decode().rstrip("\n")


class Worker:
    def __init__(self):
        self.is_cancelled = False
        self.tracking = f"github_{uuid.uuid4()}"
        self.before = {name for name in os.listdir("/proc") if name.isdigit()}

    def run(self, step):
        os.environ.update({"GITHUB_ACTIONS": "true", "GITHUB_RUN_ID": "42", "GITHUB_JOB": "build", "CI": "true"})
        ok = self.hook("ACTIONS_RUNNER_HOOK_JOB_STARTED")
        os.environ["RUNNER_TRACKING_ID"] = self.tracking
        if ok and not self.is_cancelled:
            ok = self.execute(["bash", "--noprofile", "--norc", "-e", "-o", "pipefail", step])
        ok = self.hook("ACTIONS_RUNNER_HOOK_JOB_COMPLETED") and ok  # always()
        self.end_orphans()
        return 0 if ok and not self.is_cancelled else 1

    def hook(self, variable):
        script = os.environ.get(variable)
        if not script:
            return True
        return self.execute(["bash", "-e", script], can_be_cancelled=False)

    def execute(self, command, can_be_cancelled=True):
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
        if not wait(process, 0 if can_be_cancelled else None):
            if Words(0).next() is None:
                os._exit(1)  # the listener is gone
            self.is_cancelled = True
            self.cancel(process)
        return process.wait() == 0

    def cancel(self, process):
        for signum, seconds in ((signal.SIGINT, SIGINT_TIMEOUT), (signal.SIGTERM, SIGTERM_TIMEOUT)):
            process.send_signal(signum)
            if wait(process, None, seconds):
                return
        process.kill()

    def end_orphans(self):
        say("Cleaning up orphan processes")
        for name in os.listdir("/proc"):
            if not name.isdigit() or name in self.before or int(name) == os.getpid():
                continue
            try:
                fd = os.pidfd_open(int(name))
                with open(f"/proc/{name}/environ", "rb") as f:
                    if f"RUNNER_TRACKING_ID={self.tracking}".encode() in f.read().split(b"\0"):
                        say("Terminate orphan process: pid", name)
                        signal.pidfd_send_signal(fd, signal.SIGKILL)
                os.close(fd)
            except OSError:
                continue


if __name__ == "__main__":
    sys.exit(Worker().run(sys.argv[2]) if sys.argv[1:2] == ["worker"] else listen())
