"""What a traced command may have had others start: the transient units that are there since."""

from __future__ import annotations

import pytest
from support.systemd_env import ROOT_SERVICE, USER_SESSION, Environment, Place


@pytest.mark.parametrize("place", [ROOT_SERVICE, USER_SESSION], ids=str)
def test_units_made_since_then_are_named_and_ours_are_not(environment: Environment, place: Place) -> None:
    code = """
        import allgone, os, subprocess, time
        from allgone._linux import systemd
        user = ["--user"] if os.getuid() else []
        def run(name):
            subprocess.run(["systemd-run", *user, "--quiet", "--unit", name, "sleep", "1000"], check=True)
        run("before")
        time.sleep(0.05)  # the times of files are coarse
        since = time.time()
        with allgone.Popen(["sleep", "1000"], backend="cgroup") as child:
            assert systemd.transient_units(since) == []
            run("asked")
            assert systemd.transient_units(since) == ["asked.service"]
            child.stop()
        subprocess.run(["systemctl", *user, "stop", "before", "asked"], check=True)
        assert systemd.transient_units(since) == []
    """
    environment.run_python(code, place=place)
