"""Run by a Python that an allgone is installed for, as a wheel: does it do what it is for? Prints what it has found.

installed.py LAUNCHER BACKEND…      LAUNCHER: the kind that must be there; BACKEND: each that must work
"""

import json
import os
import select
import signal
import subprocess
import sys
from importlib import metadata

import allgone
from allgone._linux import launcher

# A daemon that has left the session; both of them hold the pipe, so that its end is the end of both.
TREE = ["sh", "-c", "trap '' TERM; setsid sleep 100 & sleep 100 & echo ready; wait"]


def is_over(reader: int) -> bool:
    """Whether nobody has the other end any more, within 30 seconds."""
    poller = select.poll()
    poller.register(reader, select.POLLIN)
    return bool(poller.poll(30_000)) and os.read(reader, 1) == b""


def stops(backend: str) -> None:
    policy = allgone.StopPolicy(timeout_stop=0.1)
    with allgone.Popen(
        TREE, stdout=subprocess.PIPE, bufsize=0, backend=backend, sweep=True, policy=policy
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        report = process.stop()
        assert is_over(process.stdout.fileno())
    assert report.backend == backend, report


def is_guarded(backend: str) -> None:
    code = "import allgone, signal, sys\nallgone.Popen(sys.argv[2:], backend=sys.argv[1], sweep=True)\nsignal.pause()"
    words = [sys.executable, "-I", "-c", code, backend, *TREE]
    with subprocess.Popen(words, stdout=subprocess.PIPE, bufsize=0) as supervisor:
        assert supervisor.stdout is not None
        assert supervisor.stdout.readline() == b"ready\n"
        supervisor.send_signal(signal.SIGKILL)
        assert is_over(supervisor.stdout.fileno())


def told(*words: str) -> str:
    command = os.path.join(os.path.dirname(sys.executable), "allgone")
    return subprocess.run([command, *words], stdout=subprocess.PIPE, text=True, check=True).stdout


def main() -> None:
    kind, *backends = sys.argv[1:]
    assert launcher.kind() == kind, launcher.kind()
    for backend in backends:
        stops(backend)
        is_guarded(backend)
        assert told("run", "--backend", backend, "--", "echo", "hi") == "hi\n"
    version = metadata.version("allgone")
    assert told("--version") == f"allgone, version {version}\n"
    doctor = json.loads(told("doctor", "--json"))
    assert doctor["allgone"] == version
    libc = os.confstr("CS_GNU_LIBC_VERSION")
    found = {
        "file": allgone.__file__, "version": version, "python": sys.version.split()[0], "libc": libc,
        "auto": doctor["auto"]["backend"], "backends": backends,
    }  # fmt: skip
    print(json.dumps(found))


if __name__ == "__main__":
    main()
