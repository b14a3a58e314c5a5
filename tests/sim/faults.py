"""Everything that can go wrong with a simulated pool. Each fault ends by itself after a while, and is counted.

Not here: when which fault strikes (chaos.py), what must hold nevertheless (properties.py).
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from tests.sim.cluster import Cluster, faster
from tests.sim.machine import Machine

from covey_mesh.core.facts import NodeLoad
from covey_mesh.core.ports import LinkLoss
from covey_mesh.core.speeds import DecodePoint, ModelSpeeds, PrefillPoint

LASTING_S = (0.1, 0.5, 2.0, 6.0, 12.0)
"""How long faults last, give or take half."""

ABSURD_SPEEDS = ModelSpeeds(
    (PrefillPoint(-1, math.nan),), (DecodePoint(0, -5, math.inf),), math.nan, -1.0, "", math.inf, -9, math.nan, math.nan
)

LIES: tuple[Callable[[NodeLoad], NodeLoad], ...] = (
    lambda load: _with(
        load, prefill_tokens_per_s=math.nan, decode_tokens_per_s=math.nan, queued_tokens=-5, speeds=ABSURD_SPEEDS
    ),
    lambda load: _with(load, prefill_tokens_per_s=1e308, decode_tokens_per_s=1e308, running_limit=2**40),
    lambda load: _with(load, prefill_tokens_per_s=math.inf, decode_tokens_per_s=-1.0, kv_cache_tokens_free=-(2**60)),
    lambda load: _with(load, running_requests=0, waiting_requests=0, queued_tokens=0, decode_tokens_per_s=1e6),
    lambda load: replace(load, sequence=1),
    lambda load: _with(load, running_requests=2**50, running_limit=-7, waiting_limit=-1, max_context_tokens=-1),
)
"""What a lying machine says of itself: not a number, huge, infinite, idle, stale, nonsense."""


def _with(load: NodeLoad, **changed: Any) -> NodeLoad:
    return replace(load, models=tuple(replace(model, **changed) for model in load.models))


class Faults:
    """`counts`: faults injected, by kind. Every method returns False where the fault is not possible now."""

    def __init__(self, cluster: Cluster, dice: random.Random) -> None:
        self.counts: Counter[str] = Counter()
        self._cluster = cluster
        self._dice = dice
        self._mended = False

    def kinds(self) -> tuple[Callable[[], bool], ...]:
        return (
            self.crash,
            self.power_cut,
            self.restart_with_disk,
            self.restart_without_disk,
            self.freeze,
            self.suspend,
            self.blocked_loop,
            self.partition,
            self.one_way_cut,
            self.isolation,
            self.two_leaders,
            self.loss,
            self.duplication,
            self.reordering,
            self.delay,
            self.clock_jump,
            self.boot_clock_jump,
            self.slow_machine,
            self.lying_machine,
            self.engine_crash,
            self.disk_full,
            self.slow_disk,
            self.clean_stop,
            self.connection_reset,
        )

    def inject(self, kind: Callable[[], bool]) -> None:
        if kind():
            self.counts[kind.__name__] += 1

    def mend(self) -> None:
        """Everything is well from now on."""
        self._mended = True
        network, cluster = self._cluster.network, self._cluster
        network.loss = network.duplicated = network.overtaking = 0.0
        for machine in cluster.machines:
            machine.disk.full, machine.disk.write_s, machine.extra_delay_s = False, 0.005, 0.0
            if not machine.alive:
                cluster.start(machine)
            elif not machine.running:
                machine.thaw()
            machine.node.lie = None
            if machine.runner._draining:
                machine.kill()
                cluster.start(machine)
        network.heal()

    # --- choosing -----------------------------------------------------------------------------------------------------

    def _pick(self, wanted: Callable[[Machine], bool]) -> Machine | None:
        """The leader more often than others: it is the one who matters."""
        found = [machine for machine in self._cluster.machines if wanted(machine)]
        leading = [m for m in found if m.alive and m.election.grants_held(m.now_s()) > 0]
        if leading and self._dice.random() < 0.4:
            return self._dice.choice(leading)
        return self._dice.choice(found) if found else None

    def _running(self) -> Machine | None:
        return self._pick(lambda m: m.running and not m.runner._draining)

    def _later(self, callback: Callable[[], None], lasting_s: tuple[float, ...] = LASTING_S) -> None:
        """The fault's own end, unless everything was mended before."""
        after_s = self._dice.choice(lasting_s) * (0.5 + self._dice.random())
        self._cluster.loop.call_later(after_s, lambda: None if self._mended else callback())

    def _touch(self, machine: Machine) -> None:
        self._cluster.troubles.touched(machine)

    # --- processes ----------------------------------------------------------------------------------------------------

    def _start(self, machine: Machine) -> None:
        if not machine.alive:
            self._cluster.start(machine)
            self._touch(machine)

    def _restart(self, machine: Machine, starts: int) -> None:
        if machine.starts == starts and machine.running and not self._mended:
            machine.kill()
            self._cluster.loop.call_later(0.1, self._start, machine)
            self.counts["restart_with_disk"] += 1

    def crash(self) -> bool:
        machine = self._running()
        if machine is not None:
            machine.kill()
            self._later(lambda: self._start(machine))
        return machine is not None

    def power_cut(self) -> bool:
        machine = self._running()
        if machine is not None:
            machine.cut_power()
            self._later(lambda: self._start(machine))
        return machine is not None

    def restart_with_disk(self) -> bool:
        """Supervised: back at once, while the others still hold its lease or it holds theirs."""
        machine = self._running()
        if machine is not None:
            machine.kill()
            self._later(lambda: self._start(machine), (0.1, 0.4))
        return machine is not None

    def restart_without_disk(self) -> bool:
        machine = self._running()
        if machine is None:
            return False
        machine.kill()
        self._cluster.new_identity(machine)
        self._later(lambda: self._start(machine))
        return True

    def clean_stop(self) -> bool:
        machine = self._running()
        if machine is None:
            return False
        self._cluster.stop(machine)
        self._later(lambda: self._start(machine), (3.0, 8.0))
        return True

    def _thaw(self, machine: Machine, starts: int) -> None:
        if machine.starts == starts and machine.alive and not machine.running:
            machine.thaw()
            self._touch(machine)

    def _stopped_for(
        self, machine: Machine | None, stop: Callable[[Machine], None], lasting_s: tuple[float, ...]
    ) -> bool:
        if machine is None:
            return False
        starts = machine.starts
        stop(machine)
        self._later(lambda: self._thaw(machine, starts), lasting_s)
        return True

    def freeze(self) -> bool:
        """SIGSTOP."""
        return self._stopped_for(self._running(), Machine.freeze, LASTING_S)

    def suspend(self) -> bool:
        """A closed lid: BOOTTIME goes on, timers and the monotonic clock do not."""
        return self._stopped_for(self._running(), Machine.suspend, LASTING_S)

    def blocked_loop(self) -> bool:
        """The event loop does not turn: a long computation, a stalled disk."""
        return self._stopped_for(self._running(), Machine.freeze, (0.05, 0.3, 1.0))

    # --- the network --------------------------------------------------------------------------------------------------

    def _cut(self, pairs: list[tuple[Machine, Machine]], lasting_s: tuple[float, ...] = LASTING_S) -> bool:
        network = self._cluster.network
        for source, to in pairs:
            network.cut(source, to)

        def mended() -> None:
            for source, to in pairs:
                network.mend(source, to)
                self._cluster.troubles.parted(source, to)
            network.release()

        self._later(mended, lasting_s)
        return bool(pairs)

    def _sides(self) -> list[tuple[Machine, Machine]]:
        machines = self._cluster.machines
        side = set(self._dice.sample(machines, self._dice.randint(1, len(machines) - 1)))
        return [(a, b) for a in machines for b in machines if (a in side) != (b in side)]

    def partition(self) -> bool:
        return self._cut(self._sides())

    def one_way_cut(self) -> bool:
        machines = self._cluster.machines
        deaf = self._dice.choice(machines)
        return self._cut([(other, deaf) for other in machines if other is not deaf and self._dice.random() < 0.8])

    def isolation(self) -> bool:
        """One machine alone, long enough to lead itself; often it is restarted meanwhile (a laptop on a journey)."""
        machines = self._cluster.machines
        alone = self._dice.choice(machines)
        others = [other for other in machines if other is not alone]
        if alone.running and self._dice.random() < 0.5:
            self._cluster.loop.call_later(self._dice.uniform(0.1, 2.0), self._restart, alone, alone.starts)
        return self._cut([(a, alone) for a in others] + [(alone, b) for b in others], (5.0, 10.0))

    def two_leaders(self) -> bool:
        """A partition that lasts until both sides lead; counted only if they do."""
        self._cut(self._sides(), (8.0,))
        self._cluster.run(5.0)
        return len(self._cluster.leading()) > 1

    def connection_reset(self) -> bool:
        """A switch, a firewall or a sleeping Wi-Fi adapter ends connections between machines that live on."""
        machine = self._running()
        links = [] if machine is None else list(machine.transport.links)
        for link in links if self._dice.random() < 0.3 else links[: self._dice.randint(1, 2)]:
            for end in (link, link.other):
                end.finish(LinkLoss.RESET)
            self._cluster.troubles.parted(link.owner, link.far)
            self._cluster.troubles.parted(link.far, link.owner)
        return bool(links)

    def _for_a_while(self, attribute: str, value: float) -> bool:
        network = self._cluster.network
        setattr(network, attribute, value)
        self._later(lambda: setattr(network, attribute, 0.0))
        return True

    def loss(self) -> bool:
        return self._for_a_while("loss", self._dice.choice((0.02, 0.1, 0.3)))

    def duplication(self) -> bool:
        return self._for_a_while("duplicated", self._dice.choice((0.05, 0.5)))

    def reordering(self) -> bool:
        return self._for_a_while("overtaking", self._dice.choice((0.05, 0.5)))

    def delay(self) -> bool:
        """A machine behind a slow or busy link."""
        return self._slow(self._dice.choice((0.03, 0.1, 0.2)))

    def _slow(self, extra_s: float) -> bool:
        machine = self._dice.choice(self._cluster.machines)
        machine.extra_delay_s = extra_s

        def over() -> None:
            machine.extra_delay_s = 0.0
            self._touch(machine)

        self._touch(machine)
        self._later(over)
        return True

    # --- clocks -------------------------------------------------------------------------------------------------------

    def clock_jump(self) -> bool:
        """Somebody sets the wall clock; nothing may depend on it."""
        self._dice.choice(self._cluster.machines).wall_offset_s += self._dice.uniform(-1e7, 1e7)
        return True

    def boot_clock_jump(self) -> bool:
        """A virtual machine's BOOTTIME is set forward after a pause that it did not notice."""
        machine = self._running()
        if machine is not None:
            machine.clock_offset_s += self._dice.choice((0.3, 2.0, 30.0, 4000.0))
            self._cluster.watch.clock_jumped(machine)
            self._touch(machine)
        return machine is not None

    # --- machines -----------------------------------------------------------------------------------------------------

    def slow_machine(self) -> bool:
        """Its engine and its answers slow down (heat, a game)."""
        machine = self._running()
        engine = None if machine is None else machine.node.supervisor.engine
        if machine is None or engine is None:
            return False
        before = engine._batch.settings
        engine._batch.settings = faster(0.1)

        def over() -> None:
            engine._batch.settings = before

        self._later(over)
        return self._slow(0.02)

    def lying_machine(self) -> bool:
        machine = self._running()
        if machine is None:
            return False
        machine.node.lie = self._dice.choice(LIES)
        node = machine.node

        def over() -> None:
            node.lie = None
            self._touch(machine)

        self._later(over)
        return True

    def engine_crash(self) -> bool:
        machine = self._pick(lambda m: m.running and m.node.ready)
        if machine is not None:
            machine.process.enter(machine.node.supervisor.crash, self._dice.choice((0.1, 1.0, 5.0)))
            self._touch(machine)
        return machine is not None

    def disk_full(self) -> bool:
        """No ballot can be written; often just when a new leader is needed."""
        machine = self._pick(lambda m: not m.disk.full)
        if machine is None:
            return False
        disk = machine.disk
        disk.full = True

        def over() -> None:
            disk.full = False

        self._later(over)
        self._new_leader_soon()
        return True

    def _new_leader_soon(self) -> None:
        """Disks are written to only then."""
        leading = [machine for machine in self._cluster.leading() if machine.running]
        if leading and self._dice.random() < 0.6:
            leader = self._dice.choice(leading)
            self._cluster.loop.call_later(0.05, self._restart, leader, leader.starts)

    def slow_disk(self) -> bool:
        """Also slower than a lease; often just when a new leader is needed."""
        self._new_leader_soon()
        disk = self._dice.choice(self._cluster.machines).disk
        disk.write_s = self._dice.choice((0.05, 0.5, 2.5))

        def over() -> None:
            disk.write_s = 0.005

        self._later(over)
        return True
