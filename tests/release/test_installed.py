"""The wheel itself, installed where nothing else of allgone is: each Python, other Debians, other C libraries and machines."""

from __future__ import annotations

import json
import os
import platform
import select
import shutil
import signal
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from peers.interpreters import other_pythons
from peers.sdists import unpack
from support import cgroups, programs
from support.systemd_env import Environment
from support.tiers import missing

from allgone._linux.register import Register
from release.common import ROOT, clean_environment

INSTALLED = Path(__file__).with_name("installed.py")
VERSIONS = ("3.10", "3.11", "3.12", "3.13")
THIS = "{}.{}".format(*sys.version_info)
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "allgone"
PACKAGES = "python3 python3-venv python3-psutil python3-pyroute2 python3-click python3-pystemd"


@pytest.fixture(scope="module", params=VERSIONS)
def venv(request: pytest.FixtureRequest, wheels: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clean one of each Python (without --run-slow: of this one), with the wheel and what that requires."""
    version = request.param
    if version != THIS:
        request.getfixturevalue("slow")
    if platform.machine() not in wheels:
        missing(f"no wheel is made for {platform.machine()}")
    python = python_of(version)
    made = tmp_path_factory.mktemp("venv") / version
    quietly(python, "-I", "-m", "venv", str(made))
    quietly(str(made / "bin/python"), *PIP, "--only-binary=allgone", str(wheels[platform.machine()]))
    return made


PIP = ("-I", "-m", "pip", "install", "-q", "--disable-pip-version-check")


def python_of(version: str) -> str:
    if version == THIS:
        return os.path.realpath(sys.executable)
    for python in other_pythons(True):
        said = subprocess.run(
            [python, "-I", "-c", "import sys; print('{}.{}'.format(*sys.version_info))"],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if said.stdout.strip() == version:
            return python
    pytest.skip(f"no Python {version} here")


def quietly(*words: str, **options: object) -> str:
    """What it prints; fails unless it succeeds."""
    done = subprocess.run(
        words, env=clean_environment(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, timeout=programs.TEST_WITHIN, check=False, **options,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_a_wheel_works_in_a_clean_venv(venv: Path, cgroup_base: str, version: str, tmp_path: Path) -> None:
    said = quietly(
        str(venv / "bin/python"), "-I", str(INSTALLED), "compiled", "cgroup", "process-group", cwd=tmp_path
    )  # fmt: skip
    found = json.loads(said.splitlines()[-1])
    assert found["file"].startswith(f"{venv}/lib/")
    assert found["version"] == version


@pytest.mark.timeout(900)
def test_the_tests_of_the_sdist_pass_with_the_wheel(venv: Path, dist: Path, slow: None, tmp_path: Path) -> None:
    """Those that are most likely to tell; there is no `src` beside them."""
    (sdist,) = dist.glob("*.tar.gz")
    unpack(sdist, tmp_path)
    (source,) = tmp_path.iterdir()
    shutil.rmtree(source / "src/allgone")
    python = str(venv / "bin/python")
    quietly(python, *PIP, "pytest>=8", "pytest-timeout>=2.3")
    tests = ["tests/contract/test_run.py", "tests/contract/test_with_blocks.py", "tests/unit/test_launcher.py"]
    done = subprocess.run(
        [python, "-m", "pytest", "-q", "-p", "no:xprocess", *tests],
        cwd=source, env=clean_environment(), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=800,
    )  # fmt: skip
    print(done.stdout.splitlines()[-1])
    assert done.returncode == 0, done.stdout


@pytest.fixture(scope="module", params=["bookworm", "trixie"])
def debian(request: pytest.FixtureRequest, slow: None, dist: Path) -> Iterator[Environment]:
    """A Debian of its own, with the release to be seen in it; a real systemd runs in it."""
    if os.getuid() != 0:
        missing("an environment with systemd needs root")
    root = CACHE / f"release-{request.param}"
    script = ROOT / "scripts/systemd-env.d/debian-root"
    built = subprocess.run(
        [script, request.param, root, *PACKAGES.split()], capture_output=True, text=True, check=False
    )
    if built.returncode:
        missing(f"no root directory of Debian {request.param}: {built.stderr.strip()}")
    name = f"test-{os.getpid()}-{request.param}"
    bound = ["--bind-ro", str(dist), "--bind-ro", str(INSTALLED.parent)]
    try:
        made = Environment.up(name, "--root", str(root), *bound, python="/opt/allgone/bin/python")
    except RuntimeError as e:
        missing(f"no systemd could be booted: {e}")
    yield made
    made.down()


@pytest.mark.timeout(600)  # the first time a whole Debian is fetched
def test_a_wheel_works_in_another_debian(debian: Environment, wheels: dict[str, Path], version: str) -> None:
    """With the packages that Debian has of what it requires."""
    debian.run("python3", "-m", "venv", "--system-site-packages", "/opt/allgone")
    debian.run(debian.python, *PIP, "--no-index", str(wheels[platform.machine()]))
    said = debian.run(debian.python, "-I", str(INSTALLED), "compiled", "cgroup", "process-group").stdout
    found = json.loads(said.splitlines()[-1])
    assert found["file"].startswith("/opt/allgone/lib/")
    assert (found["version"], found["auto"]) == (version, "cgroup")
    print(found)


# The programs alone, on other machines and with other C libraries


@pytest.fixture(params=["native", "musl", "aarch64", "riscv64"])
def program(request: pytest.FixtureRequest, programs: dict[str, Path], tmp_path: Path) -> list[str]:
    """What is put before the name of a program's file, whose directory comes last."""
    if request.param == "native":
        return [f"{programs[platform.machine()]}/"]
    if request.param == "musl":
        return ["chroot", str(musl_root(tmp_path / "root", programs["x86_64"])), "/"]
    qemu = shutil.which(f"qemu-{request.param}-static") or missing(f"no qemu-{request.param}-static")
    return [qemu, f"{programs[request.param]}/"]


def musl_root(root: Path, programs: Path) -> Path:
    """A root directory with nothing but musl, one program that is linked with it, and ours."""
    if os.getuid() != 0:
        missing("chroot needs root")
    cc, library = shutil.which("musl-gcc"), Path("/lib/ld-musl-x86_64.so.1")
    if cc is None or not library.exists():
        missing("no musl here: apt-get install musl-tools")
    shutil.copytree(programs, root)
    (root / "lib").mkdir()
    shutil.copy(library, root / "lib")
    source = root / "cat.c"
    source.write_text(
        '#include <stdio.h>\nint main(void) { int c; while ((c = getchar()) != EOF) putchar(c); puts("x"); }'
    )
    subprocess.run([cc, "-o", root / "cat", source], check=True)
    return root


def argv(program: list[str], name: str) -> list[str]:
    return [*program[:-1], program[-1] + name]


def test_a_launcher_enters_a_cgroup_and_becomes_the_command(program: list[str], cgroup_base: str) -> None:
    folder = f"{cgroup_base}/entered"
    os.mkdir(folder)
    procs = os.open(f"{folder}/cgroup.procs", os.O_WRONLY)
    command = "/cat" if program[0] == "chroot" else "cat"
    try:
        with subprocess.Popen(
            [*argv(program, "allgone-launch"), "-", str(procs), "-", "-", "-", "-", command, command],
            pass_fds=[procs], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0,
        ) as process:  # fmt: skip
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(b"hi\n" * 4096)  # musl's stdio gives on what is more than its buffer
            assert process.stdout.read(3) == b"hi\n"
            assert cgroups.pids(folder) == [process.pid]
            process.stdin.close()
            process.stdout.read()
        assert process.returncode == 0
    finally:
        os.close(procs)
        cgroups.remove_all(folder)


def test_a_guard_is_born_and_ends_when_it_is_told_to(program: list[str]) -> None:
    with born(program, os.getpid(), "-") as (guard, pipe):
        os.write(pipe, b"q\0\0\0\0")
        assert ends(guard)


def test_a_guard_kills_what_is_in_the_register_when_the_supervisor_is_gone(
    program: list[str], cgroup_base: str
) -> None:
    if program[0] == "chroot":
        pytest.skip("no cgroups are to be seen in there")
    home = f"{cgroup_base}/home"
    os.makedirs(f"{home}/1-sleep")
    supervisor, member = (subprocess.Popen(["sleep", "100"]) for _ in range(2))
    cgroups.write(f"{home}/1-sleep/cgroup.procs", str(member.pid))
    register = Register()
    try:
        register.home_made(register.add_home(home), os.stat(home).st_ino)
        with born(program, supervisor.pid, register.fileno()) as (guard, _):
            supervisor.kill()
            assert member.wait(30) == -signal.SIGKILL
            assert ends(guard)
    finally:
        for each in (supervisor, member):
            each.kill()
            each.wait()
        register.close()
        cgroups.remove_all(home)


@contextmanager
def born(program: list[str], supervisor: int, register: int | str) -> Iterator[tuple[int, int]]:
    """A guard of that process: its pidfd, and the pipe on which it is spoken to."""
    with ExitStack() as stack:

        def kept(fd: int) -> int:
            stack.callback(os.close, fd)
            return fd

        reader, writer = map(kept, os.pipe())
        heard, pipe = map(kept, os.pipe())
        fds = [writer, heard, kept(os.pidfd_open(supervisor)), *([register] if isinstance(register, int) else [])]
        words = [*argv(program, "allgone-guard"), *map(str, fds), *(["-"] if register == "-" else []), "-"]
        subprocess.run(words, pass_fds=fds, timeout=60, check=True)
        stage, pid = struct.unpack("=ii", os.read(reader, 8))
        assert stage == 5  # STAGE_BORN
        yield kept(os.pidfd_open(pid)), pipe


def ends(pidfd: int) -> bool:
    poller = select.poll()
    poller.register(pidfd, select.POLLIN)
    return bool(poller.poll(30_000))
