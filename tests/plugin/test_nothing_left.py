"""However a test run ends, nothing of its processes is left."""

from __future__ import annotations

import signal

import pytest

from plugin.inner import SERVER, Run

pytest_plugins = ["pytester"]

TIMEOUT = ("--timeout=1", "-o", "timeout_func_only=true")
TESTS = """
@pytest.fixture(scope="session")
def of_session(session_process_fixture):
    return server(session_process_fixture)

def test_it(of_session, process_fixture):
    server(process_fixture)
    {body}

def test_later(of_session):
    pass
"""


def started(pytester: pytest.Pytester, request: pytest.FixtureRequest, backend: str, body: str, *args: str) -> Run:
    """A run whose test has two servers and then does `body`."""
    if backend == "cgroup":
        request.getfixturevalue("cgroup_base")
    pytester.makepyfile(SERVER + TESTS.format(body=body))
    return Run(pytester, f"--allgone-backend={backend}", *args)


def test_after_a_failure_with_x(pytester: pytest.Pytester, request: pytest.FixtureRequest) -> None:
    with started(pytester, request, "process-group", "assert 0", "-x") as run:
        assert "1 failed" in run.ends()
        assert run.all_gone()


def test_after_ctrl_c(pytester: pytest.Pytester, request: pytest.FixtureRequest) -> None:
    body = "server(process_fixture, 'both'); import time; time.sleep(60)"
    with started(pytester, request, "process-group", body) as run:
        run.lines.wait_for("both")
        run.process.send_signal(signal.SIGINT)
        assert "KeyboardInterrupt" in run.ends()
        assert run.process.returncode == 2
        assert run.all_gone()


def test_after_a_timeout_by_signal(pytester: pytest.Pytester, request: pytest.FixtureRequest) -> None:
    options = (*TIMEOUT, "--timeout-method=signal")
    with started(pytester, request, "process-group", "import time; time.sleep(60)", *options) as run:
        assert "1 failed, 1 passed" in run.ends()
        assert run.all_gone()


def test_after_a_timeout_by_thread(pytester: pytest.Pytester, request: pytest.FixtureRequest) -> None:
    """It ends the test run by os._exit()."""
    options = (*TIMEOUT, "--timeout-method=thread")
    with started(pytester, request, "cgroup", "import time; time.sleep(60)", *options) as run:
        assert "Timeout" in run.ends()
        assert run.process.returncode == 1
        assert run.all_gone()


@pytest.mark.parametrize("backend", ["cgroup", "process-group"])
def test_after_an_exit_in_a_test(pytester: pytest.Pytester, request: pytest.FixtureRequest, backend: str) -> None:
    with started(pytester, request, backend, "os._exit(42)") as run:
        run.ends()
        assert run.process.returncode == 42
        assert run.all_gone()


def test_after_sigkill_to_a_worker(pytester: pytest.Pytester, request: pytest.FixtureRequest) -> None:
    with started(pytester, request, "cgroup", "os.kill(os.getpid(), 9)", "-n1") as run:
        assert "1 failed, 1 passed" in run.ends()
        assert run.all_gone()
