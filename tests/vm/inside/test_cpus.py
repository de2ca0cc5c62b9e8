"""The CPUs that a supervisor was given, where systemd and cgroups have a say in that."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from support.machine import SERVICE, supervised

PLACES = [pytest.param((), id="login"), pytest.param(SERVICE, id="service", marks=pytest.mark.root)]


@pytest.mark.parametrize("launcher", ["compiled", "interpreted"])
@pytest.mark.parametrize("before", PLACES)
def test_the_cpus_that_the_supervisor_was_given_are_its_childrens(before: Sequence[str], launcher: str) -> None:
    code = """
        os.environ["ALLGONE_LAUNCHER"] = sys.argv[1]
        cpus = os.sched_getaffinity(0)
        assert len(cpus) > 1, "it takes two to tell"
        show = [sys.executable, "-c", "import os; print(*os.sched_getaffinity(0))"]
        shown = lambda **how: {int(cpu) for cpu in allgone.check_output(show, backend="cgroup", **how).split()}
        os.sched_setaffinity(0, {max(cpus)})
        assert shown() == {max(cpus)}
        assert os.getuid() or shown(extra_groups=[]) == {max(cpus)}
        assert os.sched_getaffinity(0) == {max(cpus)}
        os.sched_setaffinity(0, cpus)
        assert shown() == cpus
    """
    supervised(code, launcher, before=before)
