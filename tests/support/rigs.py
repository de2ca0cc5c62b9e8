"""The same stage for real processes in each backend, and for virtual ones in the fake."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import allgone
from support.actors import HEARD, Actor
from support.backends import BACKENDS, BackendUnderTest
from support.cgroups import write
from support.fake import FakeStarted
from support.programs import PATIENCE, Held, Started, command


class Alive(Protocol):
    pid: int

    def is_alive(self) -> bool: ...


class OnStage(Protocol):
    """A tree of processes that is to be stopped."""

    def __getitem__(self, role: str) -> Alive: ...
    def heard(self, role: str) -> list[str]: ...
    def stop(self, policy: allgone.StopPolicy | None = None) -> allgone.Report: ...
    def all_gone(self) -> bool: ...
    def close(self) -> None: ...


class Rig(Protocol):
    label: str
    freezes: bool

    def start(self, actor: Actor, policy: allgone.StopPolicy) -> OnStage: ...

    def start_bomb(self, policy: allgone.StopPolicy) -> OnStage:
        """Something that forks while it is being killed."""
        ...

    def freeze(self, stage: OnStage) -> None: ...


@dataclass(frozen=True)
class RealRig:
    """Processes of this machine."""

    backend: BackendUnderTest

    @property
    def label(self) -> str:
        return self.backend.label

    @property
    def freezes(self) -> bool:
        return self.backend.name == "cgroup"

    def start(self, actor: Actor, policy: allgone.StopPolicy) -> Started:
        started = Started(self.backend.Popen, command("actors", actor.to_json()), policy=policy)
        if actor.ends_first:
            started[actor.role].ends_within(PATIENCE)
        return started

    def start_bomb(self, policy: allgone.StopPolicy) -> Started:
        return Started(self.backend.Popen, command("fork_bomb"), policy=policy)

    def freeze(self, stage: OnStage) -> None:
        assert isinstance(stage, Started)
        folder = stage.process._containment.where()
        write(folder + "/cgroup.freeze", "1")


class FakeRig:
    """Virtual processes, virtual seconds."""

    label = "fake"
    freezes = True

    def start(self, actor: Actor, policy: allgone.StopPolicy) -> FakeStarted:
        return FakeStarted(actor, policy)

    def start_bomb(self, policy: allgone.StopPolicy) -> FakeStarted:
        stage = FakeStarted(Actor("leader", ignores=HEARD), policy)
        stage.containment.swarm = 500  # one slips by at each kill: more than the kernel ever let, less than time allows
        return stage

    def freeze(self, stage: OnStage) -> None:
        assert isinstance(stage, FakeStarted)
        stage.containment.frozen = True


RIGS: tuple[Rig, ...] = (*map(RealRig, BACKENDS), FakeRig())

__all__ = ["RIGS", "Held", "OnStage", "Rig"]
