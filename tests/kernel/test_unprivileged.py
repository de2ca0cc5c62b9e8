"""An ordinary user with a delegated cgroup, and without one."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.delegation import NOBODY, as_nobody, delegated, setuid_program

import allgone


@pytest.fixture
def delegation(cgroup_base: str) -> Iterator[str]:
    with delegated(cgroup_base) as folder:
        yield folder


def supervised(code: str, delegation: str, **environment: str) -> list[str]:
    """Lines printed by code run as nobody inside its delegated cgroup."""
    told = {"ALLGONE_CGROUP": delegation, **environment}
    return as_nobody(code, f"{delegation}/supervisor", **told).splitlines()


def test_a_delegated_cgroup_is_all_it_takes(delegation: str) -> None:
    code = """
import allgone, os
command = ["sh", "-c", "setsid sleep 1000 & grep 0:: /proc/self/cgroup"]
with allgone.Popen(command, stdout=-1, backend="cgroup") as process:
    print(process.stdout.readline().decode().count("/delegated/allgone-"), os.getuid())
print(process.report.backend, len(process.report.members))
"""
    assert supervised(code, delegation) == ["1 65534", "cgroup 1"]
    assert sorted(each.name for each in os.scandir(delegation) if each.is_dir()) == ["supervisor"]


SETUID = """
import allgone, json, os, signal, sys
command = json.loads(os.environ["COMMAND"])
policy = allgone.StopPolicy(**json.loads(os.environ["POLICY"]))
process = allgone.Popen(command, stdout=-1, backend="cgroup", policy=policy)
assert process.stdout.readline() == b"ready\\n"
try:
    os.kill(process.pid, 0)
except PermissionError:
    print("not ours to signal")
{then}
process.stdout.close()
print(process.returncode)
"""


def setuid_child(then: str, delegation: str, folder: Path, policy: str) -> list[str]:
    command = json.dumps(setuid_program(folder))
    return supervised(SETUID.format(then=then), delegation, COMMAND=command, POLICY=policy)


@pytest.mark.parametrize("mode", ["control-group", "mixed"])
def test_a_setuid_leader_that_its_supervisor_may_not_signal_is_stopped(
    delegation: str, tmp_path: Path, mode: str
) -> None:
    policy = f'{{"timeout_stop": 0.1, "kill_mode": "{mode}"}}'
    assert setuid_child("process.stop()", delegation, tmp_path, policy) == ["not ours to signal", "-9"]


def test_a_setuid_leader_that_its_supervisor_may_not_signal_is_killed(delegation: str, tmp_path: Path) -> None:
    assert setuid_child("process.kill(); process.wait()", delegation, tmp_path, "{}") == ["not ours to signal", "-9"]


def test_a_setuid_leader_left_by_an_exception_is_stopped_and_the_exception_stays(
    delegation: str, tmp_path: Path
) -> None:
    then = "try:\n    with process: raise KeyError\nexcept KeyError:\n    print('KeyError')"
    printed = setuid_child(then, delegation, tmp_path, '{"timeout_stop": 0.1}')
    assert printed == ["not ours to signal", "KeyError", "-9"]


WHY_NOT = """
import allgone, logging
try:
    allgone.CgroupBackend()
except allgone.BackendUnavailable as e:
    print(e)
logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
print(allgone.run(["true"]).report.backend)
"""


def test_without_delegation_the_reason_and_the_remedy_are_named_and_auto_falls_back(
    cgroup_base: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ALLGONE_CGROUP")
    text = as_nobody(WHY_NOT, cgroup_base)
    assert "not writable for this user" in text or "has not delegated it" in text
    assert "Delegate=yes" in text
    assert text.splitlines()[-1] == "process-group"


def test_a_common_ancestor_that_is_not_ours_is_named_with_a_remedy(delegation: str, cgroup_base: str) -> None:
    # The supervisor is outside of what was delegated: moving its child in takes rights on the cgroup above both.
    outside = f"{cgroup_base}/outside"
    os.mkdir(outside)
    try:
        text = as_nobody(WHY_NOT, outside, ALLGONE_CGROUP=delegation)
    finally:
        os.rmdir(outside)
    assert "Permission denied" in text
    assert "run the supervisor inside the delegated subtree" in text
    assert text.splitlines()[-1] == "process-group"


def test_cgroup_kill_of_a_delegated_root_is_not_writable_and_that_of_a_leaf_is(delegation: str) -> None:
    code = f"""
import os
print(os.access("{delegation}/cgroup.kill", os.W_OK))
os.mkdir("{delegation}/leaf")
print(os.access("{delegation}/leaf/cgroup.kill", os.W_OK))
os.rmdir("{delegation}/leaf")
"""
    assert supervised(code, delegation) == ["False", "True"]
    assert os.stat(delegation).st_uid == NOBODY


def test_a_child_of_another_user_started_by_root_is_born_inside_and_stopped(cgroup_base: str) -> None:
    command = ["sh", "-c", "sleep 1000 & echo $(id -u) $(grep 0:: /proc/self/cgroup)"]
    process = allgone.Popen(command, user=NOBODY, group=NOBODY, extra_groups=[], stdout=-1, backend="cgroup")
    with process:
        uid, cgroup = process.stdout.readline().decode().split()
    assert int(uid) == NOBODY
    assert cgroup.endswith(process._containment.where().removeprefix(os.path.dirname(cgroup_base)))
    assert process.members() == frozenset()
    assert len(process.report.members) == 1
