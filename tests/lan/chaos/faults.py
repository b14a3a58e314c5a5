"""What can be done to a pool and its LAN, as values: each strikes a Stage. Roles are bound when a scenario begins.

LEADER is who leads then; F2 serves what the leader serves, F1 and F3 what the leader does not (beside what all serve),
F4 one or the other: without LEADER and F1, or F1 and F2, everything still has a machine. Not here: when (scenarios.py).
"""

from __future__ import annotations

import signal
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from tests.lan.chaos.pool import ChaosAgent, ChaosPool
from tests.lan.switch import SoftwareSwitch
from tests.lan.wires import Line

SERVER = "server"
"""Where engines are vLLM: a machine with one that does not lead."""
LEADER, F1, F2, F3, F4 = "leader", "f1", "f2", "f3", "f4"
EVERYBODY = (LEADER, F1, F2, F3, F4)


def all_but(*roles: str) -> tuple[str, ...]:
    """The roles that are left."""
    return tuple(role for role in EVERYBODY if role not in roles)


class Stage(Protocol):
    """Where scenarios are played."""

    pool: ChaosPool
    switch: SoftwareSwitch

    def agent(self, role: str) -> ChaosAgent: ...

    def port(self, role: str) -> str: ...


class Fault(Protocol):
    """One thing that is done."""

    def strike(self, stage: Stage) -> None: ...


@dataclass(frozen=True)
class OnAgents:
    """Of the machines in these roles."""

    roles: tuple[str, ...]

    def agents(self, stage: Stage) -> Sequence[ChaosAgent]:
        return [stage.agent(role) for role in self.roles]


@dataclass(frozen=True)
class Kill(OnAgents):
    """kill -9, all at once."""

    def strike(self, stage: Stage) -> None:
        for agent in self.agents(stage):
            agent.kill()


@dataclass(frozen=True)
class Start(OnAgents):
    """`covey up` again; returns when all answer."""

    def strike(self, stage: Stage) -> None:
        for agent in self.agents(stage):
            agent.start()
        for agent in self.agents(stage):
            agent.wait_answering()


@dataclass(frozen=True)
class Restart(OnAgents):
    """SIGTERM, wait, start, wait: one after the other."""

    def strike(self, stage: Stage) -> None:
        for agent in self.agents(stage):
            agent.stop_in_order()
            agent.start()
            agent.wait_answering()


@dataclass(frozen=True)
class Freeze(OnAgents):
    """SIGSTOP."""

    def strike(self, stage: Stage) -> None:
        for agent in self.agents(stage):
            agent.freeze()


@dataclass(frozen=True)
class Thaw(OnAgents):
    """SIGCONT."""

    def strike(self, stage: Stage) -> None:
        for agent in self.agents(stage):
            agent.thaw()


@dataclass(frozen=True)
class Inner(OnAgents):
    """A fault inside the agents' processes (tests/lan/programs/agent.py)."""

    command: str

    def strike(self, stage: Stage) -> None:
        for agent in self.agents(stage):
            agent.inner(self.command)


@dataclass(frozen=True)
class KillEngines(OnAgents):
    """kill -9 of the engines' processes; their agents live."""

    def strike(self, stage: Stage) -> None:
        for agent in self.agents(stage):
            agent.signal_engines(signal.SIGKILL)


@dataclass(frozen=True)
class FreezeEngines(OnAgents):
    """SIGSTOP of the engines' processes: they accept and say nothing."""

    def strike(self, stage: Stage) -> None:
        for agent in self.agents(stage):
            agent.signal_engines(signal.SIGSTOP)


@dataclass(frozen=True)
class ThawEngines(OnAgents):
    """SIGCONT of them."""

    def strike(self, stage: Stage) -> None:
        for agent in self.agents(stage):
            agent.signal_engines(signal.SIGCONT)


@dataclass(frozen=True)
class FillDisk(OnAgents):
    """The disk of the state directory has no byte left."""

    def strike(self, stage: Stage) -> None:
        for agent in self.agents(stage):
            agent.fill_disk()


@dataclass(frozen=True)
class FreeDisk(OnAgents):
    """It has again."""

    def strike(self, stage: Stage) -> None:
        for agent in self.agents(stage):
            agent.free_disk()


@dataclass(frozen=True)
class Forget(OnAgents):
    """Remove files of a state directory whose agent does not run."""

    names: tuple[str, ...]

    def strike(self, stage: Stage) -> None:
        for agent in self.agents(stage):
            for name in self.names:
                (agent.state_dir / name).unlink(missing_ok=True)


@dataclass(frozen=True)
class NewMachine(OnAgents):
    """Wipe the state directory of an agent that does not run, join the pool by invitation, start."""

    def strike(self, stage: Stage) -> None:
        for agent in self.agents(stage):
            agent.wipe()
            stage.pool.rejoin(agent)
            agent.start()
            agent.wait_answering()


@dataclass(frozen=True)
class Unplug(OnAgents):
    """Pull cables: the hosts see their carriers go."""

    def strike(self, stage: Stage) -> None:
        for agent in self.agents(stage):
            agent.host.unplug()


@dataclass(frozen=True)
class Plug(OnAgents):
    """Put them back."""

    def strike(self, stage: Stage) -> None:
        for agent in self.agents(stage):
            agent.host.plug()


@dataclass(frozen=True)
class OneWay:
    """Frames from `sources` to `targets` are lost; the other direction passes. `targets` empty: to all others."""

    sources: tuple[str, ...]
    targets: tuple[str, ...] = ()

    def strike(self, stage: Stage) -> None:
        targets = self.targets or all_but(*self.sources)
        ports = [stage.port(role) for role in self.sources], [stage.port(role) for role in targets]
        stage.switch.set_line(Line(cut=True), *ports)


@dataclass(frozen=True)
class Partition:
    """No frame passes between two sides."""

    one: tuple[str, ...]
    other: tuple[str, ...]

    def strike(self, stage: Stage) -> None:
        stage.switch.partition([stage.port(role) for role in self.one], [stage.port(role) for role in self.other])


@dataclass(frozen=True)
class Lines:
    """All wires, or those from `sources`, get this state."""

    line: Line
    sources: tuple[str, ...] = EVERYBODY

    def strike(self, stage: Stage) -> None:
        stage.switch.set_line(self.line, [stage.port(role) for role in self.sources])


@dataclass(frozen=True)
class Heal:
    """All wires are perfect again."""

    def strike(self, stage: Stage) -> None:
        stage.switch.heal()
