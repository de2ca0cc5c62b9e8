"""A pytest plugin for trio's own test_subprocess: what that takes for trio's processes are allgone's.

ALLGONE_PEER=aio     allgone.aio's, by the names that trio has for what they can do
ALLGONE_PEER=popen   trio's, which then have an allgone.Popen where trio has a subprocess.Popen
"""

from __future__ import annotations

import os
import subprocess
from typing import Any

import anyio
import trio
from trio._tests import test_subprocess as suite

import allgone
from allgone import aio

pytest_plugins = ("trio._tests.pytest_plugin",)


class SendStream(trio.abc.SendStream):
    def __init__(self, stream: Any) -> None:
        self._stream = stream

    async def send_all(self, data: bytes) -> None:
        await self._stream.send(data)

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.wait_writable(self._stream.fileno())

    async def aclose(self) -> None:
        await self._stream.aclose()


class ReceiveStream(trio.abc.ReceiveStream):
    def __init__(self, stream: Any) -> None:
        self._stream = stream

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        try:
            return await self._stream.receive(max_bytes or 65536)
        except anyio.EndOfStream:
            return b""

    async def aclose(self) -> None:
        await self._stream.aclose()


class Process:
    """An `aio.Process`, by trio's names."""

    def __init__(self, process: aio.Process) -> None:
        self.ours = process
        self._proc = process._held
        self.stdin = process.stdin and SendStream(process.stdin)
        self.stdout = process.stdout and ReceiveStream(process.stdout)
        self.stderr = process.stderr and ReceiveStream(process.stderr)
        both = self.stdin and self.stdout
        self.stdio = trio.StapledStream(self.stdin, self.stdout) if both else None

    def __repr__(self) -> str:
        return repr(self.ours).replace("allgone.aio", "trio")

    @property
    def returncode(self) -> int | None:
        return self.ours.returncode

    @property
    def _pidfd(self) -> int | None:
        return self._proc._child._fd

    async def wait(self) -> int:
        return await self.ours.wait()

    def kill(self) -> None:
        self.ours.kill()

    def terminate(self) -> None:
        self.ours.terminate()

    def send_signal(self, signum: int) -> None:
        self.ours.send_signal(signum)


async def open_process(command: Any, **options: Any) -> Process:
    for each in ("universal_newlines", "text", "encoding", "errors", "bufsize"):
        if options.get(each):
            raise TypeError(f"unbuffered byte streams; the {each!r} option is not supported")
    if isinstance(command, str) != bool(options.get("shell")):
        raise TypeError("a string is for a shell, a list for none")
    return Process(await aio.open_process(command, **options))


async def run_process(
    command: Any,
    *,
    stdin: Any = b"",
    capture_stdout: bool = False,
    capture_stderr: bool = False,
    check: bool = True,
    task_status: Any = None,
    **options: Any,
) -> allgone.CompletedProcess:
    if isinstance(stdin, str):
        raise UnicodeError("process stdin must be bytes, not str")
    for name, capture in (("stdout", capture_stdout), ("stderr", capture_stderr)):
        if capture and name in options:
            raise ValueError(f"can't specify both {name} and capture_{name}")
        if capture:
            options[name] = subprocess.PIPE
        elif task_status is None and options.get(name) == subprocess.PIPE:
            raise ValueError(
                f"{name}=subprocess.PIPE is only valid with nursery.start, since that's the only way to access the pipe"
            )
    if task_status is not None:
        return await _in_nursery(command, task_status, check, stdin=None if stdin == b"" else stdin, **options)
    if stdin == subprocess.PIPE:
        raise ValueError(
            "stdin=subprocess.PIPE is only valid with nursery.start, since that's the only way to access the pipe; "
            "use nursery.start or pass the data you want to write directly"
        )
    given = {"input": stdin} if isinstance(stdin, bytes) else {"stdin": stdin}
    return await aio.run(command, check=check, **given, **options)


async def _in_nursery(command: Any, task_status: Any, check: bool, **options: Any) -> Any:
    process = await aio.open_process(command, **options)
    try:
        task_status.started(Process(process))
        await process.wait()  # the streams stay open: the suite uses them meanwhile
    finally:
        await process.stop()
    done = subprocess.CompletedProcess(command, process.returncode)
    if check:
        done.check_returncode()
    return done


if os.environ["ALLGONE_PEER"] == "aio":
    suite.open_process, suite.run_process, suite.Process = open_process, run_process, Process
else:
    subprocess.Popen = allgone.Popen
