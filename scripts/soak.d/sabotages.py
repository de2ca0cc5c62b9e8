"""Faults that the soak must find: one that finds nothing where something is wrong proves nothing."""

from __future__ import annotations

import os
from typing import Any

from state import Soak

import allgone
from allgone._backends.cgroup_containment import CgroupContainment

KINDS = ("stop", "guard", "fd", "memory", "cgroup", "zombie")
_kept: list[object] = []


def begin(kind: str, soak: Soak) -> None:
    {"stop": _stop, "guard": _guard, "fd": _leaky, "memory": _leaky, "cgroup": _leaky, "zombie": _leaky}[kind](
        kind, soak
    )


def _stop(_: str, soak: Soak) -> None:
    """One that kills nothing, and reports that all is well."""
    good = allgone.run(["true"], **soak.how).report

    def stop(self: Any, policy: object = None) -> allgone.Report:
        return good

    allgone.Popen.stop = stop  # type: ignore[method-assign]


def _guard(_: str, soak: Soak) -> None:
    soak.how = soak.how | {"guard": False}


def _leaky(kind: str, soak: Soak) -> None:
    """Something is left by each operation."""
    note = soak.note

    def leaking(*words: object) -> None:
        note(*words)
        if words[0] != "end":
            return
        if kind == "fd":
            os.open("/dev/null", os.O_RDONLY)
        elif kind == "memory":
            _kept.append(bytearray(os.urandom(1 << 16)))
        elif kind == "zombie":
            if os.fork() == 0:
                os._exit(0)
        else:
            for each in soak.held:
                containment = each.process._containment
                if isinstance(containment, CgroupContainment):
                    os.makedirs(f"{os.path.dirname(containment.home.folder)}/left", exist_ok=True)

    soak.note = leaking  # type: ignore[method-assign]
