"""Plays a scenario file: events in, trace out.

A file is comments (#), lines of events, a line of dashes, and the trace that the events must produce. Events:

    machines A B C              named by one hexadecimal letter each, in the order of their ids
    SECONDS start A             also: kill, power-off, freeze, thaw, suspend, wake, stop
    SECONDS boot-clock-jump A   its BOOTTIME is an hour ahead; wall-clock-jump: somebody sets its clock back a day
    SECONDS partition A | B C   sides that do not hear each other;  SECONDS heal
    SECONDS end

The network delays 1 ms, a disk takes 5 ms, clocks are exact, dice are seeded: the trace is the same every time. It
tells changes of role, what is written to disk, whom a machine follows and which links end; not heartbeats.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.sim.cluster import Cluster, Shape
from tests.sim.machine import Machine
from tests.sim.properties import LostLinks

from covey_mesh.core.ballot import NO_BALLOT, Ballot
from covey_mesh.core.effects import LeadershipChanged, Persist
from covey_mesh.core.names import NodeId
from covey_mesh.core.ports import LinkLoss

SEPARATOR = "-" * 40


@dataclass(frozen=True)
class Scenario:
    """A file, taken apart."""

    head: str
    names: tuple[str, ...]
    events: tuple[tuple[float, str, str], ...]
    expected: str


def read(path: Path) -> Scenario:
    head, _, expected = path.read_text().partition(SEPARATOR + "\n")
    lines = [line for line in head.splitlines() if line and not line.startswith("#")]
    assert lines[0].startswith("machines "), f"{path}: the first event names the machines"
    events = []
    for line in lines[1:]:
        at, verb, *rest = line.split(maxsplit=2)
        events.append((float(at), verb, rest[0] if rest else ""))
    return Scenario(head, tuple(lines[0].split()[1:]), tuple(events), expected)


class Story:
    """Plays one scenario."""

    def __init__(self, scenario: Scenario) -> None:
        self.trace: list[str] = []
        self._scenario = scenario
        self._cluster = Cluster(0, Shape(len(scenario.names), drift=0.0))
        self._cluster.network.delay_s = (0.001, 0.001)
        # Its own dice for mDNS, apart from the network's: a trace does not change with the number of messages.
        self._cluster.dice = random.Random(0)
        self._machines = dict(zip(scenario.names, self._cluster.machines, strict=True))
        for name, machine in self._machines.items():
            machine.node_id = NodeId(name.lower() * 32)
            machine.clock_offset_s = 0.0
            machine.on_start = self._started

    def play(self) -> str:
        """The trace."""
        with self._cluster as cluster:
            for at_s, verb, rest in self._scenario.events:
                cluster.run(at_s - cluster.loop.time())
                if verb == "end":
                    break
                self._tell(f"* {verb} {rest}".rstrip())
                self._do(verb, rest)
            self._tell(self._summary())
        return "\n".join(self.trace) + "\n"

    def _do(self, verb: str, rest: str) -> None:
        if verb == "partition":
            self._partition([side.split() for side in rest.split("|")])
        elif verb == "heal":
            self._cluster.network.heal()
        else:
            self._do_to(verb, self._machines[rest])

    def _do_to(self, verb: str, machine: Machine) -> None:
        actions: dict[str, Callable[[], Any]] = {
            "start": lambda: self._cluster.start(machine),
            "kill": machine.kill,
            "power-off": machine.cut_power,
            "freeze": machine.freeze,
            "thaw": machine.thaw,
            "suspend": machine.suspend,
            "wake": machine.thaw,
            "boot-clock-jump": lambda: self._jump(machine),
            "wall-clock-jump": lambda: self._set_clock(machine),
            "stop": lambda: self._cluster.stop_now(machine),
        }
        actions[verb]()

    def _jump(self, machine: Machine) -> None:
        machine.clock_offset_s += 3600.0
        self._cluster.watch.clock_jumped(machine)

    @staticmethod
    def _set_clock(machine: Machine) -> None:
        machine.wall_offset_s -= 86400.0

    def _partition(self, sides: list[list[str]]) -> None:
        for side in sides:
            for name in side:
                for other in (n for another in sides if another is not side for n in another):
                    self._cluster.network.cut(self._machines[name], self._machines[other])

    def _started(self, machine: Machine) -> None:
        """Before anything happens in the new process."""
        self._cluster.watch.process_started(machine)
        election, name = machine.election, self._name(machine.node_id)
        step = election.step

        def traced(now_s: float, event: Any) -> Any:
            was = election.role
            effects = step(now_s, event)
            if election.role is not was:
                self._tell(f"{name} {was.value} -> {election.role.value}")
            self._tell_effects(name, effects)
            return effects

        election.step = traced
        machine.mesh.subscribe(LostLinks(lambda peer, loss: self._tell_lost(name, peer, loss)))

    def _tell_lost(self, name: str, peer: NodeId, loss: LinkLoss) -> None:
        self._tell(f"{name} lost {self._name(peer)}: {loss.value}")

    def _tell_effects(self, name: str, effects: Iterable[Any]) -> None:
        for effect in effects:
            if isinstance(effect, Persist):
                self._tell(f"{name} writes {self._ballot(effect.promise.ballot)}")
            elif isinstance(effect, LeadershipChanged):
                self._tell(f"{name} follows {self._ballot(effect.ballot)}")

    def _tell(self, line: str) -> None:
        self.trace.append(f"{self._cluster.loop.time():8.3f} {line}")

    def _name(self, node_id: NodeId) -> str:
        return next(name for name, machine in self._machines.items() if machine.node_id == node_id)

    def _ballot(self, ballot: Ballot) -> str:
        return "nobody" if ballot == NO_BALLOT else f"{self._name(ballot.node_id)} ({ballot.counter})"

    def _summary(self) -> str:
        states = []
        for name, machine in self._machines.items():
            if not machine.alive:
                states.append(f"{name} off")
            else:
                states.append(
                    f"{name} {machine.election.role.value} {self._ballot(machine.election.ballot(machine.now_s()))}"
                )
        return "= " + ", ".join(states)
