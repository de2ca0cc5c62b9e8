"""What a release consists of: the same bytes wherever it is made, complete, and told in full by its SBOM."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shutil
import struct
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest
from packaging import tags
from packaging.requirements import Requirement
from packaging.utils import parse_wheel_filename
from support import programs
from support.tiers import missing

from release.common import MACHINES, ROOT

TOOLS = ROOT / "build/release-tools/bin/python"


@pytest.fixture(scope="module")
def clone(dist: Path, commit: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another checkout, with another umask."""
    folder = tmp_path_factory.mktemp("a clone") / "somewhere else"
    clone = ["git", "clone", "--quiet", "--no-hardlinks", str(ROOT), str(folder)]
    subprocess.run(clone, umask=0o077, check=True, timeout=60)
    subprocess.run(["git", "-C", folder, "checkout", "--quiet", "--detach", commit], umask=0o077, check=True)
    return folder


def make(checkout: Path, *words: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
    """What scripts/release runs when its tools are there."""
    command = [TOOLS, "-I", checkout / "scripts/release.d/make.py", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=programs.TEST_WITHIN, check=False, **options)


def test_it_is_the_same_bytes_in_another_place_with_another_umask_time_zone_and_locale(
    dist: Path, clone: Path, tmp_path: Path
) -> None:
    temporary = tmp_path / "a much longer name of a temporary directory"
    temporary.mkdir()
    changed = {
        "TZ": "Asia/Kathmandu", "LC_ALL": "tr_TR.UTF-8", "LANG": "C", "SOURCE_DATE_EPOCH": "1", "TMPDIR": str(temporary),
        "HOME": str(tmp_path), "PYTHONHASHSEED": "1", "CFLAGS": "-O0", "CC": "false",
    }  # fmt: skip
    out = tmp_path / "out"
    done = make(clone, "--out", out, umask=0o077, cwd="/", env={**os.environ, **changed})
    assert done.returncode == 0, done.stderr
    assert (out / "SHA256SUMS").read_text() == (dist / "SHA256SUMS").read_text()
    assert os.listdir(temporary) == []


def test_the_sums_are_those_of_all_files(dist: Path) -> None:
    checked = subprocess.run(
        ["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=dist, capture_output=True, text=True
    )
    assert checked.returncode == 0, checked.stderr
    assert {line.split(": ")[0] for line in checked.stdout.splitlines()} == set(os.listdir(dist)) - {"SHA256SUMS"}


def test_a_tree_with_changes_is_not_released_by_mistake(clone: Path, tmp_path: Path) -> None:
    (clone / "README.md").write_text("changed")
    done = make(clone, "--out", tmp_path / "out")
    assert done.returncode == 1
    assert "the working tree has changes that are in no commit" in done.stderr
    assert not (tmp_path / "out").exists()
    subprocess.run(["git", "-C", clone, "checkout", "--quiet", "."], check=True)


def test_nothing_but_an_earlier_release_is_removed(clone: Path, tmp_path: Path) -> None:
    (tmp_path / "precious").touch()
    done = make(clone, "--out", tmp_path)
    assert done.returncode == 1
    assert f"{tmp_path} holds what is no release's: precious" in done.stderr
    assert os.listdir(tmp_path) == ["precious"]


def test_a_commit_that_is_none_is_told(clone: Path, tmp_path: Path) -> None:
    done = make(clone, "--out", tmp_path / "out", "--commit", "no-such-commit")
    assert done.returncode == 1
    assert "no-such-commit" in done.stderr
    assert "Traceback" not in done.stderr


# Wheels


@pytest.mark.parametrize("architecture", MACHINES)
def test_a_wheel_has_the_programs_for_its_machine(wheels: dict[str, Path], architecture: str) -> None:
    with zipfile.ZipFile(wheels[architecture]) as wheel:
        for name in ("allgone-launch", "allgone-guard"):
            image = wheel.read(f"allgone/_linux/{name}")
            assert image[:4] == b"\x7fELF"
            assert struct.unpack_from("<H", image, 18)[0] == MACHINES[architecture]
            assert b"ld-" not in image
            assert wheel.getinfo(f"allgone/_linux/{name}").external_attr >> 16 == 0o100755


def test_wheels_have_the_whole_package_and_differ_in_the_programs_only(wheels: dict[str, Path], commit: str) -> None:
    listed = subprocess.run(
        ["git", "-C", ROOT, "ls-tree", "-r", "--name-only", commit, "src/allgone", "docs/fleet"],
        capture_output=True, text=True,
    )  # fmt: skip
    sources = {re.sub("^src/|^docs/fleet/", _in_the_wheel, line) for line in listed.stdout.splitlines()}
    parts = {}
    for architecture, path in wheels.items():
        with zipfile.ZipFile(path) as wheel:
            texts = {name: wheel.read(name) for name in wheel.namelist()}
        own = {name for name in texts if re.search(r"_linux/allgone-|\.dist-info/(WHEEL|RECORD)$", name)}
        package = {
            re.sub("^[^/]+[.]data/", "", name) for name in texts if not name.partition("/")[0].endswith(".dist-info")
        }
        assert package - own == sources
        parts[architecture] = {name: text for name, text in texts.items() if name not in own}
    assert parts["x86_64"] == parts["aarch64"] == parts["riscv64"]
    assert any(name.endswith("licenses/LICENSE") for name in parts["x86_64"])


def _in_the_wheel(found: re.Match[str]) -> str:
    return "" if found[0] == "src/" else "data/share/allgone/"


@pytest.mark.parametrize("architecture", MACHINES)
def test_a_wheel_is_for_glibc_and_for_musl(wheels: dict[str, Path], architecture: str) -> None:
    found = {str(tag) for tag in parse_wheel_filename(wheels[architecture].name)[3]}
    assert found == {f"py3-none-manylinux_2_17_{architecture}", f"py3-none-musllinux_1_1_{architecture}"}


def test_pip_takes_the_wheel_of_this_machine_and_no_other(wheels: dict[str, Path]) -> None:
    assert installable(wheels, set(tags.sys_tags())) == [platform.machine()]


def test_a_python_that_is_linked_with_musl_takes_it_too(wheels: dict[str, Path], tmp_path: Path) -> None:
    """As pip finds out: by the interpreter's own ELF header, and by what its loader says."""
    cc = shutil.which("musl-gcc") or missing("no musl-gcc: apt-get install musl-tools")
    (tmp_path / "python.c").write_text("int main(void) { return 0; }")
    subprocess.run([cc, "-o", tmp_path / "python", tmp_path / "python.c"], check=True)
    code = (
        "import sys; sys.executable = sys.argv[1]\n"
        "from packaging import tags; print(*(t for t in tags.sys_tags() if 'manylinux' not in t.platform))"
    )
    said = subprocess.run([sys.executable, "-c", code, tmp_path / "python"], capture_output=True, text=True, check=True)
    found = {tag for text in said.stdout.split() for tag in tags.parse_tag(text)}
    assert any("musllinux_1_2" in tag.platform for tag in found)
    assert installable(wheels, found) == [platform.machine()]


def installable(wheels: dict[str, Path], supported: set[tags.Tag]) -> list[str]:
    return [each for each, path in wheels.items() if not supported.isdisjoint(parse_wheel_filename(path.name)[3])]


# sdist


def test_the_sdist_has_what_it_takes_to_build_test_and_release(dist: Path, commit: str) -> None:
    (path,) = dist.glob("*.tar.gz")
    with tarfile.open(path) as sdist:
        members = {each.name.partition("/")[2]: each for each in sdist.getmembers()}
    tracked = subprocess.run(
        ["git", "-C", ROOT, "ls-tree", "-r", "--name-only", commit], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    left_out = {each for each in tracked if each not in members}
    assert left_out <= {".ci/run", ".gitignore"}
    assert members.keys() - tracked == {"PKG-INFO"}
    assert members["scripts/release"].mode == 0o755
    assert {(each.uid, each.gid, each.uname, each.mtime) for each in members.values()} == {(0, 0, "", epoch(commit))}


def epoch(commit: str) -> int:
    command = ["git", "-C", str(ROOT), "show", "--no-patch", "--format=%ct", commit]
    return int(subprocess.run(command, capture_output=True, check=True).stdout)


# SBOM


def components(sbom: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {each["name"]: each for each in sbom["components"]}


def test_the_sbom_has_the_hash_of_each_file_and_of_each_program(dist: Path, sbom: dict[str, Any]) -> None:
    found = components(sbom)
    for path in (*dist.glob("*.whl"), *dist.glob("*.tar.gz")):
        assert sha256(found[path.name]) == hashlib.sha256(path.read_bytes()).hexdigest()
        inside = found[path.name].get("components", [])
        assert len(inside) == (2 if path.suffix == ".whl" else 0)
        for each in inside:
            with zipfile.ZipFile(path) as wheel:
                assert sha256(each) == hashlib.sha256(wheel.read(each["name"])).hexdigest()


def sha256(component: dict[str, Any]) -> str:
    (only,) = component["hashes"]
    assert only["alg"] == "SHA-256"
    return str(only["content"])


def test_the_sbom_has_what_an_installation_requires_and_what_extras_do(sbom: dict[str, Any]) -> None:
    needed = {name: each for name, each in components(sbom).items() if each["bom-ref"].startswith("requires")}
    assert {name for name, each in needed.items() if each["scope"] == "required"} == {"psutil", "pyroute2", "click"}
    optional = {name for name, each in needed.items() if each["scope"] == "optional"}
    assert optional == {"pystemd", "jinja2", "plotly", "textual", "anyio", "honcho"}
    for name, each in needed.items():
        assert each["purl"] == f"pkg:pypi/{name}"
        assert Requirement(each["properties"][0]["value"]).name == name


def test_the_sbom_says_of_which_commit_and_with_what(sbom: dict[str, Any], commit: str, version: str) -> None:
    about = sbom["metadata"]["component"]
    assert (about["name"], about["version"], about["purl"]) == ("allgone", version, f"pkg:pypi/allgone@{version}")
    assert {"name": "allgone:commit", "value": commit} in about["properties"]
    tools = {name for name, each in components(sbom).items() if each.get("scope") == "excluded" and each["version"]}
    assert tools >= {"hatchling", "zlib", *(f"{each}-linux-gnu-gcc" for each in MACHINES)}


# The version


def test_the_version_is_said_in_one_place_only(version: str, commit: str) -> None:
    """All others ask for it: `allgone --version`, the doctor, reports."""
    pattern = rf"(?<![\w.])v?{re.escape(version)}(?!\.?\w)"
    others = [":!CHANGELOG.md", ":!scripts/release.d/requirements.txt"]  # what may say the same of something else
    found = subprocess.run(
        ["git", "-C", ROOT, "grep", "--perl-regexp", "--files-with-matches", pattern, "--", ".", *others],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (found.stdout, found.stderr) == ("pyproject.toml\n", "")


def test_the_files_of_a_release_are_of_that_version(dist: Path, version: str) -> None:
    names = set(os.listdir(dist)) - {"SHA256SUMS"}
    assert all(name.startswith((f"allgone-{version}-", f"allgone-{version}.")) for name in names)
