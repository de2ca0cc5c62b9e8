"""Where supervisors are put: each in a room, a cgroup that all it starts stays below, so that it can be counted.

Without systemd a room is told to allgone as the base of its cgroups. With it a room is a slice; the supervisor is in a
scope of its own, and in that slice systemd puts the scopes that allgone asks it for.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence

import truth

_SYSTEMD_NOTICES_WITHIN = 20.0  # seconds, under pressure


class Room:
    """One supervisor's: its cgroup, and a directory for what it writes."""

    def __init__(self, name: str, folder: str, files: str) -> None:
        self.name = name
        self.folder = folder
        self.files = f"{files}/{name}"
        self._numbers = 0
        os.makedirs(f"{self.files}/tmp")

    def start(self, words: Sequence[str], *, delegated: bool = False) -> subprocess.Popen[str]:
        """A process in it, with pipes and what it says on stderr in a file; it is this one until its end."""
        variables = {k: v for k, v in os.environ.items() if not k.startswith("ALLGONE_")}
        variables |= {"TMPDIR": f"{self.files}/tmp", "PYTHONDONTWRITEBYTECODE": "1"} | self._variables()
        self._numbers += 1
        with open(f"{self.files}/errors", "ab") as errors:
            return subprocess.Popen(
                [*self._before(self._numbers, delegated), *words],
                env=variables, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True,
            )  # fmt: skip

    def left(self) -> list[str]:
        """What there should not be any more, when nothing lives in it: cgroups, units, files."""
        files = [f"{each}/{name}" for each, _, names in os.walk(f"{self.files}/tmp") for name in names]
        return [*(f"cgroup {each}" for each in self._cgroups()), *(f"file {each}" for each in files)]

    def close(self) -> None:
        """End what lives in it, and remove it; also a second time. Raises TimeoutError, OSError."""
        if not truth.kill_all(self.folder):
            raise TimeoutError(f"{self.folder} can't be emptied: {[str(each) for each in truth.living(self.folder)]}")
        if os.path.isdir(self.files):
            shutil.rmtree(self.files)

    def stop_unit(self) -> None:
        """Have systemd stop the unit that its supervisor is in."""
        raise NotImplementedError("there is no systemd")

    def _variables(self) -> Mapping[str, str]:
        return {}

    def _before(self, number: int, delegated: bool) -> list[str]:
        raise NotImplementedError

    def _cgroups(self) -> list[str]:
        return truth.tree(self.folder)[1:]


class _Directory(Room):
    def __init__(self, name: str, top: str, files: str) -> None:
        super().__init__(name, f"{top}/{name}", files)
        os.makedirs(f"{self.folder}/supervisor")

    def _variables(self) -> Mapping[str, str]:
        return {"ALLGONE_CGROUP": self.folder}

    def _before(self, number: int, delegated: bool) -> list[str]:
        return ["sh", "-c", 'echo 0 >"$0/supervisor/cgroup.procs" && exec "$@"', self.folder]

    def _cgroups(self) -> list[str]:
        return [each for each in super()._cgroups() if each != f"{self.folder}/supervisor"]

    def close(self) -> None:
        super().close()
        truth.remove(self.folder)


class _Slice(Room):
    def __init__(self, name: str, slice: str, files: str) -> None:
        self._slice = f"{slice}-{name.replace('-', '_')}.slice"
        self._own = self._slice.removesuffix(".slice") + "-"
        super().__init__(name, f"{truth.mount()}/{slice}.slice/{self._slice}", files)

    def _unit(self, number: int) -> str:
        return f"{self._own}{number}.scope"

    def stop_unit(self) -> None:
        systemctl("stop", self._unit(1))

    def _before(self, number: int, delegated: bool) -> list[str]:
        unit = self._unit(number)
        words = ["systemd-run", "--quiet", "--scope", "--collect", f"--slice={self._slice}", f"--unit={unit}"]
        return [*words, *(["--property=Delegate=yes"] if delegated else []), "--"]

    def left(self) -> list[str]:
        units = [each for each in self._units_left() if not each.startswith(self._own)]
        return [*super().left(), *(f"unit {each}" for each in units)]

    def _cgroups(self) -> list[str]:
        # systemd may overlook that a scope is empty whose first process ended while it was started. Not allgone's.
        return [each for each in super()._cgroups() if not os.path.basename(each).startswith(self._own)]

    def _units_left(self) -> list[str]:
        """systemd is told that a scope is empty as we are, and then removes it with its cgroup."""
        until = time.monotonic() + _SYSTEMD_NOTICES_WITHIN
        while (units := units_in(self._slice)) and time.monotonic() < until:
            time.sleep(0.1)
        return units

    def close(self) -> None:
        super().close()
        if units_in(self._slice) or os.path.isdir(self.folder):
            systemctl("stop", *(each.partition(" ")[0] for each in self._units_left()), self._slice)


def systemctl(*words: str) -> str:
    """What it prints. Raises subprocess.CalledProcessError."""
    return subprocess.run(["systemctl", *words], check=True, stdout=subprocess.PIPE, text=True, timeout=120).stdout


def units_in(slice: str) -> list[str]:
    """All that systemd knows of in a slice, dead and failed ones as well, by state."""
    shown = systemctl("show", "--all", "--property=Id,Slice,ActiveState", "*.scope", "*.slice", "*.service")
    blocks = (dict(line.split("=", 1) for line in each.splitlines()) for each in shown.split("\n\n"))
    return [f"{each['Id']} ({each['ActiveState']})" for each in blocks if each.get("Slice") == slice]


class Ground:
    """All rooms. `systemd`: whether they are slices."""

    def __init__(self, folder: str, files: str, *, slice: str = "") -> None:
        self.folder = folder
        self.systemd = bool(slice)
        self._slice = slice
        self._files = files

    def room(self, name: str) -> Room:
        if self.systemd:
            return _Slice(name, self._slice, self._files)
        return _Directory(name, self.folder, self._files)


@contextlib.contextmanager
def made() -> Iterator[Ground]:
    """Below ALLGONE_CGROUP; else with systemd where that runs, without where not. Raises LookupError, OSError.

    At the end all that is in it is killed, and it is removed.
    """
    name = f"allgonesoak{os.getpid()}"
    with tempfile.TemporaryDirectory(prefix="soak-") as files:
        told = os.environ.get("ALLGONE_CGROUP")
        if not told and os.path.isdir("/run/systemd/system"):
            ground = Ground(f"{truth.mount()}/{name}.slice", files, slice=name)
        else:
            ground = Ground(f"{told or truth.mount() + truth.own_cgroup().rstrip('/')}/{name}", files)
            os.mkdir(ground.folder)
        try:
            yield ground
        finally:
            truth.kill_all(ground.folder)
            if ground.systemd:
                systemctl("stop", f"{name}.slice")
            else:
                truth.remove(ground.folder)
