"""What a scope of systemd's is to be called and to have."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

_MAX = 255  # systemd.unit(5)
_SCOPE = re.compile(r"[A-Za-z0-9:_.\\@-]+\.scope")
_SLICE = re.compile(r"[A-Za-z0-9:_.\\@-]+\.slice")


@dataclass(frozen=True, slots=True)
class Unit:
    """A scope by name. `properties` are those of systemd.scope(5), by the names that unit files use.

    Raises ValueError and TypeError where they can't be used.
    """

    name: str
    slice: str | None = None
    description: str | None = None
    properties: Mapping[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check("unit", self.name, _SCOPE, ".scope")
        if self.slice is not None:
            _check("slice", self.slice, _SLICE, ".slice")
        if self.description is not None and (
            not isinstance(self.description, str) or not self.description.isprintable()
        ):
            raise ValueError(f"description must be one line of text, not {self.description!r}")
        for name in self.properties:
            if not isinstance(name, str) or not name.isalnum():
                raise ValueError(f"properties must have names such as MemoryMax, not {name!r}")


def _check(what: str, name: object, allowed: re.Pattern[str], suffix: str) -> None:
    if not isinstance(name, str):
        raise TypeError(f"{what} must be a str, not {type(name).__name__}")
    if len(name) > _MAX or not allowed.fullmatch(name) or name.startswith("."):
        shown = name if len(name) <= _MAX else name[:_MAX] + "…"
        raise ValueError(
            f"{what} {shown!r} can't be used: at most {_MAX} of the characters A-Z a-z 0-9 : _ . \\ @ -, {suffix} last"
        )
