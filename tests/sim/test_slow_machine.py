"""A machine that something else has taken (a game, heat): noticed within seconds, left alone, used again."""

from __future__ import annotations

from collections import Counter

import pytest
from tests.sim.client import CHAT, Asked, Request
from tests.sim.cluster import Cluster
from tests.sim.machine import Machine
from tests.sim.stories import pool

from covey_mesh.core.names import NodeId

ASKED = Asked(CHAT, 7, True, 24)
EVERY_S = 0.125
NOTICED_WITHIN_S = 6.0
"""A slow answer takes 3 s until it tells; three of them in a row are believed."""
SLOWER = 8.0


def steady(cluster: Cluster, gateway: Machine, seconds: float, every_s: float = EVERY_S) -> list[Request]:
    """A few requests a second: two machines could serve them."""
    requests = []
    for _ in range(round(seconds / every_s)):
        requests.append(cluster.clients.ask(gateway, ASKED))
        cluster.run(every_s)
    return requests


def share(requests: list[Request], node_id: NodeId) -> float:
    """Of first attempts that went to this machine."""
    chosen: Counter[NodeId] = Counter()
    for request in requests:
        assert request.active is not None
        record = request.runner.record(request.active.request_id)
        if record is not None and record.attempts:
            chosen[record.attempts[0].node_id] += 1
    return chosen[node_id] / max(1, chosen.total())


def reported(cluster: Cluster, machine: Machine) -> float:
    """Tokens a second of one stream, as the leader last heard."""
    load = cluster.leader_machine().mesh.view().members[machine.node_id].load.models[0]
    return load.decode_tokens_per_s


@pytest.mark.parametrize("seed", range(2))
def test_a_machine_taken_by_a_game_is_left_alone_and_comes_back(seed: int) -> None:
    with pool(seed, 0.0, 1.0, 1.0, 1.0) as cluster:
        gateway, player = cluster.machines[0], cluster.machines[1]
        before = steady(cluster, gateway, 12.0)
        usual = reported(cluster, player)
        engine = player.node.supervisor.engine
        assert engine is not None
        engine.slow_down(SLOWER)
        noticing = steady(cluster, gateway, NOTICED_WITHIN_S)
        assert reported(cluster, player) < usual / (0.5 * SLOWER), "its own report says so"
        slow = steady(cluster, gateway, 10.0)
        engine.slow_down(1.0)
        # Nobody sends it work, so nobody sees that the game is over: after a minute it gets another chance.
        cluster.run(62.0)
        # More than two machines would like: else who is faster by a hair may get everything.
        after = steady(cluster, gateway, 12.0, EVERY_S / 4)
        assert reported(cluster, player) == pytest.approx(usual, rel=0.3)
        told = {"before": before, "noticing": noticing, "slow": slow, "after": after}
        shares = {name: round(share(requests, player.node_id), 2) for name, requests in told.items()}
        print(f"seed {seed}: share of the slow machine {shares}")
        assert min(shares["before"], shares["after"]) > 0.1
        assert shares["noticing"] < shares["before"]
        assert shares["slow"] < 0.05
