"""One seed: a pool under load, a random schedule of faults, then calm, in which everything must come to good.

The order of a seed: boot; FAULTS_S of faults under load; calm, in which one leader is agreed on within 5 s; load that
must all succeed; silence, in which every request ends, no table keeps anything and the pool is idle.
"""

from __future__ import annotations

import random
import subprocess
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path

from tests.sim.client import Habits
from tests.sim.cluster import CONVERGED_WITHIN_S, Cluster, Shape, Violation
from tests.sim.faults import Faults

FAULTS_PER_SEED = 12
FAULTS_S = 40.0
SEED_S = 60.0
"""Virtual seconds of a seed, at least."""

RECOVERED_S = 3.0
"""After agreement: by then dial backoffs, excluded machines and distrusted leaders are over."""

GOOD_LOAD_S = 4.0
ENDED_WITHIN_S = 25.0
"""Every request ends this long after the load has stopped."""

IDLE_S = 2.0
RESERVED_S = 11.0
"""Reservations of the scheduler end by themselves after this."""

REPLAY = "replay: .venv/bin/python -m tests.sim.run --first {seed} --seeds 1{lone}"

LONE = {
    "machines": 3,
    "speeds": (25.0, *[0.0] * 8),
    "places": 64,
    "kv_cache_tokens": 65_536,
    "habits": Habits(requests_per_s=10.0, streaming=0.4),
}
"""One machine alone serves, fast and with many places, and is asked more: so grants are given and used."""

KINDS = (
    *("crash", "power_cut", "restart_with_disk", "restart_without_disk", "clean_stop", "freeze", "suspend"),
    *("blocked_loop", "partition", "one_way_cut", "isolation", "two_leaders", "loss", "duplication", "reordering"),
    *("delay", "drift", "clock_jump", "boot_clock_jump", "slow_machine", "lying_machine", "engine_crash"),
    *("disk_full", "slow_disk", "connection_reset"),
)
"""A run of many seeds that injected none of one of these fails."""

BEFALLEN = ("lost", "duplicated", "overtaken", "held_back", "refused_by_disk")
"""What such faults did to messages and writes. Likewise: a fault that touches nothing proves nothing."""


@dataclass
class Outcome:
    """What a seed came to."""

    seed: int
    faults: Counter[str]
    requests: Counter[str]
    virtual_s: float
    converged_s: float
    attempts_most: int
    messages: tuple[tuple[str, int], ...]
    """Control messages sent in all, by kind."""
    befallen: Counter[str]
    """What happened to messages and writes, see BEFALLEN."""
    granted: int
    """Requests that began under grants."""


@dataclass
class Totals:
    """What many seeds came to."""

    seeds: int = 0
    violations: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    requests: Counter[str] = field(default_factory=Counter)
    converged_s: list[float] = field(default_factory=list)
    attempts_most: int = 0
    befallen: Counter[str] = field(default_factory=Counter)
    granted: int = 0

    def add(self, outcome: Outcome) -> None:
        self.seeds += 1
        self.faults += outcome.faults
        self.befallen += outcome.befallen
        self.requests += outcome.requests
        self.granted += outcome.granted
        self.converged_s.append(outcome.converged_s)
        self.attempts_most = max(self.attempts_most, outcome.attempts_most)

    def missing(self) -> list[str]:
        """Kinds of fault that were never injected, and effects of faults that were never felt."""
        never = [kind for kind in KINDS if not self.faults[kind]]
        return never + [effect for effect in BEFALLEN if not self.befallen[effect]]


def commit() -> str:
    """Of this working tree, for the report of a failure."""
    asked = ["git", "describe", "--always", "--dirty"]
    found = subprocess.run(asked, capture_output=True, text=True, cwd=Path(__file__).parent, check=False)
    return found.stdout.strip() or "unknown"


def run_seed(seed: int, lone: bool = False) -> Outcome:
    """`lone`: only one machine of the pool serves. Raises Violation, naming the seed, the commit and the command that
    replays it."""
    try:
        return _run_seed(seed, lone)
    except Violation as error:
        replay = REPLAY.format(seed=seed, lone=" --lone" if lone else "")
        raise Violation(f"seed {seed} commit {commit()}: {error}\n{replay}") from error


def _run_seed(seed: int, lone: bool) -> Outcome:
    dice = random.Random(f"chaos {seed}")
    speeds = [dice.choice((1.0, 1.0, 0.5, 0.25, 0.0)) for _ in range(8)]
    shape = Shape(dice.randint(3, 9), speeds=(1.0, *speeds))
    if lone:
        shape = replace(shape, **LONE)  # type: ignore[arg-type]
    with Cluster(seed, shape) as cluster:
        faults = Faults(cluster, dice)
        faults.counts["drift"] = any(machine.clock_rate != 1.0 for machine in cluster.machines)
        cluster.start_all()
        cluster.run(dice.uniform(0.1, 3.0))
        cluster.clients.start()
        _break(cluster, faults, seed, dice)
        converged_s = _calm(cluster, faults)
        _good_load(cluster)
        _silence(cluster)
        return Outcome(
            seed,
            faults.counts,
            cluster.clients.outcomes,
            cluster.loop.now_s,
            converged_s,
            cluster.watch.attempts_most,
            tuple(sorted(cluster.network.kinds.items())),
            cluster.network.befallen,
            cluster.watch.granted,
        )


def _break(cluster: Cluster, faults: Faults, seed: int, dice: random.Random) -> None:
    """A third of the faults is dealt in turn over the seeds, so that few seeds see them all; the rest is chance."""
    kinds = faults.kinds()
    dealt = [kinds[(seed * 4 + i) % len(kinds)] for i in range(4)]
    rest = [dice.choice(kinds) for _ in range(FAULTS_PER_SEED - len(dealt))]
    plan = [*dealt, *rest]
    dice.shuffle(plan)
    pauses = [dice.expovariate(1.0) for _ in plan]
    for kind, pause in zip(plan, pauses, strict=True):
        faults.inject(kind)
        cluster.run(pause / sum(pauses) * FAULTS_S)


def _calm(cluster: Cluster, faults: Faults) -> float:
    faults.mend()
    for machine in cluster.machines:
        cluster.troubles.touched(machine)
    converged_s = cluster.seconds_until_agreed(CONVERGED_WITHIN_S)
    cluster.run(RECOVERED_S)
    if cluster.agreed() is None:
        raise Violation(f"S2: agreement did not last: {cluster.describe()}")
    cluster.check_views()
    return converged_s


def _good_load(cluster: Cluster) -> None:
    """In a healthy pool every request is answered."""
    good_from_s = cluster.loop.now_s
    owed = cluster.clients.on_end

    def ended(request: object) -> None:
        owed(request)  # type: ignore[arg-type]
        if request.submitted_s >= good_from_s and request.outcome != "completed":  # type: ignore[attr-defined]
            cluster.watch.found(f"failed in calm: {request}: {request.detail}")  # type: ignore[attr-defined]

    cluster.clients.on_end = ended
    cluster.run(GOOD_LOAD_S)


def _silence(cluster: Cluster) -> None:
    """Nobody asks anything any more: what was asked ends, and what it took is given back."""
    clients = cluster.clients
    clients.stop()
    clients.forget_excused()
    stopped_s = cluster.loop.now_s
    while clients.requests:
        cluster.run(0.25)
        clients.forget_excused()
        if cluster.loop.now_s - stopped_s > ENDED_WITHIN_S:
            raise Violation(f"never ended: {list(clients.requests)[:3]}")
    cluster.run(max(RESERVED_S, SEED_S - IDLE_S - cluster.loop.now_s))
    cluster.network.messages.clear()
    cluster.run(IDLE_S)
    cluster.watch.check_tables()
    check_idle(cluster, IDLE_S)


def check_idle(cluster: Cluster, over_s: float) -> float:
    """Heartbeats, grants and reports, and nothing that grows faster than machines times machines."""
    machines = len(cluster.machines)
    messages_per_s = sum(cluster.network.messages.values()) / over_s
    allowed = machines * (20 + 3 * machines)
    if messages_per_s > allowed:
        raise Violation(
            f"not idle: {messages_per_s:.0f} messages a second among {machines} machines: {cluster.network.kinds}"
        )
    return messages_per_s
