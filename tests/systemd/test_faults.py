"""systemd that is silent, absent or refuses: an error that says so, in bounded time, and nothing is left."""

from __future__ import annotations

import pytest
from support.programs import PATIENCE
from support.systemd_env import CHECKOUT, PLACES, ROOT_SERVICE, USER_SERVICE, USER_SESSION, Environment, Place

PROXY = CHECKOUT / "tests/programs/lossy_proxy.py"
BOTH = pytest.mark.parametrize("place", [ROOT_SERVICE, USER_SESSION], ids=str)


def test_without_pystemd_the_error_says_how_to_get_it(environment: Environment) -> None:
    code = """
        import sys
        sys.modules["pystemd.dbuslib"] = None
        import allgone
        for given in ({"backend": "cgroup"}, {"unit": "x.scope"}):
            try:
                allgone.Popen(["true"], **given)
            except allgone.BackendUnavailable as e:
                assert "libsystemd-dev" in str(e) and "allgone[systemd]" in str(e), e
            else:
                raise AssertionError("no error")
        assert allgone.Popen(["true"]).backend == "process-group"
    """
    environment.run_python(code)


def test_without_a_manager_the_error_says_how_a_user_gets_one(environment: Environment) -> None:
    place = Place("user-without-manager", ("--property", "User=daemon"), user="daemon")
    code = """
        import allgone
        for given in ({"backend": "cgroup"}, {"unit": "x.scope"}):
            try:
                allgone.Popen(["true"], **given)
            except (allgone.BackendUnavailable, allgone.SystemdError) as e:
                assert "enable-linger" in str(e), e
            else:
                raise AssertionError("no error")
        assert allgone.Popen(["true"]).backend == "process-group"
    """
    environment.run_python(code, place=place)


@pytest.mark.parametrize("place", [USER_SESSION, USER_SERVICE], ids=str)
def test_a_silent_manager_is_an_error_after_a_while_and_nothing_was_run(environment: Environment, place: Place) -> None:
    code = """
        import allgone, os, signal, subprocess, tempfile, time
        from allgone._linux import systemd
        systemd.ANSWER_WITHIN = 0.5
        def children():  # systemd gives the first process of a session a child, (sd-pam)
            return open(f"/proc/self/task/{os.getpid()}/children").read()
        others = children()
        before = allgone.Popen(["sleep", "1000"], backend="cgroup")
        manager, = [int(pid) for pid in subprocess.check_output(["pgrep", "-u", str(os.getuid()), "-x", "systemd"]).split()]
        held = os.pidfd_open(manager)
        folder = tempfile.mkdtemp()
        signal.pidfd_send_signal(held, signal.SIGSTOP)
        try:
            began = time.monotonic()
            try:
                allgone.Popen(["touch", folder + "/ran"], unit="silent.scope")
            except allgone.SystemdError as e:
                assert e.dbus_name == "org.freedesktop.DBus.Error.NoReply", (e, e.dbus_name)
            else:
                raise AssertionError("no error")
            try:
                allgone.Popen(["sleep", "0"], backend="cgroup").wait()
                print("entered")
            except allgone.SystemdError as e:
                assert e.dbus_name == "org.freedesktop.DBus.Error.NoReply", (e, e.dbus_name)
                print("refused")
            assert time.monotonic() - began < 20
            report = before.stop()
            assert report.returncode == -15, report
        finally:
            signal.pidfd_send_signal(held, signal.SIGCONT)
        assert os.listdir(folder) == []
        os.rmdir(folder)
        assert children() == others, (children(), others)
        assert allgone.run(["true"], unit="silent.scope").returncode == 0
    """
    out = environment.run_python(code, place=place, seconds=60).stdout
    assert out == ("refused\n" if place is USER_SESSION else "entered\n")  # who enters by himself needs no manager


@pytest.mark.parametrize("place", [USER_SESSION, USER_SERVICE], ids=str)
@pytest.mark.parametrize("unit", [None, "late.scope"], ids=["anonymous", "named"])
def test_a_manager_that_makes_the_scope_too_late_is_not_left_with_it(
    environment: Environment, place: Place, unit: str | None
) -> None:
    """The scope's first process waits for it, though its supervisor has long given up."""
    code = """
        import allgone, os, select, signal, subprocess, sys, time
        from allgone._backends import homes
        from allgone._linux import systemd
        homes._MOVED_LATE_WITHIN = 5.0  # then it ends in any case
        os.environ["SYSTEMD_BUS_TIMEOUT"] = "5s"  # of each call, also of those before
        manager, = [int(pid) for pid in subprocess.check_output(["pgrep", "-u", str(os.getuid()), "-x", "systemd"]).split()]
        held, first, ask = os.pidfd_open(manager), [], systemd._Connection.start_scope
        def stand_still(connection, name, pid, *arguments, **options):
            first.append(os.pidfd_open(pid))
            signal.pidfd_send_signal(held, signal.SIGSTOP)
            ask(connection, name, pid, *arguments, **options)
        systemd._Connection.start_scope = stand_still
        given = {"unit": sys.argv[1]} if sys.argv[1:] else {"backend": "cgroup"}
        try:
            allgone.Popen(["true"], **given)
        except (allgone.SystemdError, allgone.BackendUnavailable) as e:
            print(e)
        else:
            raise AssertionError("no error")
        finally:
            is_there = first and not select.select(first, [], [], 0)[0]
            signal.pidfd_send_signal(held, signal.SIGCONT)
        assert is_there
        assert select.select(first, [], [], 60)[0]
        scopes = ["systemctl", "--user", "list-units", "--no-legend", "allgone-*", "late.scope"]
        deadline = time.monotonic() + 30
        while left := subprocess.check_output(scopes, text=True):
            assert time.monotonic() < deadline, left
            time.sleep(0.01)
    """
    environment.run_python(code, *([unit] if unit else []), place=place, seconds=100)


@BOTH
def test_a_job_that_fails_is_an_error_and_nothing_was_run(environment: Environment, place: Place) -> None:
    code = """
        import allgone, os, tempfile
        with tempfile.TemporaryDirectory() as folder:
            try:
                allgone.Popen(["touch", folder + "/ran"], unit="unmet.scope", properties={"Requisite": ["missing.service"]})
            except allgone.SystemdError as e:
                print(e.dbus_name, e)
            else:
                raise AssertionError("no error")
            assert os.listdir(folder) == []
        assert allgone.run(["true"], unit="unmet.scope").returncode == 0
    """
    out = environment.run_python(code, place=place).stdout
    assert "unmet.scope" in out or "missing.service" in out


@BOTH
@pytest.mark.parametrize("unit", [None, "lossy.scope"], ids=["anonymous", "named"])
@pytest.mark.parametrize("lost", ["request", "answer", "manager"])
def test_a_connection_that_breaks_when_a_scope_was_asked_for(
    environment: Environment, place: Place, lost: str, unit: str | None
) -> None:
    """It is asked again what came of it; where nobody answers any more, that is an error, and nothing is left."""
    code = """
        import allgone, os, subprocess, sys, tempfile
        from allgone._linux import systemd
        proxy, lost, *unit = sys.argv[1:]
        given = {"unit": unit[0]} if unit else {"backend": "cgroup"}
        systemd.ANSWER_WITHIN = 2
        folder = tempfile.mkdtemp()
        ours, real = folder + "/manager", systemd.manager_of_user(os.getuid()) if os.getuid() else systemd.SYSTEM
        children = lambda: set(open(f"/proc/self/task/{os.getpid()}/children").read().split())
        with subprocess.Popen([sys.executable, proxy, ours, real.address, lost], stdout=subprocess.PIPE) as between:
            try:
                between.stdout.readline()
                systemd.SYSTEM = systemd.Manager(ours)
                systemd.manager_of_user = lambda uid: systemd.Manager(ours)
                before = children()
                ran = allgone.run(["touch", folder + "/ran"], **given)
                assert os.path.exists(folder + "/ran") and lost != "manager"
            except allgone.BackendUnavailable as e:
                assert not os.path.exists(folder + "/ran") and lost == "manager", e
                assert ours in str(e), e
            finally:
                between.terminate()
            assert children() <= before, (children(), before)
        print("as it should be")
    """
    arguments = [unit] if unit else []
    assert "as it should be" in environment.run_python(code, str(PROXY), lost, *arguments, place=place).stdout
    again = "import allgone, sys; allgone.run(['true'], backend='cgroup', unit=(sys.argv[1:] or [None])[0], check=True)"
    environment.run_python(again, *arguments, place=place)


@BOTH
def test_many_children_start_and_stop_while_systemd_re_executes_itself(
    shaken: Environment, place: Place, pytestconfig: pytest.Config
) -> None:
    many = 200 if pytestconfig.getoption("--run-slow") else 60
    code = f"""
        import allgone, os, subprocess, sys, threading
        many = {many}
        user = ["--user"] if os.getuid() else []
        done, rounds = threading.Event(), 0
        def again():
            global rounds
            while not done.is_set():
                rounds += subprocess.run(["systemctl", *user, "daemon-reexec"]).returncode == 0
                # Between two it comes to answer: one that only ever re-executes itself serves nobody.
                subprocess.run(["systemctl", *user, "show", "--property=Version"], stdout=subprocess.DEVNULL)
        thread = threading.Thread(target=again)
        thread.start()
        try:
            for n in range(many):
                with allgone.Popen(["sleep", "1000"], **({{"unit": f"busy{{n % 3}}.scope"}} if n % 4 == 0 else {{"backend": "cgroup"}})) as child:
                    report = child.stop()
                assert report.returncode == -15, report
        finally:
            done.set()
            thread.join()
        assert rounds > 3, rounds
        print(rounds)
    """
    if place.user != "root":
        shaken.run_python(code, place=place)
        return
    with shaken.start_beside(code) as process:  # systemd-run would not live through it
        _, err = process.communicate(timeout=4 * PATIENCE)
    assert process.returncode == 0, err


@pytest.mark.parametrize("place", PLACES, ids=str)
def test_nothing_stays_open_after_a_hundred_children(environment: Environment, place: Place) -> None:
    code = """
        import allgone, os
        allgone.run(["true"], backend="cgroup")
        before = sorted(os.listdir("/proc/self/fd"))
        for _ in range(100):
            allgone.run(["true"], backend="cgroup")
        for _ in range(5):
            with allgone.Popen(["sleep", "1000"], unit="fds.scope") as taken:
                try:
                    allgone.run(["true"], unit="fds.scope")
                except allgone.SystemdError:
                    taken.stop()
                else:
                    raise AssertionError("the name was in use")
        after = sorted(os.listdir("/proc/self/fd"))
        assert after == before, (before, after)
    """
    environment.run_python(code, place=place)


@BOTH
def test_a_scope_whose_first_process_is_killed_before_it_is_entered_is_an_error_that_says_so(
    environment: Environment, place: Place
) -> None:
    code = """
        import allgone, os, select, signal
        from allgone._backends.homes import ScopeHome
        where = ScopeHome._directory_of
        def too_late(self, path, pid):
            fd = os.pidfd_open(pid)
            signal.pidfd_send_signal(fd, signal.SIGKILL)
            select.select([fd], [], [])
            return where(self, path, pid)
        ScopeHome._directory_of = too_late
        try:
            allgone.run(["true"], unit="ended.scope")
        except allgone.SystemdError as e:
            assert "ended.scope has ended while it was made" in str(e), e
        else:
            raise AssertionError("nothing was said")
        ScopeHome._directory_of = where
        allgone.run(["true"], unit="again.scope", check=True)
        def nothing_to_start(*_):
            raise FileNotFoundError(2, "no guard")
        ScopeHome._started = nothing_to_start
        try:
            allgone.run(["true"], unit="never.scope")
        except FileNotFoundError as e:
            assert "no guard" in str(e), e
        else:
            raise AssertionError("it was started")
    """
    environment.run_python(code, place=place)
