"""`allgone ps`, `kill`, `stop`: every containment that one may see, by name; only one's own is ended."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from support import cgroups, procfs, users
from support.cgroupv2 import freeze
from support.delegation import DELEGATED
from support.programs import PATIENCE, PROGRAMS, Held
from support.tiers import missing

from cli.command import ALLGONE, Allgone, lines

READY = ["sh", "-c", "echo ready; sleep 1000 & wait"]
POLITE = [
    "sh",
    "-c",
    "sleep 1000 & p=$!; trap 'kill $p; wait $p; echo bye; exit 0' TERM; echo ready; while :; do wait $p; done",
]
KEYS = {
    "name", "id", "backend", "state", "uid", "owner", "owner_command", "command", "unit", "where", "since", "members",
    "memory", "cpu",
}  # fmt: skip


def asked(
    *words: str, status: int = 0, before: tuple[str, ...] = (), **options: Any
) -> subprocess.CompletedProcess[str]:
    """`allgone WORDS`, which ends with that status and, whatever happens, without a traceback."""
    done = subprocess.run(
        [*before, *ALLGONE, *words], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False,
        **options,
    )  # fmt: skip
    assert "Traceback" not in done.stderr, done.stderr
    assert done.returncode == status, (done.returncode, done.stdout, done.stderr)
    return done


def listed(**options: Any) -> list[dict[str, Any]]:
    """What `allgone ps --json` says."""
    done = asked("ps", "--json", **options)
    assert done.stderr == ""
    found = json.loads(done.stdout)
    assert isinstance(found, list)
    return found


def listed_of(owner: int, **options: Any) -> list[dict[str, Any]]:
    """Those of one supervisor: others may be at work on this machine."""
    return [each for each in listed(**options) if each["owner"] == owner]


def rows(*words: str) -> list[list[str]]:
    """The lines of `allgone ps`, split into words."""
    done = asked("ps", *words)
    assert done.stderr == ""
    return [line.split() for line in done.stdout.splitlines()]


@pytest.fixture
def name() -> str:
    """One that nobody else on this machine uses."""
    return f"job-{os.getpid()}-{os.urandom(4).hex()}"


@contextmanager
def ready(
    allgone: Allgone, name: str, *command: str, options: tuple[str, ...] = (), **keywords: Any
) -> Iterator[subprocess.Popen[str]]:
    """`allgone run` whose command has said ready; everything of it is gone afterwards."""
    with allgone.started(*command, options=("--name", name, *options), **keywords) as process:
        assert lines(process.stdout, 1) == ["ready"]
        yield process


# ps


def test_ps_lists_a_containment_with_all_that_is_known_of_it(allgone: Allgone, name: str) -> None:
    before = time.time()
    with ready(allgone, name, *READY) as process:
        (found,) = listed_of(process.pid)
        assert set(found) == KEYS
        assert found["name"] == name
        assert found["id"].endswith(f"/{name}")
        assert str(process.pid) in found["id"]
        assert found["backend"] == allgone.backend
        assert found["state"] == "live"
        assert found["uid"] == os.geteuid()
        assert "allgone run" in found["owner_command"]
        assert found["command"] == " ".join(READY)
        assert found["unit"] is None or found["unit"].endswith((".scope", ".service"))
        assert before - 1 < found["since"] < time.time() + 1
        until = time.monotonic() + PATIENCE
        while {each["name"] for each in found["members"]} != {"sh", "sleep"}:  # just forked, it is a shell still
            assert time.monotonic() < until, found["members"]
            (found,) = listed_of(process.pid)
        assert "sleep 1000" in {each["command"] for each in found["members"]}
        assert all(set(each) == {"pid", "name", "command"} for each in found["members"])
        if allgone.backend == "cgroup":
            assert found["where"].endswith(found["id"])
            assert cgroups.pids(found["where"]) == [each["pid"] for each in found["members"]]
        else:
            assert found["where"] == f"session {found['members'][0]['pid']}"
            assert found["memory"] is found["cpu"] is None


def test_ps_prints_a_table_for_people(allgone: Allgone, name: str) -> None:
    with ready(allgone, name, *READY) as process:
        table = rows()
        assert table[0] == ["NAME", "OWNER", "STATE", "BACKEND", "PROCS", "MEMORY", "CPU", "SINCE", "UNIT", "COMMAND"]
        (row,) = (each for each in table if len(each) > 1 and each[1] == str(process.pid))
        assert row[0].endswith(f"/{name}")
        assert row[2:5] == ["live", allgone.backend, "2"]
        assert row[9:] == " ".join(READY).split()


def test_ps_tree_shows_who_is_whose_child(allgone: Allgone, name: str) -> None:
    with ready(allgone, name, "sh", "-c", "sh -c 'echo ready; sleep 1000 & wait' & wait") as process:
        (found,) = listed_of(process.pid)
        printed = asked("ps", "--tree").stdout.splitlines()
        at = next(n for n, line in enumerate(printed) if f"/{name} " in line)
        pids = {each["command"]: each["pid"] for each in found["members"]}
        below = printed[at + 1 : at + 4]
        assert [len(line) - len(line.lstrip()) for line in below] == [2, 4, 6]
        assert below[0].split()[1:3] == ["sh", "-c"]
        assert below[2].split() == [str(pids["sleep 1000"]), "sleep", "1000"]


def test_what_has_ended_is_not_listed(allgone: Allgone, name: str) -> None:
    with ready(allgone, name, *READY) as process:
        pass
    assert listed_of(process.pid) == []
    assert asked("ps").stdout.count(name) == 0


def test_a_frozen_containment_is_listed_as_frozen_and_can_be_killed(cgroup_base: str, name: str) -> None:
    with ready(Allgone("cgroup"), name, *READY) as process:
        (found,) = listed_of(process.pid)
        freeze(found["where"])
        (found,) = listed_of(process.pid)
        assert found["state"] == "frozen"
        assert asked("kill", name).stdout == f"killed {found['id']}\n"
        assert process.wait(PATIENCE) == -signal.SIGKILL


def test_what_lost_its_supervisor_and_its_guard_is_listed_as_stale_and_can_be_killed(
    cgroup_base: str, name: str
) -> None:
    with ready(Allgone("cgroup"), name, *READY) as process:
        (found,) = listed_of(process.pid)
        home = os.path.dirname(found["where"])
        try:
            (guard,) = cgroups.pids(home + "/guard")
            procfs.end(guard)
            process.kill()
            process.wait()
            (found,) = (each for each in listed() if each["name"] == name)
            assert found["state"] == "stale"
            assert found["owner"] == process.pid
            assert found["owner_command"] == ""
            assert len(found["members"]) == 2
            asked("kill", name)
            assert cgroups.pids(home) == []
        finally:
            cgroups.remove_all(home)


def test_a_command_of_any_bytes_neither_breaks_the_table_nor_reaches_the_terminal(allgone: Allgone, name: str) -> None:
    nasty = b"echo ready; : \n\n\x1b[31m\xff\xc3\x1b]0;title\x07 \xe2\x80\xae; sleep 1000 & wait"
    args = [os.fsencode(each) for each in allgone.args("sh", "-c", "X", options=("--name", name))]
    args[-1] = nasty
    with subprocess.Popen(args, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            assert process.stdout.readline() == b"ready\n"
            for words in (["ps"], ["ps", "--tree"]):
                printed = asked(*words).stdout
                assert len([line for line in printed.splitlines() if f"/{name} " in line]) == 1
                assert printed.replace("\n", "").isprintable()
            (found,) = listed_of(process.pid)
            assert "echo ready" in found["command"]
        finally:
            process.terminate()
            process.communicate(timeout=PATIENCE)


def test_a_multibyte_character_at_the_place_where_a_command_is_cut_is_no_trouble(allgone: Allgone, name: str) -> None:
    for blanks in range(3):
        with ready(allgone, name, "sh", "-c", "echo ready; exec sleep 1000", " " * blanks + "\u20ac" * 400) as process:
            asked("ps")
            (found,) = listed_of(process.pid)
            assert found["name"] == name


def test_a_chain_of_a_thousand_processes_has_a_tree(allgone: Allgone, name: str) -> None:
    with ready(allgone, name, "sh", str(PROGRAMS / "chain.sh"), "1100") as process:
        (found,) = listed_of(process.pid)
        assert len(found["members"]) == 1100
        printed = asked("ps", "--tree").stdout
        assert all(f"chain.sh {n}\n" in printed for n in range(2, 1101))


FORGED = """
import os, signal, sys
from allgone._linux.register import GroupEntry, Register

kind, name, supervisor = sys.argv[1:4]
fd, policy, since, tag = 1000, b"0 15 0 10 0", 17.0, int(sys.argv[4] or 1 << 62 | 5)
if kind == "fifo":
    fd, _ = os.pipe()
elif kind == "device":
    fd = os.open("/dev/zero", os.O_RDONLY)
elif kind != "closed":
    written = Register()
    fd = written.fileno()
    written.add_group(GroupEntry(
        "\\x1b[31m\\n" if kind == "name" else name, (tag, tag), 0, True, False,
        float("nan") if kind == "since" else since, b"garbage" if kind == "policy" else policy,
    ))
    if kind == "sparse":
        os.ftruncate(fd, 1 << 40)
    if kind == "version":
        os.pwrite(fd, b"\\xff", 0)
if kind != "closed":
    os.set_inheritable(fd, True)
wait = "import signal; print('ready', flush=True); signal.pause()"
os.execv("/proc/self/exe", ["allgone-guard", "-c", wait, "3", str(fd), "-", supervisor or str(os.getpid())])
"""


@contextmanager
def forged(kind: str, name: str, supervisor: str = "", tag: str = "", before: tuple[str, ...] = ()) -> Iterator[int]:
    """A process that passes for a guard; its pid, which it says is its supervisor's as well."""
    words = [*before, sys.executable, "-c", FORGED, kind, name, supervisor, tag]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, cwd="/") as forger:
        try:
            assert lines(forger.stdout, 1) == ["ready"]
            yield forger.pid
        finally:
            forger.kill()


@pytest.mark.parametrize(
    "kind", ["fifo", "device", "closed", "sparse", "version", "policy", "since", "supervisor", "name", "sound"]
)
def test_a_process_that_passes_for_a_guard_does_not_break_ps(kind: str, name: str) -> None:
    """Whoever is called allgone-guard may have anything as its register: nothing hangs, nothing is believed."""
    with forged(kind, name, "9" * 500 if kind == "supervisor" else "") as pid:
        done = asked("ps", "--json")
        found = [each for each in json.loads(done.stdout) if each["owner"] == pid]
        assert [each["members"] for each in found] == ([[]] if kind in ("sound", "name") else [])
        assert done.stderr.count("\n") == done.stderr.count("not shown: ") == (kind == "version")
        printed = asked("ps").stdout
        asked("ps", "--tree")
        assert printed.replace("\n", "").isprintable()
        assert asked("kill", f"no-such-{name}", status=125).stderr.count("\n") == 1


def test_ps_is_not_confused_by_containments_that_come_and_go(cgroup_base: str) -> None:
    churn = """
import allgone, signal
over = []  # not by an exception: Python loses one that comes while it is in a __del__
signal.signal(signal.SIGTERM, lambda *_: over.append(True))
while not over:
    for backend in ("cgroup", "process-group"):
        allgone.run(["true"], backend=backend)
        one = allgone.CgroupBackend()
        one.close()
"""
    with subprocess.Popen([sys.executable, "-c", churn]) as busy:
        try:
            for _ in range(10):
                listed()
                asked("ps", "--tree")
            assert busy.poll() is None
        finally:
            busy.terminate()
            busy.wait(PATIENCE)


# kill, stop


def test_kill_by_name_ends_all_of_it(allgone: Allgone, name: str) -> None:
    with ready(allgone, name, *READY) as process:
        (found,) = listed_of(process.pid)
        done = asked("kill", name)
        assert done.stdout == f"killed {found['id']}\n"
        assert done.stderr == ""
        assert not any(procfs.is_alive(each["pid"]) for each in found["members"])
        assert process.wait(PATIENCE) == -signal.SIGKILL


def test_kill_by_id_ends_the_one_that_is_meant(allgone: Allgone, name: str) -> None:
    with ready(allgone, name, *READY) as one, ready(allgone, name, *READY) as other:
        (found,) = listed_of(one.pid)
        assert asked("kill", found["id"]).stdout == f"killed {found['id']}\n"
        assert one.wait(PATIENCE) == -signal.SIGKILL
        assert other.poll() is None
        assert len(listed_of(other.pid)[0]["members"]) == 2


def test_several_are_killed_at_once(allgone: Allgone, name: str) -> None:
    with ready(allgone, name + "-1", *READY) as one, ready(allgone, name + "-2", *READY) as other:
        done = asked("kill", name + "-2", name + "-1")
        assert done.stdout.count("killed ") == 2
        assert one.wait(PATIENCE) == other.wait(PATIENCE) == -signal.SIGKILL


def test_an_ambiguous_name_ends_none_and_says_which_there_are(allgone: Allgone, name: str) -> None:
    with ready(allgone, name, *READY) as one, ready(allgone, name, *READY) as other:
        ids = {listed_of(each.pid)[0]["id"] for each in (one, other)}
        for verb in ("kill", "stop"):
            done = asked(verb, name, status=125)
            assert done.stdout == ""
            assert done.stderr.startswith(f"allgone: '{name}' may be any of ")
            assert all(each in done.stderr for each in ids)
            assert done.stderr.count("\n") == 1
        assert one.poll() is other.poll() is None


def test_a_name_that_nobody_has_is_an_error_and_the_others_are_not_touched(allgone: Allgone, name: str) -> None:
    with ready(allgone, name, *READY) as process:
        for verb in ("kill", "stop"):
            done = asked(verb, name, name + "-x", status=125)
            assert done.stderr == (
                f"allgone: there is no containment '{name}-x' here; allgone ps lists those that there are\n"
            )
            assert done.stdout == ""
        assert process.poll() is None
        assert len(listed_of(process.pid)[0]["members"]) == 2


@pytest.mark.parametrize("mode", ["control-group", "mixed", "process"])
def test_stop_asks_first_as_its_supervisor_would(allgone: Allgone, name: str, mode: str) -> None:
    with ready(allgone, name, *POLITE, options=("--kill-mode", mode)) as process:
        (found,) = listed_of(process.pid)
        assert asked("stop", name).stdout == f"stopped {found['id']}\n"
        assert process.wait(PATIENCE) == 0
        assert lines(process.stdout, 1) == ["bye"]


def test_stop_kills_what_does_not_end_in_time(allgone: Allgone, name: str) -> None:
    stubborn = ["sh", "-c", "trap '' TERM; echo ready; sleep 1000 & wait"]
    with ready(allgone, name, *stubborn, options=("--timeout-stop", "200ms")) as process:
        (found,) = listed_of(process.pid)
        assert asked("stop", name).stdout == f"stopped {found['id']}\n"
        assert process.wait(PATIENCE) == -signal.SIGKILL


def test_kill_does_not_ask(allgone: Allgone, name: str) -> None:
    with ready(allgone, name, *POLITE) as process:
        asked("kill", name)
        assert process.wait(PATIENCE) == -signal.SIGKILL
        assert process.stdout.read() == ""


def test_a_name_of_the_greatest_length_is_found(allgone: Allgone, name: str) -> None:
    long = (name + "-" + "x" * 128)[:128]
    with ready(allgone, long, *READY) as process:
        assert listed_of(process.pid)[0]["name"] == long
        asked("kill", long)
        assert process.wait(PATIENCE) == -signal.SIGKILL


def test_a_daemon_is_killed_with_its_cgroup_or_with_a_process_group_that_sweeps(allgone: Allgone, name: str) -> None:
    daemonises = ["sh", "-c", "setsid sh -c 'trap \"\" TERM; echo ready; sleep 1000' & wait"]
    with ready(allgone, name, *daemonises) as process:
        (found,) = listed_of(process.pid)
        members = [Held(each["pid"]) for each in found["members"]]
        assert len(members) == 3
        asked("kill", name)
        assert all(each.ends_within(PATIENCE) for each in members)
        for each in members:
            each.close()
        process.wait(PATIENCE)


@pytest.mark.parametrize(
    "words", [["kill"], ["stop"], ["kill", "--all", "x"], ["ps", "x"], ["gc", "x"], ["kill", "-x"]]
)
def test_wrong_usage_is_an_error_of_one_line(words: list[str]) -> None:
    done = asked(*words, status=125)
    assert done.stdout == ""
    assert done.stderr.startswith("allgone: ")
    assert done.stderr.endswith(f'(try "allgone {words[0]} --help")\n')
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("name", ["", "../x", "/", "guard", "\udcff", "x" * 5000])
def test_a_name_that_can_be_none_is_one_that_nobody_has(name: str) -> None:
    done = asked("kill", "--", name, status=125)
    assert "there is no containment" in done.stderr


@pytest.mark.parametrize("verb", ["ps", "kill", "stop", "gc"])
def test_help_says_what_it_does(verb: str) -> None:
    done = asked(verb, "--help")
    assert done.stdout.startswith(f"Usage: allgone {verb}")
    assert done.stderr == ""


def test_what_another_user_has_hidden_by_its_umask_is_left_out(cgroup_base: str, other: Other, name: str) -> None:
    with ready(Allgone("cgroup"), name, *READY, umask=0o077) as process:
        assert len(listed_of(process.pid)) == 1
        assert listed_of(process.pid, before=other.before, cwd="/") == []
        asked("gc", "--dry-run", before=other.before, cwd="/")


def test_output_that_nobody_reads_is_no_traceback(allgone: Allgone, name: str) -> None:
    with ready(allgone, name, *READY):
        reader, writer = os.pipe()
        os.close(reader)
        try:
            done = subprocess.run([*ALLGONE, "ps"], stdout=writer, stderr=subprocess.PIPE, text=True, timeout=60)
        finally:
            os.close(writer)
        assert "Traceback" not in done.stderr


# Users


class Other:
    """An ordinary user, with a cgroup of its own."""

    def __init__(self, base: str) -> None:
        self.uid = users.spare_uid()
        self.place = f"{base}/of-{self.uid}"
        os.mkdir(self.place)
        for path in (self.place, *(f"{self.place}/{each}" for each in DELEGATED)):
            os.chown(path, self.uid, self.uid)
        os.mkdir(f"{self.place}/inside")
        for each in ("", *(f"/{name}" for name in DELEGATED)):
            os.chown(f"{self.place}/inside{each}", self.uid, self.uid)

    @property
    def before(self) -> tuple[str, ...]:
        become = ("setpriv", "--reuid", str(self.uid), "--regid", str(self.uid), "--clear-groups")
        return ("sh", "-c", 'echo $$ > "$0/cgroup.procs" && exec "$@"', f"{self.place}/inside", *become)

    @contextmanager
    def ready(self, backend: str, name: str, *command: str) -> Iterator[subprocess.Popen[str]]:
        args = Allgone(backend).args(*command, options=("--name", name))
        env = {**os.environ, "ALLGONE_CGROUP": self.place}
        with subprocess.Popen(
            [*self.before, *args], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, env=env, cwd="/"
        ) as process:
            try:
                assert lines(process.stdout, 1) == ["ready"]
                yield process
            finally:
                process.terminate()
                process.wait(PATIENCE)


@pytest.fixture
def other(cgroup_base: str) -> Iterator[Other]:
    made = Other(cgroup_base)
    try:
        if subprocess.run([*made.before, *ALLGONE, "--version"], capture_output=True, cwd="/").returncode:
            missing("another user can't execute this Python")
        yield made
    finally:
        cgroups.remove_all(made.place)


@pytest.mark.parametrize("verb", ["kill", "stop"])
def test_another_users_containment_is_refused_to_a_user(allgone: Allgone, other: Other, name: str, verb: str) -> None:
    """And not even seen, where that user can't read the guard's list."""
    with ready(allgone, name, *READY) as process:
        done = asked(verb, name, status=125, before=other.before, cwd="/")
        if allgone.backend == "cgroup":
            assert done.stderr.endswith(f"/{name} is of user 0; only that user and root may end it\n")
            assert [each["uid"] for each in listed_of(process.pid, before=other.before, cwd="/")] == [0]
        else:
            assert f"there is no containment '{name}'" in done.stderr
        assert done.stdout == ""
        assert process.poll() is None
        assert len(listed_of(process.pid)[0]["members"]) == 2


def test_a_users_containment_is_roots_to_end(allgone: Allgone, other: Other, name: str) -> None:
    with other.ready(allgone.backend, name, *READY) as process:
        (found,) = listed_of(process.pid)
        assert found["uid"] == other.uid
        assert found["backend"] == allgone.backend
        asked("kill", name)
        assert process.wait(PATIENCE) == -signal.SIGKILL


def test_all_of_a_user_is_all_that_is_its_own(allgone: Allgone, other: Other, name: str) -> None:
    with (
        ready(allgone, name, *READY) as roots,
        other.ready(allgone.backend, name, *READY) as one,
        other.ready(allgone.backend, name + "-2", *READY) as two,
    ):
        done = asked("kill", "--all", before=other.before, cwd="/")
        assert sorted(line.rpartition("/")[2] for line in done.stdout.splitlines()) == [name, name + "-2"]
        assert one.wait(PATIENCE) == two.wait(PATIENCE) == -signal.SIGKILL
        assert roots.poll() is None
        assert len(listed_of(roots.pid)[0]["members"]) == 2


def test_a_users_list_can_not_make_root_kill_what_is_not_that_users(other: Other, name: str) -> None:
    """The tag in it may be anybody's; only processes of that user are taken for its members."""
    with ready(Allgone("process-group"), name, "bash", "-c", "echo ready; ulimit -x; sleep 1000 & wait") as process:
        (tag,) = lines(process.stdout, 1)
        with forged("sound", name + "-x", tag=tag, before=other.before) as pid:
            (found,) = listed_of(pid)
            assert found["members"] == []
            asked("kill", name + "-x")
            assert process.poll() is None
            assert len(listed_of(process.pid)[0]["members"]) == 2
        with forged("sound", name + "-x", tag=tag) as pid:  # had root written it, it would be believed
            assert len(listed_of(pid)[0]["members"]) == 2


EVERYTHING = """
import os, subprocess, sys
import allgone
from allgone.cli import main

def waits(backend):
    words = [sys.executable, "-m", "allgone", "run", "--backend", backend, "--", "sh", "-c", "echo ready; sleep 1000"]
    made = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    assert made.stdout.readline() == "ready\\n"
    return made

several = [waits(backend) for backend in ("cgroup", "process-group") for _ in range(2)]
bystander = subprocess.Popen(["sleep", "1000"])
print("status", main(["kill", "--all"]), flush=True)
for each in several:
    print("ended by", each.wait(20), flush=True)
print("bystander", bystander.poll(), flush=True)
bystander.kill()
bystander.wait()
print("again", main(["kill", "--all"]), flush=True)
"""


def test_all_of_root_is_all_there_is(cgroup_base: str) -> None:
    """In namespaces of its own: nobody else on this machine is to be ended."""
    if os.geteuid() != 0:
        missing("only root can make namespaces for it")
    point = tempfile.mkdtemp()
    place = f"{cgroup_base}/place"
    os.mkdir(place)
    try:
        done = subprocess.run(
            ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", str(PROGRAMS / "only_here.sh"), place,
             point, sys.executable, "-c", EVERYTHING],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60,
            env={**os.environ, "ALLGONE_CGROUP": point},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        killed = [line for line in done.stdout.splitlines() if line.startswith("killed ")]
        assert len(killed) == 4
        assert [line for line in done.stdout.splitlines() if line not in killed] == [
            "status 0", *["ended by -9"] * 4, "bystander None", "again 0",
        ]  # fmt: skip
    finally:
        cgroups.remove_all(place)
        os.rmdir(point)
