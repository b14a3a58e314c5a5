"""An engine that accepts and never answers: its machine tells the pool, nobody waits long, and it is used again."""

from __future__ import annotations

import pytest
from tests.sim.client import CHAT, Asked, Request
from tests.sim.cluster import Cluster
from tests.sim.machine import Machine
from tests.sim.stories import pool

from covey_mesh.core.facts import EngineState
from covey_node.core.simulated import Fault, FaultKind

ASKED = Asked(CHAT, 7, True, 24)
EVERY_S = 0.25
AT_ONCE = 4
"""So that every machine gets some."""

ENDED_WITHIN_S = 12.0
"""A few seconds of silence, and the answer from another machine."""


def steady(cluster: Cluster, gateway: Machine, seconds: float) -> list[Request]:
    requests = []
    for _ in range(round(seconds / EVERY_S)):
        requests += [cluster.clients.ask(gateway, ASKED) for _ in range(AT_ONCE)]
        cluster.run(EVERY_S)
    return requests


def served_by(requests: list[Request], machine: Machine) -> int:
    records = [r.runner.record(r.active.request_id) for r in requests if r.active is not None]
    return sum(any(a.node_id == machine.node_id for a in record.attempts) for record in records if record is not None)


def reported(cluster: Cluster, machine: Machine) -> EngineState:
    """As the leader last heard."""
    return cluster.leader_machine().mesh.view().members[machine.node_id].load.models[0].state


@pytest.mark.parametrize("seed", range(2))
def test_a_wedged_engine_is_told_left_alone_and_used_again(seed: int) -> None:
    with pool(seed, 0.0, 1.0, 1.0, 1.0) as cluster:
        gateway, victim = cluster.machines[0], cluster.machines[1]
        steady(cluster, gateway, 6.0)
        engine = victim.node.supervisor.engine
        assert engine is not None
        engine.inject(Fault(FaultKind.HANG))
        noticing = steady(cluster, gateway, 8.0)
        assert reported(cluster, victim) is EngineState.WEDGED
        wedged = steady(cluster, gateway, 8.0)
        cluster.run(ENDED_WITHIN_S)
        assert all(request.outcome == "completed" for request in noticing + wedged)
        waits = [request.ended_s - request.submitted_s for request in noticing + wedged if request.ended_s is not None]
        print(f"seed {seed}: longest answer {max(waits):.2f} s")
        assert max(waits) < ENDED_WITHIN_S
        assert served_by(noticing, victim) > 0
        assert served_by(wedged, victim) == 0
        victim.process.call_soon(engine.heal)
        cluster.run(1.0)
        assert reported(cluster, victim) is EngineState.READY
        assert served_by(steady(cluster, gateway, 12.0), victim) > 0


def test_an_engine_that_stays_wedged_is_started_again() -> None:
    with pool(3, 0.0, 1.0, 1.0) as cluster:
        gateway, victim = cluster.machines[0], cluster.machines[1]
        steady(cluster, gateway, 6.0)
        engine = victim.node.supervisor.engine
        assert engine is not None
        engine.inject(Fault(FaultKind.HANG))
        steady(cluster, gateway, 8.0)
        assert reported(cluster, victim) is EngineState.WEDGED
        cluster.run(70.0)
        assert victim.node.supervisor.engine is not engine
        assert reported(cluster, victim) is EngineState.READY
