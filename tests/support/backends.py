"""The backends that every claim of the contract is tested against."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import allgone


@dataclass(frozen=True)
class BackendUnderTest:
    """A backend by name and options, and what it promises of processes that leave their session."""

    name: str
    sweep: bool

    @property
    def label(self) -> str:
        return self.name + ("+sweep" if self.sweep else "")

    @property
    def options(self) -> dict[str, Any]:
        """The keyword arguments that ask for it."""
        return {"backend": self.name, "sweep": True} if self.sweep else {"backend": self.name}

    @property
    def ends_daemons(self) -> bool:
        """Whether what called setsid() is stopped too."""
        return self.name == "cgroup" or self.sweep

    def Popen(self, *args: Any, **options: Any) -> allgone.Popen:  # reads as subprocess.Popen does
        return allgone.Popen(*args, **self.options, **options)

    def run(self, *args: Any, **options: Any) -> allgone.CompletedProcess:
        return allgone.run(*args, **self.options, **options)

    def group(self, **options: Any) -> allgone.Group:
        return allgone.Group(**self.options, **options)


BACKENDS = (
    BackendUnderTest("cgroup", sweep=False),
    BackendUnderTest("process-group", sweep=False),
    BackendUnderTest("process-group", sweep=True),
)
