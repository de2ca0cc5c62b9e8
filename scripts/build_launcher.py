"""Build hook: compiles launcher and guard into the package; without a compiler it still builds, interpreted.

Run by hatchling for wheels and editable installs (pyproject.toml), and by hand: ``python scripts/build_launcher.py``.
``CC`` names the compiler (default: the first of cc, gcc, clang). ``ALLGONE_WHEEL_FOR`` names the architecture of a
wheel that is for everybody (scripts/release): then it is an error if the programs can't be compiled for that.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ROOT / "src/launcher"
TARGETS = ROOT / "src/allgone/_linux"
PROGRAMS = {"allgone-launch": "launcher.c", "allgone-guard": "guard.c"}
FLAGS = [
    "-std=c11", "-O2", "-Wall", "-Wextra", "-Werror",
    "-ffreestanding", "-nostdlib", "-static", "-fno-pic", "-no-pie", "-fno-stack-protector", "-fno-builtin",
    "-fno-asynchronous-unwind-tables", "-fcf-protection=none",
    "-Wl,--build-id=none", "-Wl,-z,noexecstack", "-Wl,-z,noseparate-code", "-s",
]  # fmt: skip
# What is static and freestanding runs with every C library: the oldest that pip knows for all architectures
# (PEP 600, PEP 656).
EVERYWHERE = "manylinux_2_17_{0}.musllinux_1_1_{0}"


def compiler() -> list[str] | None:
    """The command line of a C compiler, or None where there is none."""
    if os.environ.get("CC") is not None:
        return shlex.split(os.environ["CC"]) or None
    return next(([path] for name in ("cc", "gcc", "clang") if (path := shutil.which(name))), None)


def build(targets: Path = TARGETS, cc: list[str] | None = None) -> bool:
    """Compile the programs into the directory `targets`; False, and none of them there, where that can't be done.

    The reason is on stderr.
    """
    cc = cc or compiler()
    for name in PROGRAMS:
        (targets / name).unlink(missing_ok=True)
    if cc is None:
        print("allgone: no C compiler found; the slower interpreted launcher will be used", file=sys.stderr)
        return False
    flags = [flag for flag in FLAGS if "x86_64" in _machine(cc) or flag != "-fcf-protection=none"]
    for name, source in PROGRAMS.items():
        made = subprocess.run(
            [*cc, *flags, "-o", str(targets / name), str(SOURCES / source)], capture_output=True, text=True
        )
        if made.returncode:
            print(f"allgone: the interpreted launcher will be used, for this failed: {shlex.join(cc)}\n{made.stderr}",
                  file=sys.stderr)  # fmt: skip
            for each in PROGRAMS:
                (targets / each).unlink(missing_ok=True)
            return False
        (targets / name).chmod(0o755)
    return True


def _machine(cc: list[str]) -> str:
    return subprocess.run([*cc, "-dumpmachine"], capture_output=True, text=True).stdout


try:
    from hatchling.builders.hooks.plugin.interface import BuildHookInterface
except ImportError:  # run by hand, outside a build
    pass
else:

    class LauncherHook(BuildHookInterface):  # type: ignore[type-arg]  # its config type is hatchling's own affair
        """Adds the programs to a wheel, which is then py3-none-<platform>."""

        def initialize(self, version: str, build_data: dict[str, object]) -> None:
            if self.target_name != "wheel":
                return
            platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
            wanted = os.environ.get("ALLGONE_WHEEL_FOR")
            if wanted is not None:
                cc = compiler()
                if cc is None or _machine(cc).partition("-")[0] != wanted:
                    raise RuntimeError(f"ALLGONE_WHEEL_FOR={wanted}, and CC names no compiler for that")
                platform = EVERYWHERE.format(wanted)
            if build():
                build_data["pure_python"] = False
                build_data["tag"] = f"py3-none-{platform}"
            elif wanted is not None:
                raise RuntimeError(f"ALLGONE_WHEEL_FOR={wanted}, and the programs can't be compiled")


if __name__ == "__main__":
    sys.exit(0 if build() else 1)
