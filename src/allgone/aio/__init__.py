"""allgone on asyncio and trio, through anyio: the same processes, stops and reports, awaited.

>>> import anyio
>>> async def main():
...     async with await open_process(["sleep", "1000"]) as process:
...         report = await process.stop()
...     return report.returncode
>>> anyio.run(main)
-15

No thread waits for a process: the event loop does, for its pidfd, and for the word of the kernel that nobody is left.
"""

from __future__ import annotations

try:
    import anyio  # noqa: F401
except ModuleNotFoundError as e:
    if e.name != "anyio":
        raise
    raise ImportError("allgone.aio needs anyio: pip install 'allgone[aio]'", name="anyio") from e

from allgone.aio._fixture import FixtureProcess as FixtureProcess
from allgone.aio._fixture import process_fixture as process_fixture
from allgone.aio._group import Group as Group
from allgone.aio._group import group as group
from allgone.aio._process import Process as Process
from allgone.aio._process import open_process as open_process
from allgone.aio._run import run as run

__all__ = ["FixtureProcess", "Group", "Process", "group", "open_process", "process_fixture", "run"]
