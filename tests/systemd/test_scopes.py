"""A supervisor's scope: one for all its children, bound to its unit, and gone with it."""

from __future__ import annotations

import json

import pytest
from support.systemd_env import ENTERED, PLACES, ROOT_SERVICE, SCOPED, USER_SERVICE, USER_SESSION, Environment, Place

OWN = 'next(line[3:-1] for line in open("/proc/%d/cgroup" % pid) if line.startswith("0::"))'
TWO_CHILDREN = f"""
    import json, os, allgone
    def cgroup(pid): return {OWN}
    with allgone.Popen(["sleep", "1000"], backend="cgroup", name="a") as a, allgone.Popen(["sleep", "1000"], name="b", backend="cgroup") as b:
        print(json.dumps([os.getpid(), cgroup(os.getpid()), cgroup(a.pid), cgroup(b.pid)]))
        a.stop(); b.stop()
"""


@pytest.mark.parametrize("place", SCOPED, ids=str)
def test_children_are_in_cgroups_below_one_scope_named_after_the_supervisor(
    environment: Environment, place: Place
) -> None:
    pid, own, a, b = json.loads(environment.run_python(TWO_CHILDREN, place=place).stdout)
    scope = a.removesuffix("/a")
    assert f"/allgone-{pid}-" in scope
    assert scope.endswith(".scope")
    assert b == f"{scope}/b"
    assert not scope.startswith(own)


@pytest.mark.parametrize("place", [each for each in PLACES if each not in SCOPED], ids=str)
def test_in_a_delegated_unit_no_scope_is_made(environment: Environment, place: Place) -> None:
    pid, own, a, b = json.loads(environment.run_python(TWO_CHILDREN, place=place).stdout)
    assert a.startswith(f"{own}/allgone-{pid}-")
    assert b.startswith(f"{own}/allgone-{pid}-")
    assert ".scope" not in a


@pytest.mark.parametrize("place", ENTERED, ids=str)
def test_only_the_first_child_needs_systemd(environment: Environment, place: Place) -> None:
    code = """
        import allgone
        from allgone._linux import systemd
        allgone.Popen(["true"], backend="cgroup").wait()
        systemd._connected = None  # a call of it would be a TypeError
        for _ in range(20):
            assert allgone.run(["true"], backend="cgroup").returncode == 0
    """
    environment.run_python(code, place=place)


@pytest.mark.parametrize(
    ("place", "slice"),
    [(ROOT_SERVICE, "system.slice"), (USER_SERVICE, "app.slice")],
    ids=str,
)
def test_scope_is_delegated_collected_and_bound_to_the_supervisors_unit(
    environment: Environment, place: Place, slice: str
) -> None:
    code = """
        import allgone, os, subprocess, sys
        own, = [line[3:-1].rpartition("/")[2] for line in open("/proc/self/cgroup") if line.startswith("0::")]
        with allgone.Popen(["sleep", "1000"], backend="cgroup") as child:
            scope = os.path.basename(os.path.dirname(child._containment.where()))
            user = ["--user"] if os.getuid() else []
            shown = subprocess.check_output(["systemctl", *user, "show", scope, "--property",
                "Delegate,CollectMode,BindsTo,After,Slice,Description,ActiveState"], text=True)
            print(f"Own={own}\\nPid={os.getpid()}\\n" + shown)
            child.stop()
    """
    lines = environment.run_python(code, place=place).stdout.splitlines()
    found = dict(line.split("=", 1) for line in lines if line)
    assert found["Delegate"] == "yes"
    assert found["CollectMode"] == "inactive-or-failed"
    assert found["BindsTo"] == found["Own"]
    assert found["Own"] in found["After"].split()
    assert found["Slice"] == slice
    assert found["ActiveState"] == "active"
    assert found["Pid"] in found["Description"]


def test_systemctl_status_shows_what_runs_in_it(environment: Environment) -> None:
    code = """
        import allgone, os, subprocess
        with allgone.Popen(["sleep", "1234"], backend="cgroup", name="sleeper") as child:
            scope = os.path.basename(os.path.dirname(child._containment.where()))
            print(subprocess.run(["systemctl", "status", "--no-pager", "--full", scope], capture_output=True, text=True).stdout)
            child.stop()
    """
    shown = environment.run_python(code).stdout
    assert "sleep 1234" in shown
    assert "sleeper" in shown


@pytest.mark.parametrize("place", SCOPED, ids=str)
def test_first_children_of_many_threads_share_one_scope(environment: Environment, place: Place) -> None:
    code = """
        import allgone, os, threading
        scopes, ready = set(), threading.Barrier(8)
        def start():
            ready.wait()
            with allgone.Popen(["sleep", "1000"], backend="cgroup") as child:
                scopes.add(os.path.dirname(child._containment.where()))
                child.stop()
        threads = [threading.Thread(target=start) for _ in range(8)]
        for each in threads: each.start()
        for each in threads: each.join()
        assert len(scopes) == 1, scopes
    """
    environment.run_python(code, place=place)


@pytest.mark.parametrize("place", [ROOT_SERVICE, USER_SESSION], ids=str)
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_a_forked_supervisor_has_a_scope_of_its_own_that_goes_with_it(
    environment: Environment, place: Place, method: str
) -> None:
    code = """
        import allgone, multiprocessing, os, runpy, sys, tempfile, textwrap
        # multiprocessing's spawn imports the main module, so it must be a file
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "main.py")
            with open(path, "w") as f:
                f.write(textwrap.dedent('''
                    import allgone, multiprocessing, os, sys
                    def start(queue):
                        with allgone.Popen(["sleep", "1000"], backend="cgroup") as child:
                            queue.put(os.path.dirname(child._containment.where()))
                            child.stop()
                    if __name__ == "__main__":
                        context = multiprocessing.get_context(sys.argv[1])
                        with allgone.Popen(["sleep", "1000"], backend="cgroup") as mine:
                            queue = context.Queue()
                            process = context.Process(target=start, args=(queue,))
                            process.start()
                            theirs = queue.get(timeout=30)
                            process.join()
                            ours = os.path.dirname(mine._containment.where())
                            assert theirs != ours and f"-{process.pid}-" in theirs, (theirs, ours)
                            assert mine.poll() is None
                            mine.stop()
                '''))
            import subprocess
            subprocess.run([sys.executable, path, sys.argv[1]], check=True)
    """
    environment.run_python(code, method, place=place)


@pytest.mark.parametrize("place", SCOPED, ids=str)
def test_a_daemon_is_stopped_with_its_leader(environment: Environment, place: Place) -> None:
    code = """
        import allgone
        script = "setsid sh -c 'sleep 1000 & exec sleep 1000' & wait"
        with allgone.Popen(["sh", "-c", script], backend="cgroup") as child:
            while len(child.members()) < 3: pass
            report = child.stop()
        assert len(report.members) == 3, report
        assert not child.members() and not report.ended_from_outside, report
    """
    environment.run_python(code, place=place, seconds=20)


@pytest.mark.parametrize("place", PLACES, ids=str)
def test_a_supervisor_that_ends_without_stopping_leaves_nothing(environment: Environment, place: Place) -> None:
    environment.run_python(
        'import allgone; allgone.Popen(["sleep", "1000"], backend="cgroup")', place=place, check=False
    )


@pytest.mark.parametrize("place", PLACES, ids=str)
def test_doctor_says_how_the_cgroup_is_had(environment: Environment, place: Place) -> None:
    said = environment.run(environment.python, "-m", "allgone", "doctor", place=place).stdout
    assert ("transient scope" in said) == (place in SCOPED)
    assert ("has delegated" in said) == (place not in SCOPED)
