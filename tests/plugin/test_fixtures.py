"""What the fixtures start, for how long, and in which order it is stopped."""

from __future__ import annotations

import pytest
from support.programs import PATIENCE

from plugin.inner import run

pytest_plugins = ["pytester"]

LOGS = """
import pytest, allgone

def start(factory, name):
    script = f"trap 'echo -{name} >>log; exit' TERM; echo +{name} >>log; echo up; while :; do sleep 0.05; done"
    return factory(["sh", "-c", script], ready=allgone.log_line("up"))
"""


def test_each_scope_has_its_own(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(LOGS)
    tests = """
        import pytest
        from conftest import start

        @pytest.fixture(scope="session", autouse=True)
        def of_session(session_process_fixture):
            start(session_process_fixture, "session")

        @pytest.fixture(scope="package", autouse=True)
        def of_package(package_process_fixture):
            start(package_process_fixture, "package")

        @pytest.fixture(scope="module", autouse=True)
        def of_module(module_process_fixture):
            start(module_process_fixture, "module")

        @pytest.fixture(scope="class")
        def of_class(class_process_fixture):
            start(class_process_fixture, "class")

        @pytest.mark.usefixtures("of_class")
        class TestIt:
            def test_one(self, process_fixture):
                start(process_fixture, "a")
                start(process_fixture, "b")

            def test_two(self):
                pass

        def test_three(process_fixture):
            start(process_fixture, "c")
    """
    pytester.makepyfile(tests)
    run(pytester).assert_outcomes(passed=3)
    order = "+session +package +module +class +a +b -b -a -class +c -c -module -package -session"
    assert (pytester.path / "log").read_text().split() == order.split()


def test_all_are_stopped_though_stops_fail(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        LOGS
        + """
def fail(name):
    raise RuntimeError(f"no stop of {name}")

def test_it(process_fixture):
    start(process_fixture, "a")
    for name in "bc":
        process = start(process_fixture, name)
        stop = process.stop
        process.stop = lambda stop=stop, name=name: (stop(), fail(name))
    start(process_fixture, "d")
"""
    )
    result = run(pytester)
    result.assert_outcomes(passed=1, errors=1)
    assert (pytester.path / "log").read_text().split()[4:] == ["-d", "-c", "-b", "-a"]
    result.stdout.fnmatch_lines(["*RuntimeError: no stop of c"])
    result.stdout.fnmatch_lines(["*RuntimeError: no stop of b"])  # noted, and in Python 3.10 its context


def test_errors_are_those_of_the_library(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import allgone, pytest

        def test_it(process_fixture):
            with pytest.raises(allgone.ExitedBeforeReady, match="why"):
                process_fixture(["sh", "-c", "echo why"], ready=allgone.log_line("up"))
            with pytest.raises(TypeError, match="ready must be"):
                process_fixture(["true"], ready=1)
            with pytest.raises(TypeError, match="output="):
                process_fixture(["true"], stdout=None)
            with pytest.raises(ValueError, match="reuse must be"):
                process_fixture(["true"], reuse="class")
            with pytest.raises(FileNotFoundError):
                process_fixture(["/nonexistent"])
            with pytest.raises(TypeError, match="start_all takes"):
                process_fixture.start_all(["true"])

        def test_a_group(allgone_group):
            one = allgone_group.Popen(["sleep", "120"])
            assert allgone_group.members() == {one.pid}
            test_a_group.process = one

        def test_is_stopped():
            assert test_a_group.process.returncode == -15

        def test_several_at_once(process_fixture):
            one, two = process_fixture.start_all(
                allgone.process_fixture(["sleep", "120"]), allgone.process_fixture(["sleep", "120"])
            )
            with one.stopped():
                assert one.members() == frozenset()
            assert one.poll() is two.poll() is None
            test_several_at_once.processes = one, two

        def test_are_stopped_too():
            assert [each.returncode for each in test_several_at_once.processes] == [-15, -15]

        def test_a_port(process_fixture, request):
            from allgone._linux import ports
            test_a_port.port = process_fixture.free_port()
            assert ports.locked(test_a_port.port) is None

        def test_is_given_back():
            from allgone._linux import ports
            lock = ports.locked(test_a_port.port)
            assert lock is not None
            lock.close()
        """
    )
    run(pytester).assert_outcomes(passed=7)


def test_one_is_used_again_as_long_as_it_is_the_same_and_ready(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        test_a="""
        import os, allgone, pytest

        RUNS = ["sh", "-c", "echo up; exec sleep 120"]

        @pytest.fixture
        def server(process_fixture):
            return process_fixture(RUNS, ready=lambda: True, reuse=True, name="one")

        def test_one(server):
            pytest.first = server.pid

        def test_two(server):
            assert server.pid == pytest.first

        def test_other_arguments(process_fixture):
            other = process_fixture(RUNS, ready=lambda: True, env=dict(os.environ), reuse=True)
            assert other.pid != pytest.first

        def test_started_again(server):
            with server.stopped():
                pass
            assert server.pid != pytest.first
            pytest.second = server.pid

        def test_is_still_it(server):
            assert server.pid == pytest.second
            server.kill()
            server.wait()

        def test_that_it_died_is_told_once(server):
            assert False, "is not reached"

        def test_then_there_is_another(server):
            assert server.pid != pytest.second
            server.stop()

        def test_that_it_was_stopped_is_told(server):
            assert False, "is not reached"

        def test_not_ready_any_more(process_fixture, tmp_path_factory):
            pytest.flag = tmp_path_factory.getbasetemp() / "flag"
            pytest.flag.touch()
            options = dict(ready=allgone.path_exists(pytest.flag), ready_timeout=0.1, reuse="module")
            server = process_fixture(RUNS, **options)
            pytest.third = server
            pytest.flag.unlink()
            with pytest.raises(pytest.fail.Exception, match="is not ready any more"):
                process_fixture(RUNS, **options)
            assert server.returncode == -15

        def test_of_a_module(process_fixture):
            pytest.fourth = process_fixture(RUNS, reuse="module")
        """,
        test_b="""
        import pytest
        from test_a import RUNS

        def test_the_other_module_s_is_gone(process_fixture):
            assert pytest.fourth.returncode == -15
            server = process_fixture(RUNS, reuse="module")
            assert server is not pytest.fourth
            assert process_fixture(RUNS, reuse="module") is server

        def test_that_of_the_session_is_not(session_process_fixture):
            assert session_process_fixture(RUNS, ready=lambda: True, reuse=True, name="two").poll() is None
        """,
    )
    result = run(pytester)
    result.assert_outcomes(passed=10, errors=2)
    result.stdout.fnmatch_lines([
        "*sleep 120*, which was to be used again, has ended with return code -9. It was last used by *::test_is_still_it.",
        "*sleep 120*, which was to be used again, has been stopped. It was last used by *::test_then_there_is_another.",
    ])  # fmt: skip


def test_in_parallel_each_worker_has_its_own(pytester: pytest.Pytester) -> None:
    """And its own port, by number."""
    pytester.makepyfile(
        """
        import sys, urllib.request, allgone, pytest

        @pytest.fixture(scope="session")
        def server(session_process_fixture, tmp_path_factory):
            port = session_process_fixture.free_port()
            args = [sys.executable, "-S", "-m", "http.server", str(port), "--bind", "127.0.0.1"]
            server = session_process_fixture(args, ready=allgone.listening(port), cwd=tmp_path_factory.mktemp("www"))
            server.port = port
            return server

        @pytest.mark.parametrize("n", range(8))
        def test_it(server, n, worker_id):
            with open(f"{worker_id}.txt", "a") as f:
                f.write(f"{server.pid} {server.port}\\n")
            with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/") as answer:
                assert answer.status == 200
        """
    )
    run(pytester, "-n2").assert_outcomes(passed=8)
    told = [set(path.read_text().splitlines()) for path in pytester.path.glob("gw*.txt")]
    assert [len(each) for each in told] == [1, 1]
    assert told[0].isdisjoint(told[1])


def test_beside_pytest_asyncio(pytester: pytest.Pytester) -> None:
    pytest.importorskip("pytest_asyncio")
    pytester.makepyfile(
        """
        import asyncio, sys, allgone, pytest

        @pytest.fixture
        def server(process_fixture):
            return process_fixture(["sleep", "120"])

        @pytest.mark.asyncio
        async def test_it(server):
            other = await asyncio.create_subprocess_exec("sleep", "0.1")
            assert await other.wait() == 0
            assert server.poll() is None
            left = await asyncio.create_subprocess_shell("sleep 120 &")
            await left.wait()
        """
    )
    pytester.makeini("[pytest]\nasyncio_default_fixture_loop_scope = function\n")
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider", "--allgone-leaks=fail", timeout=PATIENCE * 3)
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["*::test_it has left 1 process behind:", "  sleep 120 (pid *"])
