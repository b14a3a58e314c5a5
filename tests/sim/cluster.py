"""A simulated pool: machines on a network, clients at their gateways, and the properties that are watched all the time.

S2 (one leader among machines that all hear each other, within 5 s of healing) is asked for here; the others are in
properties.py and client.py.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from tests.sim.client import Clients, Habits, Violation
from tests.sim.loop import VirtualLoop
from tests.sim.machine import ENGINE, Machine
from tests.sim.network import Network
from tests.sim.properties import Troubles, Watch

from covey_mesh.core.names import NodeId
from covey_mesh.core.timing import LAN, Timing
from covey_mesh.core.transitions import Role
from covey_mesh.io.mesh import FROM_MDNS
from covey_node.core.simulated import SimulatedSettings

__all__ = ["CONVERGED_WITHIN_S", "WATCH_EVERY_S", "Cluster", "Shape", "Violation"]

WATCH_EVERY_S = 0.02
CONVERGED_WITHIN_S = 5.0
NOTICED_CHECK_S = 1.0
PACKAGES = ("covey_mesh", "covey_scheduler", "covey_gateway", "covey_node")

HABITS = Habits()


@dataclass(frozen=True)
class Shape:
    """What a cluster is made of. `speeds`: of the machines' engines, in turn; 0: a machine without one. `places` and
    `kv_cache_tokens` are of each engine."""

    machines: int
    drift: float = 0.005
    timing: Timing = LAN
    habits: Habits = HABITS
    speeds: tuple[float, ...] = (1.0, 1.0, 0.5, 0.25)
    places: int = ENGINE.running_limit
    kv_cache_tokens: int = ENGINE.kv_cache_tokens


class Bugs(logging.Handler):
    """What covey logs as its own bug (an exception that it caught) is a violation."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info is not None:
            self.records.append(record)


class Cluster:
    """`run` advances virtual time and watches; use as a context manager."""

    def __init__(self, seed: int, shape: Shape) -> None:
        self.dice = random.Random(seed)
        self.loop = VirtualLoop()
        self.network = Network(self.loop, self.dice)
        self.by_id: dict[NodeId, Machine] = {}
        self.identities = 0
        self.watch = Watch(self)
        self.troubles = Troubles(self)
        self.machines = [self._make(number, shape) for number in range(shape.machines)]
        self.clients = Clients(
            self.loop, self.machines, random.Random(self.dice.random()), shape.habits, self.watch.found
        )
        self.clients.on_end = self.watch.check_end
        self._bugs = Bugs()
        self._noticed_s = 0.0

    def _make(self, number: int, shape: Shape) -> Machine:
        machine = Machine(self._new_id(number), self.network, random.Random(self.dice.random()), shape.timing)
        machine.clock_offset_s = self.dice.uniform(0, 1e5)
        machine.clock_rate = 1 + self.dice.uniform(-shape.drift, shape.drift)
        machine.on_start = self.watch.process_started
        speed = shape.speeds[number % len(shape.speeds)]
        engine = replace(ENGINE, running_limit=shape.places, kv_cache_tokens=shape.kv_cache_tokens)
        machine.engine = None if not speed else faster(speed, engine)
        self.by_id[machine.node_id] = machine
        self.network.add(machine)
        return machine

    def _new_id(self, number: int) -> NodeId:
        self.identities += 1
        return NodeId(f"{self.dice.randrange(16**4):04x}{self.identities:024x}{number:04x}")

    def new_identity(self, machine: Machine) -> None:
        """It lost its disk, and with it its key."""
        machine.lose_disk(self._new_id(self.machines.index(machine)))
        self.by_id[machine.node_id] = machine

    def __enter__(self) -> Cluster:
        self._logging = self._listen()
        self._logging.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._logging.__exit__(None, None, None)

    @contextmanager
    def _listen(self) -> Iterator[None]:
        loggers = [logging.getLogger(name) for name in PACKAGES]
        before = [(logger.level, logger.propagate) for logger in loggers]
        for logger in loggers:
            logger.setLevel(logging.ERROR)
            logger.propagate = False
            logger.addHandler(self._bugs)
        try:
            yield
        finally:
            for logger, (level, propagate) in zip(loggers, before, strict=True):
                logger.removeHandler(self._bugs)
                logger.setLevel(level)
                logger.propagate = propagate

    # --- time -----------------------------------------------------------------------------------------------------

    def run(self, duration_s: float) -> None:
        """Advance. Raises Violation; what a callback raises is one."""
        end_s = self.loop.now_s + duration_s
        while self.loop.now_s < end_s:
            self._advance(min(end_s, self._noticed_s + NOTICED_CHECK_S))
            if self.loop.now_s >= self._noticed_s + NOTICED_CHECK_S:
                self._noticed_s = self.loop.now_s
                self.watch.check_noticed()
                self.watch.check_followed()

    def _advance(self, until_s: float) -> None:
        try:
            self.loop.run_until(until_s)
        except Violation:
            raise
        except Exception as error:
            raise Violation(f"at {self.loop.now_s:.3f} a callback raised {error!r}") from error
        if self.watch.violations:
            raise Violation(self.watch.violations[0])
        if self._bugs.records:
            record = self._bugs.records[0]
            error = record.exc_info[1] if record.exc_info else None
            if isinstance(error, Violation):
                raise error
            raise Violation(f"at {self.loop.now_s:.3f} covey logged a bug: {record.getMessage()}: {error!r}") from error

    # --- discovery --------------------------------------------------------------------------------------------------

    def introduce(self, machine: Machine) -> None:
        """mDNS: the newcomer hears of all soon, the others of it a second later; in no order, and some of it twice."""
        for other in self.machines:
            if other is not machine and other.alive:
                self.loop.call_later(0.1 + 0.1 * self.dice.random(), self._hint, machine, other)
                for _ in range(1 + (self.dice.random() < 0.1)):
                    self.loop.call_later(1.1 + 0.1 * self.dice.random(), self._hint, other, machine)

    @staticmethod
    def _hint(to: Machine, about: Machine) -> None:
        if to.alive:
            to.process.enter(to.mesh.hint, (about.address,), FROM_MDNS, about.node_id)

    def start(self, machine: Machine) -> None:
        """Unless it runs already."""
        if not machine.alive:
            machine.start()
            self.introduce(machine)

    def start_all(self, within_s: float = 0.5) -> None:
        for machine in self.machines:
            self.loop.call_later(self.dice.uniform(0, within_s), self.start, machine)

    def stop(self, machine: Machine) -> None:
        """A clean stop: no new requests, those in flight for a while, hand over, go."""
        machine.runner._draining = True
        machine.node.drain()
        until_s = self.loop.now_s + 2.0
        self._when_drained(machine, machine.process, until_s, lambda: self.stop_now(machine))

    def stop_now(self, machine: Machine) -> None:
        """Hand over leadership and go."""
        process = machine.process

        async def stopped() -> None:
            await machine.mesh.stop()
            if machine.process is process and not process.dead:
                machine.kill()

        self.loop.spawn(stopped())

    def _when_drained(self, machine: Machine, process: Any, until_s: float, then: Any) -> None:
        if process.dead:
            return
        if machine.runner.active and self.loop.now_s < until_s:
            process.call_later(0.05, self._when_drained, machine, process, until_s, then)
        else:
            machine.scheduler.stop()
            process.enter(then)

    # --- properties ---------------------------------------------------------------------------------------------------

    def leaders(self) -> set[NodeId | None]:
        """Whom the living machines follow."""
        return {m.election.leader(m.now_s()) for m in self.machines if m.alive}

    def leading(self) -> list[Machine]:
        """Those that lead at this moment."""
        return [m for m in self.machines if m.alive and m.election.leader(m.now_s()) == m.node_id]

    def agreed(self) -> NodeId | None:
        """The one leader of all living machines, if there is one and it lives."""
        leaders = self.leaders()
        leader = leaders.pop() if len(leaders) == 1 else None
        return leader if any(m.node_id == leader and m.alive for m in self.machines) else None

    def seconds_until_agreed(self, limit_s: float) -> float:
        """Virtual seconds until all living machines follow one leader. Raises Violation after `limit_s`."""
        start_s = self.loop.now_s
        while self.agreed() is None:
            if self.loop.now_s - start_s > limit_s:
                raise Violation(f"S2: after {limit_s:g} s of calm: {self.describe()}")
            self.run(WATCH_EVERY_S)
        return self.loop.now_s - start_s

    def check_views(self) -> None:
        """Every living machine sees every living machine as reachable, and no other."""
        alive = {m.node_id for m in self.machines if m.alive}
        for machine in self.machines:
            if machine.alive:
                seen = {node_id for node_id, member in machine.mesh.view().members.items() if member.reachable}
                if seen != alive:
                    raise Violation(f"view of {machine.address}: {sorted(seen)} instead of {sorted(alive)}")

    def describe(self) -> str:
        states = []
        for machine in self.machines:
            if machine.alive:
                election = machine.election
                ballot, held = election.ballot(machine.now_s()), election.grants_held(machine.now_s())
                links = len(machine.mesh._links)
                states.append(f"{machine.address} {election.role.value} {ballot} held={held} links={links}")
        return "; ".join(states)

    def leader_machine(self) -> Machine:
        return next(m for m in self.machines if m.alive and m.election.role is Role.LEADING)


def faster(speed: float, engine: SimulatedSettings = ENGINE) -> SimulatedSettings:
    """The simulated engine, so many times as fast."""
    prefill, decode = engine.prefill_tokens_per_s * speed, engine.decode_tokens_per_s * speed
    return replace(engine, prefill_tokens_per_s=prefill, decode_tokens_per_s=decode)
