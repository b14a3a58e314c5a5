"""What running requests hold is known to a new leader: told by the gateways whose requests they are."""

from __future__ import annotations

import pytest
from tests.sim.client import CHAT, Asked
from tests.sim.cluster import Cluster
from tests.sim.machine import MODEL, Machine
from tests.sim.stories import pool

from covey_mesh.core.names import NodeId

ASKED = Asked(CHAT, 7, True, 24)
SPEED = 0.05
"""Of each engine, so that an answer takes eight seconds."""

RUNNING = 6


def held(cluster: Cluster) -> dict[NodeId, int]:
    """Places by machine, in the leader's own account."""
    holdings = cluster.leader_machine().scheduler._core._pool.holdings
    found: dict[NodeId, int] = {}
    for user in [name for model, name in holdings._users if model == MODEL]:
        for node_id, count in holdings.by_machine(MODEL, user).items():
            found[node_id] = found.get(node_id, 0) + count
    return found


def running(gateways: list[Machine]) -> dict[NodeId, int]:
    found: dict[NodeId, int] = {}
    for gateway in gateways:
        for node_id, count in gateway.runner.in_flight().items():
            found[node_id] = found.get(node_id, 0) + count
    return found


@pytest.mark.parametrize("seed", range(3))
def test_a_new_leader_knows_whose_places_are_held_where(seed: int) -> None:
    with pool(seed, SPEED, SPEED, SPEED, SPEED) as cluster:
        gone = cluster.leader_machine()
        gateways = [machine for machine in cluster.machines if machine is not gone]
        for number in range(RUNNING):
            cluster.clients.ask(gateways[number % 2], ASKED)
        cluster.run(1.0)
        assert held(cluster) == running(gateways)
        gone.kill()
        cluster.run(2.5)
        assert cluster.leader_machine() is not gone
        assert sum(running(gateways).values()) == RUNNING, "streams of the machine that died went on elsewhere"
        assert held(cluster) == running(gateways)
        cluster.run(30.0)
        assert held(cluster) == running(gateways) == {}
