"""One seed: a cluster, a random schedule of faults, then calm, in which it must converge. Every fault is counted."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from tests.sim.cluster import CONVERGED_WITHIN_S, Cluster, Shape, Violation
from tests.sim.machine import Machine

FAULTS_PER_SEED = 12
REPLAY = "replay: .venv/bin/python -m tests.sim.replay {seed}"


@dataclass
class Outcome:
    """What a seed came to."""

    seed: int
    faults: Counter[str]
    virtual_s: float
    converged_s: float


class Chaos:
    """The faults that can happen to a cluster."""

    def __init__(self, cluster: Cluster, dice: random.Random) -> None:
        self.cluster = cluster
        self.dice = dice
        self.faults: Counter[str] = Counter()

    def kinds(self) -> list[Callable[[], bool]]:
        return [
            self.kill,
            self.cut_power,
            self.restart,
            self.quick_restart,
            self.freeze,
            self.thaw,
            self.partition,
            self.one_way,
            self.heal,
            self.stop,
            self.loss,
            self.disk_full,
            self.slow_disk,
        ]

    def one(self) -> None:
        """Inject one fault of those possible now."""
        kind = self.dice.choice(self.kinds())
        if kind():
            self.faults[kind.__name__] += 1

    def _pick(self, wanted: Callable[[Machine], bool]) -> Machine | None:
        found = [machine for machine in self.cluster.machines if wanted(machine)]
        leading = [m for m in found if m.alive and m.election.grants_held(m.now_s()) > 0]
        if leading and self.dice.random() < 0.4:
            return self.dice.choice(leading)
        return self.dice.choice(found) if found else None

    def kill(self) -> bool:
        machine = self._pick(lambda m: m.alive)
        if machine is not None:
            machine.kill()
        return machine is not None

    def cut_power(self) -> bool:
        machine = self._pick(lambda m: m.alive)
        if machine is not None:
            machine.cut_power()
        return machine is not None

    def restart(self) -> bool:
        machine = self._pick(lambda m: not m.alive)
        if machine is not None:
            self.cluster.start(machine)
        return machine is not None

    def quick_restart(self) -> bool:
        """Supervised: back at once, while the others still hold its lease or it holds theirs."""
        machine = self._pick(lambda m: m.running)
        if machine is None:
            return False
        machine.kill()
        self.cluster.run(self.dice.uniform(0.05, 0.5))
        self.cluster.start(machine)
        return True

    def freeze(self) -> bool:
        machine = self._pick(lambda m: m.running)
        if machine is not None:
            machine.freeze()
        return machine is not None

    def thaw(self) -> bool:
        machine = self._pick(lambda m: m.alive and not m.running)
        if machine is not None:
            machine.thaw()
        return machine is not None

    def partition(self) -> bool:
        machines = self.cluster.machines
        side = {m.node_id for m in machines if self.dice.random() < 0.5}
        for source in machines:
            for to in machines:
                if (source.node_id in side) != (to.node_id in side):
                    self.cluster.network.cut(source, to)
        return bool(side) and len(side) < len(machines)

    def one_way(self) -> bool:
        machines = self.cluster.machines
        if len(machines) < 2:
            return False
        deaf = self.dice.choice(machines)
        for other in machines:
            if other is not deaf and self.dice.random() < 0.8:
                self.cluster.network.cut(other, deaf)
        return True

    def heal(self) -> bool:
        healed = bool(self.cluster.network.cuts)
        self.cluster.network.heal()
        return healed

    def stop(self) -> bool:
        """A clean stop, with handing over."""
        machine = self._pick(lambda m: m.running)
        if machine is None:
            return False
        assert machine.mesh is not None
        stopping = self.cluster.loop.create_task(machine.mesh.stop())
        self.cluster.run(0.2)
        if stopping.done():
            machine.kill()
        else:
            stopping.cancel()
        return True

    def loss(self) -> bool:
        self.cluster.network.loss = self.dice.choice([0.0, 0.02, 0.2])
        return self.cluster.network.loss > 0

    def disk_full(self) -> bool:
        machine = self._pick(lambda m: not m.disk.full)
        if machine is not None:
            machine.disk.full = True
        return machine is not None

    def slow_disk(self) -> bool:
        machine = self._pick(lambda m: True)
        assert machine is not None
        machine.disk.write_s = self.dice.choice([0.005, 0.05, 0.5, 2.5])
        return machine.disk.write_s > 0.1

    def calm(self) -> None:
        """Everything is mended."""
        network = self.cluster.network
        network.loss = 0.0
        for machine in self.cluster.machines:
            machine.disk.full, machine.disk.write_s = False, 0.005
            if not machine.alive:
                self.cluster.start(machine)
            elif not machine.running:
                machine.thaw()
        network.heal()


def run_seed(seed: int) -> Outcome:
    """Raises Violation, naming the seed and the command that replays it."""
    try:
        return _run_seed(seed)
    except (Violation, AssertionError) as error:
        raise Violation(f"seed {seed}: {error}\n{REPLAY.format(seed=seed)}") from error


def _run_seed(seed: int) -> Outcome:
    dice = random.Random(f"chaos {seed}")
    with Cluster(seed, Shape(dice.randint(2, 7))) as cluster:
        chaos = Chaos(cluster, dice)
        cluster.start_all()
        cluster.run(dice.uniform(0.1, 4))
        for _ in range(FAULTS_PER_SEED):
            chaos.one()
            cluster.run(dice.choice([0.05, 0.3, 1.0, 3.0]) * (0.5 + dice.random()))
        chaos.calm()
        converged_s = cluster.seconds_until_agreed(CONVERGED_WITHIN_S)
        cluster.run(3.0)
        if cluster.agreed() is None:
            raise Violation(f"S2: agreement did not last: {cluster.describe()}")
        cluster.check_views()
        return Outcome(seed, chaos.faults, cluster.loop.time(), converged_s)
