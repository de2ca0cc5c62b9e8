"""A release, made once for all tests here by scripts/release, from the last commit."""

from __future__ import annotations

import json
import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest
import support.programs
from support.tiers import missing

from release.common import MACHINES, ROOT


@pytest.fixture(scope="session")
def slow(request: pytest.FixtureRequest) -> None:
    """For what takes minutes, or fetches much."""
    if not request.config.getoption("--run-slow"):
        pytest.skip("takes long: --run-slow")


@pytest.fixture(scope="session")
def commit() -> str:
    """The one that is released."""
    told = subprocess.run(["git", "-C", str(ROOT), "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    if told.returncode:
        missing("this is no git repository, and a release is made from a commit")
    return told.stdout.strip()


@pytest.fixture(scope="session")
def dist(commit: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory with its files."""
    for architecture in MACHINES:
        if shutil.which(f"{architecture}-linux-gnu-gcc") is None:
            missing(f"no compiler for {architecture}; scripts/release installs it, as root")
    out = tmp_path_factory.mktemp("release") / "dist"
    done = subprocess.run(
        [ROOT / "scripts/release", "--commit", commit, "--out", out],
        capture_output=True,
        text=True,
        timeout=support.programs.TEST_WITHIN,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == sorted(map(str, out.iterdir()))
    return out


@pytest.fixture(scope="session")
def wheels(dist: Path) -> dict[str, Path]:
    """Its wheels, by architecture."""
    found = {path.name.removesuffix(".whl").partition("musllinux_1_1_")[2]: path for path in dist.glob("*.whl")}
    assert found.keys() == MACHINES.keys()
    return found


@pytest.fixture(scope="session")
def programs(wheels: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Directories with the launcher and the guard of each, as pip would install them."""
    made = {}
    for architecture, wheel in wheels.items():
        folder = made[architecture] = tmp_path_factory.mktemp(architecture)
        with zipfile.ZipFile(wheel) as archive:
            for name in ("allgone-launch", "allgone-guard"):
                info = archive.getinfo(f"allgone/_linux/{name}")
                (folder / name).write_bytes(archive.read(info))
                (folder / name).chmod(info.external_attr >> 16 & 0o777)
    return made


@pytest.fixture(scope="session")
def sbom(dist: Path) -> dict[str, object]:
    (path,) = dist.glob("*.cdx.json")
    found = json.loads(path.read_text())
    assert isinstance(found, dict)
    return found


@pytest.fixture(scope="session")
def version() -> str:
    """As the one place says it."""
    lines = (ROOT / "pyproject.toml").read_text().splitlines()
    return next(line.split('"')[1] for line in lines if line.startswith("version = "))
