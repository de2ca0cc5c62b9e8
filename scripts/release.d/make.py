"""Makes the files of a release from one commit. Run by scripts/release, by the Python of the tools it has installed."""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(Path(__file__).resolve().parent))

import sbom  # noqa: E402

ARCHITECTURES = ("x86_64", "aarch64", "riscv64")
SUMS = "SHA256SUMS"


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/release")
    parser.add_argument("--commit")
    parser.add_argument("--out", type=Path, default=TOP / "dist")
    asked = parser.parse_args()
    check_compilers()
    check_out(asked.out)
    if asked.commit is None and git("status", "--porcelain"):
        fail("the working tree has changes that are in no commit; commit them, or name the commit: --commit HEAD")
    commit = git("rev-parse", "--verify", f"{asked.commit or 'HEAD'}^{{commit}}").strip()
    os.umask(0o022)
    with tempfile.TemporaryDirectory(prefix="allgone-release-") as folder:
        made = make(commit, Path(folder))
        put(made, asked.out)
    for path in sorted(asked.out.iterdir()):
        print(path)


def make(commit: str, folder: Path) -> Path:
    """The directory with all files of a release."""
    exported, out = folder / "commit", folder / "dist"
    exported.mkdir()
    archive = folder / "commit.tar"
    git("archive", "--format=tar", f"--output={archive}", commit)
    unpack(archive, exported)
    # https://reproducible-builds.org/specs/source-date-epoch/
    epoch = git("show", "--no-patch", "--format=%ct", commit).strip()
    build(exported, out, "--sdist", epoch)
    (sdist,) = out.glob("*.tar.gz")
    unpack(sdist, folder)  # so that the sdist has all that a wheel takes
    source = folder / sdist.name.removesuffix(".tar.gz")
    check_changelog(source)
    for architecture in ARCHITECTURES:
        build(source, out, "--wheel", epoch, CC=compiler(architecture), ALLGONE_WHEEL_FOR=architecture)
    described = sbom.of_release(out, commit, int(epoch), {each: compiler(each) for each in ARCHITECTURES})
    (out / (sdist.name.removesuffix(".tar.gz") + ".cdx.json")).write_text(described)
    sums = "".join(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in sorted(out.iterdir()))
    (out / SUMS).write_text(sums)
    return out


def unpack(archive: Path, folder: Path) -> None:
    """With the modes that are in it. tarfile, without a filter, warns since Python 3.12; before 3.11.4 it has none."""
    subprocess.run(["tar", "-xpf", archive, "-C", folder, "--no-same-owner"], check=True)


def build(source: Path, out: Path, kind: str, epoch: str, **more: str) -> None:
    environment = {
        "PATH": os.environ["PATH"], "HOME": str(out.parent), "LC_ALL": "C.UTF-8", "TZ": "UTC",
        "SOURCE_DATE_EPOCH": epoch, **more,
    }  # fmt: skip
    command = [sys.executable, "-I", "-m", "build", "--no-isolation", kind, "--outdir", str(out), str(source)]
    done = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode:
        fail(f"{kind} {more.get('ALLGONE_WHEEL_FOR', '')}:\n{done.stdout}{done.stderr}")


def compiler(architecture: str) -> str:
    """Debian's name for it: native or cross, the same code comes out."""
    return f"{architecture}-linux-gnu-gcc"


def check_compilers() -> None:
    missing = [cc for cc in map(compiler, ARCHITECTURES) if shutil.which(cc) is None]
    if missing:
        packages = " ".join(each.removesuffix("-gcc").replace("_", "-").join(("gcc-", "")) for each in missing)
        fail(f"not found: {', '.join(missing)}. apt-get install {packages}")


def check_changelog(source: Path) -> None:
    """What is released as more than a development version has its section there."""
    version = source.name.removeprefix("allgone-")
    if ".dev" not in version and f"\n## [{version}]" not in (source / "CHANGELOG.md").read_text(encoding="utf-8"):
        fail(f"CHANGELOG.md has no section [{version}]")


def check_out(out: Path) -> None:
    """Nothing is removed but a release."""
    if out.exists() and (strange := sorted({path.name for path in out.iterdir()} - released(out))):
        fail(f"{out} holds what is no release's: {', '.join(strange)}")


def released(out: Path) -> set[str]:
    """The names of the files of the release in a directory."""
    sums = out / SUMS
    return {SUMS, *(line.split("  ")[1] for line in sums.read_text().splitlines())} if sums.exists() else set()


def put(made: Path, out: Path) -> None:
    for name in released(out):
        (out / name).unlink(missing_ok=True)
    out.mkdir(parents=True, exist_ok=True)
    for path in sorted(made.iterdir(), key=lambda each: each.name == SUMS):
        shutil.copyfile(path, out / path.name)


def git(*words: str) -> str:
    done = subprocess.run(["git", "-C", str(TOP), "-c", "tar.umask=0022", *words], capture_output=True, text=True)
    if done.returncode:
        fail(f"git {' '.join(words)}: {done.stderr.strip()}")
    return done.stdout


def fail(why: str) -> None:
    sys.exit(f"release: {why}")


if __name__ == "__main__":
    main()
