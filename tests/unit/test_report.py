"""A report reads well and is JSON."""

from __future__ import annotations

import json
import pickle
import signal

from allgone import Exec, Genealogy, Life, Process, Report, Sent

MASTER = Process(101, "nginx", "nginx: master process", "root")
WORKERS = tuple(Process(pid, "nginx", "nginx: worker process", "www-data") for pid in range(102, 112))
SENT = (Sent(signal.SIGTERM, (101, 102), 0.0004), Sent(signal.SIGKILL, (102,), 5.0), Sent(60, (1, 2, 3), 6))
FULL = Report("3-nginx", "process-group", -9, (MASTER, *WORKERS), SENT, (MASTER,), (MASTER,), WORKERS[:1], 5.25)


def test_report_reads_well() -> None:
    assert str(FULL).splitlines() == [
        "3-nginx (process-group): ended by SIGKILL, stopped in 5.250 s",
        "  alive at stop: nginx (pid 101), nginx (pid 102), nginx (pid 103), nginx (pid 104), nginx (pid 105), "
        "nginx (pid 106), nginx (pid 107), nginx (pid 108), …",
        "  had to be killed: nginx (pid 101)",
        "  left running, as kill_mode says: nginx (pid 101)",
        "  escaped: nginx (pid 102)",
        "  sent SIGTERM to 2 processes after 0.000 s",
        "  sent SIGKILL to 1 process after 5.000 s",
        "  sent signal 60 to 3 processes after 6.000 s",
    ]


def test_an_uneventful_report_is_one_line() -> None:
    quiet = Report("1-true", "cgroup", 0, (), (), (), (), (), 0.0011)
    assert str(quiet) == "1-true (cgroup): exit status 0, stopped in 0.001 s"


def test_a_return_code_that_is_not_known_is_not_claimed() -> None:
    assert "no exit status" in str(Report("1-x", "cgroup", None, (), (), (), (), (), 0.0))
    assert "ended by signal 60" in str(Report("1-x", "cgroup", -60, (), (), (), (), (), 0.0))


def test_to_dict_survives_json_unchanged() -> None:
    as_json = json.loads(json.dumps(FULL.to_dict()))
    assert as_json["members"][0] == {
        "pid": 101, "name": "nginx", "command": "nginx: master process", "user": "root", "parent": 0, "started": None,
        "how": "",
    }  # fmt: skip
    assert as_json["sent"][0] == {"signum": 15, "pids": [101, 102], "after": 0.0004}
    assert as_json["returncode"] == -9
    assert set(as_json) == set(Report.__slots__)


def test_to_dict_of_a_process_with_an_undecodable_command_line_is_json_too() -> None:
    odd = Process(7, "x\udcff", "x \udcfe")
    report = Report("1-x", "cgroup", 0, (odd,), (), (), (), (), 0.0)
    assert json.loads(json.dumps(report.to_dict()))["members"][0]["name"] == "x\udcff"


def test_report_survives_pickling() -> None:
    assert pickle.loads(pickle.dumps(FULL)) == FULL


def test_a_genealogy_is_one_line_that_does_not_hide_what_is_missing() -> None:
    leader = Life(1, 2, 0.0, None, None, (Exec(0.0, "x"),), ())
    assert str(Genealogy(0.0, (leader,), 0, 0)) == "1 process, execs: 1"
    assert str(Genealogy(0.0, (leader, leader), 7, 8)) == (
        "2 processes, execs: 2; 7 events were lost; 8 were too many to record"
    )
    traced = Report("1-x", "cgroup", 0, (), (), (), (), (), 0.0, genealogy=Genealogy(0.0, (leader,), 0, 0))
    assert str(traced).splitlines()[1:] == ["  traced: 1 process, execs: 1"]
    assert json.loads(json.dumps(traced.to_dict()))["genealogy"]["lives"][0]["execs"] == [{"at": 0.0, "command": "x"}]
