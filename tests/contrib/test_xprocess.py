"""pytest-xprocess with our starter: it finds, keeps and ends what it started, and the daemon goes too."""

from __future__ import annotations

import types
from collections.abc import Iterator
from pathlib import Path

import pytest
import xprocess
from support import procfs
from support.programs import UNTIL_SLEEP

from allgone.contrib.xprocess import ProcessStarter

py_path = pytest.importorskip("_pytest._py.path")


@pytest.fixture
def xprocesses(tmp_path: Path) -> Iterator[xprocess.XProcess]:
    held = xprocess.XProcess(types.SimpleNamespace(), py_path.local(tmp_path))
    yield held
    held._force_clean_up()
    for each in held.resources:
        if each.popen is not None:
            each.popen.wait()  # which xprocess leaves to the interpreter


@pytest.fixture(params=["cgroup", "process-group"])
def backend(request: pytest.FixtureRequest) -> str:
    if request.param == "cgroup":
        request.getfixturevalue("cgroup_base")
    return str(request.param)


def daemon_in(log: Path) -> int:
    return next(int(line.split()[1]) for line in Path(log).read_text().splitlines() if line.startswith("daemon"))


def test_terminate_ends_what_daemonised_too(xprocesses: xprocess.XProcess, backend: str) -> None:
    class Server(ProcessStarter):
        run_options = ("--backend", backend)
        pattern = "ready"
        args = ("sh", "-c", f"(setsid sleep 1000 & {UNTIL_SLEEP}; echo daemon $!); echo ready; exec sleep 1000")

    _, log = xprocesses.ensure("server", Server)
    info = xprocesses.getinfo("server")
    assert info.isrunning()
    daemon = daemon_in(log)
    assert procfs.is_alive(daemon)
    assert info.terminate() == 1
    assert not info.isrunning()
    assert not procfs.is_alive(daemon)


def test_it_is_used_again_and_restarted_when_asked_to(xprocesses: xprocess.XProcess, backend: str) -> None:
    class Server(ProcessStarter):
        run_options = ("--backend", backend)
        pattern = "ready"

        @property
        def args(self) -> list[str]:
            return ["sh", "-c", "echo ready; exec sleep 1000"]

    first, _ = xprocesses.ensure("server", Server)
    again, _ = xprocesses.ensure("server", Server)
    assert again == first
    restarted, _ = xprocesses.ensure("server", Server, restart=True)
    assert restarted != first
    xprocesses.getinfo("server").terminate()


def test_a_subclass_may_build_on_the_args_of_another(xprocesses: xprocess.XProcess, backend: str) -> None:
    class Server(ProcessStarter):
        run_options = ("--backend", backend)
        pattern = "ready with more"

        @property
        def args(self) -> list[str]:
            return ["sh", "-c", 'echo ready "$@"; exec sleep 1000', "sh"]

    class More(Server):
        @property
        def args(self) -> list[str]:
            return [*super().args, "with", "more"]

    xprocesses.ensure("server", More)
    xprocesses.getinfo("server").terminate()
