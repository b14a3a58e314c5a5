"""A simulated pool: machines on a network, and the properties that are watched all the time.

S1 no machine obeys two leaders or a lower ballot; S2 one leader among machines that all hear each other, within 5 s of
healing (DESIGN.md, "Discovery, membership, leadership").
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

from tests.sim.machine import Machine
from tests.sim.network import Network
from tests.sim.virtual_loop import VirtualLoop

from covey_mesh.core.ballot import NO_BALLOT
from covey_mesh.core.election import Role
from covey_mesh.core.names import NodeId
from covey_mesh.core.timing import LAN, Timing
from covey_mesh.io.mesh import FROM_MDNS

WATCH_EVERY_S = 0.02
CONVERGED_WITHIN_S = 5.0


class Violation(AssertionError):
    """A property does not hold."""


@dataclass(frozen=True)
class Shape:
    """What a cluster is made of."""

    machines: int
    drift: float = 0.005
    timing: Timing = LAN


class Cluster:
    """`run` advances virtual time and watches; use as a context manager."""

    def __init__(self, seed: int, shape: Shape) -> None:
        self.dice = random.Random(seed)
        self.loop = VirtualLoop()
        self.network = Network(self.loop, self.dice)
        self.machines = [self._make(number, shape) for number in range(shape.machines)]
        self._errors: list[dict[str, Any]] = []
        self.loop.set_exception_handler(lambda _, context: self._errors.append(context))

    def _make(self, number: int, shape: Shape) -> Machine:
        node_id = NodeId(f"{self.dice.randrange(16**4):04x}{number:028x}")
        machine = Machine(node_id, self.network, random.Random(self.dice.random()), shape.timing)
        machine.clock_offset_s = self.dice.uniform(0, 1e5)
        machine.clock_rate = 1 + self.dice.uniform(-shape.drift, shape.drift)
        return self.network.add(machine)

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *_: object) -> None:
        for machine in self.machines:
            if machine.alive:
                machine.cut_power()
        self.loop.close()

    # --- time -----------------------------------------------------------------------------------------------------

    def run(self, duration_s: float) -> None:
        """Advance, watching S1 every WATCH_EVERY_S."""
        end_s = self.loop.time() + duration_s
        while self.loop.time() < end_s:
            self._advance(min(WATCH_EVERY_S, end_s - self.loop.time()))
            self.watch()

    def _advance(self, step_s: float) -> None:
        self.loop.call_later(step_s, self.loop.stop)
        self.loop.run_forever()
        if self._errors:
            raise Violation(f"a callback raised: {self._errors[0]}") from self._errors[0].get("exception")

    # --- discovery --------------------------------------------------------------------------------------------------

    def introduce(self, machine: Machine) -> None:
        """mDNS: the newcomer hears of all soon, the others of it a second later."""
        for other in self.machines:
            if other is not machine and other.alive:
                self.loop.call_later(0.1 + 0.1 * self.dice.random(), self._hint, machine, other)
                self.loop.call_later(1.1 + 0.1 * self.dice.random(), self._hint, other, machine)

    @staticmethod
    def _hint(to: Machine, about: Machine) -> None:
        if to.loop is not None and to.mesh is not None:
            to.loop.run(to.mesh.hint, (about.address,), FROM_MDNS, about.node_id)

    def start(self, machine: Machine) -> None:
        """Unless it runs already."""
        if not machine.alive:
            machine.start()
            self.introduce(machine)

    def start_all(self, within_s: float = 0.5) -> None:
        for machine in self.machines:
            self.loop.call_later(self.dice.uniform(0, within_s), self.start, machine)

    # --- properties ---------------------------------------------------------------------------------------------------

    def watch(self) -> None:
        """S1, at this moment."""
        alive = [machine for machine in self.machines if machine.alive]
        for machine in alive:
            self._watch_obedience(machine)
        for leader in alive:
            for node in alive:
                self._watch_pair(leader, node)

    def _watch_obedience(self, machine: Machine) -> None:
        obeyed = machine.election.grants.live(machine.now_s())
        if obeyed == NO_BALLOT:
            return
        if obeyed < machine.highest_obeyed:
            raise Violation(f"S1: {machine.address} obeys {obeyed} after {machine.highest_obeyed}")
        machine.highest_obeyed = obeyed
        if machine.disk.promise is None or machine.disk.promise.ballot < obeyed:
            raise Violation(f"S1: {machine.address} obeys {obeyed}, which is not on its disk")

    @staticmethod
    def _watch_pair(leader: Machine, node: Machine) -> None:
        """While a leader counts on a machine, that machine obeys nobody else."""
        if not leader.election.holds(node.node_id, leader.now_s()):
            return
        obeyed = node.election.grants.live(node.now_s())
        if obeyed not in (NO_BALLOT,) and obeyed.node_id != leader.node_id:
            raise Violation(f"S1: {leader.address} counts on {node.address}, which obeys {obeyed}")

    def leaders(self) -> set[NodeId | None]:
        """Whom the living machines follow."""
        return {m.election.leader(m.now_s()) for m in self.machines if m.alive}

    def agreed(self) -> NodeId | None:
        """The one leader of all living machines, if there is one and it lives."""
        leaders = self.leaders()
        leader = leaders.pop() if len(leaders) == 1 else None
        return leader if any(m.node_id == leader and m.alive for m in self.machines) else None

    def seconds_until_agreed(self, limit_s: float) -> float:
        """Virtual seconds until all living machines follow one leader. Raises Violation after `limit_s`."""
        start_s = self.loop.time()
        while self.agreed() is None:
            if self.loop.time() - start_s > limit_s:
                raise Violation(f"S2: after {limit_s:g} s of calm: {self.describe()}")
            self.run(WATCH_EVERY_S)
        return self.loop.time() - start_s

    def check_views(self) -> None:
        """Every living machine sees every living machine as reachable, and no other."""
        alive = {m.node_id for m in self.machines if m.alive}
        for machine in self.machines:
            if machine.alive and machine.mesh is not None:
                seen = {node_id for node_id, member in machine.mesh.view().members.items() if member.reachable}
                if seen != alive:
                    raise Violation(f"view of {machine.address}: {sorted(seen)} instead of {sorted(alive)}")

    def describe(self) -> str:
        states = []
        for machine in self.machines:
            if machine.alive:
                election = machine.election
                ballot, held = election.ballot(machine.now_s()), election.grants_held(machine.now_s())
                links = len(machine.mesh._links) if machine.mesh else 0
                states.append(f"{machine.address} {election.role.value} {ballot} held={held} links={links}")
        return "; ".join(states)

    def leader_machine(self) -> Machine:
        return next(m for m in self.machines if m.alive and m.election.role is Role.LEADING)
