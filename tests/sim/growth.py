"""How a pool's traffic grows: `python -m tests.sim.growth` prints messages a second of idle pools, by size.

Also prints how long after the start of all machines every one of them follows one leader. Fails where a pool misses
a target, whatever its size.
"""

from __future__ import annotations

import argparse
import gc
import sys
from dataclasses import dataclass

from tests.sim.cluster import Cluster, Shape

from covey_mesh.core.timing import idle_heartbeat_s

SIZES = (2, 10, 100, 1000)
STARTED_WITHIN_S = 1.0
LEADER_WITHIN_S = 30.0
SETTLING_S = 50.0
"""Peer lists, first views and links that a large pool lets go of are over by then."""

MEASURED_S = idle_heartbeat_s(1000)
"""So that every idle link is asked once."""

LEADER_TARGET_S = 5.0
MEAN_TARGET_PER_S = 5.0
BUSIEST_TARGET_PER_S = 2000.0


@dataclass(frozen=True, slots=True)
class Growth:
    """An idle pool of so many machines."""

    machines: int
    leader_s: float
    mean_per_s: float
    busiest_per_s: float

    def missed(self) -> list[str]:
        """The targets that this pool does not meet."""
        targets = (
            ("leader found by all", self.leader_s, LEADER_TARGET_S),
            ("mean messages a second", self.mean_per_s, MEAN_TARGET_PER_S),
            ("messages a second of the busiest", self.busiest_per_s, BUSIEST_TARGET_PER_S),
        )
        return [f"{name}: {found:.2f}, not under {target:g}" for name, found, target in targets if found >= target]

    def __str__(self) -> str:
        rates = f"messages a second: mean {self.mean_per_s:.2f} busiest {self.busiest_per_s:.1f}"
        return f"machines {self.machines} leader found by all after {self.leader_s:.2f} s; {rates}"


def grown(machines: int, settling_s: float = SETTLING_S) -> Growth:
    """One pool, booted at once on a network where everybody hears everybody's mDNS."""
    with Cluster(machines, Shape(machines)) as cluster:
        cluster.start_all(STARTED_WITHIN_S)
        cluster.run(STARTED_WITHIN_S)
        leader_s = STARTED_WITHIN_S
        while cluster.agreed() is None:
            assert leader_s < LEADER_WITHIN_S, cluster.describe()[:500]
            cluster.run(0.1)
            leader_s += 0.1
        cluster.run(settling_s)
        cluster.network.messages.clear()
        cluster.run(MEASURED_S)
        counts = cluster.network.messages
        return Growth(
            machines, leader_s, sum(counts.values()) / machines / MEASURED_S, max(counts.values()) / MEASURED_S
        )


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.sim.growth", description=__doc__.splitlines()[0])
    parser.add_argument("sizes", type=int, nargs="*", default=SIZES, help=f"machines (default {SIZES})")
    sizes, missed = parser.parse_args().sizes, []
    gc.freeze()
    for machines in sizes:
        found = grown(machines)
        print(found, flush=True)
        missed += [f"machines {machines} {what}" for what in found.missed()]
    for what in missed:
        print(f"missed: {what}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
