"""Who may stay on a link, case by case."""

from __future__ import annotations

import pytest

from covey_mesh.core.facts import NodeFacts
from covey_mesh.core.greeting import MYSELF, PROTOCOL_MIN, Greeting, object_to_greeting, object_to_peer
from covey_mesh.core.limits import PROTOCOL_VERSION
from covey_mesh.core.names import NodeId, PoolId
from covey_mesh.core.ports import LinkLoss

POOL, OTHER_POOL = PoolId("a" * 32), PoolId("b" * 32)
OWN, PEER, THIRD = NodeId("1" * 32), NodeId("2" * 32), NodeId("3" * 32)


def greeting(
    pool: str = POOL, node_id: NodeId = PEER, low: int = PROTOCOL_MIN, high: int = PROTOCOL_VERSION
) -> Greeting:
    return Greeting(pool, NodeFacts(node_id, "n", "0", PROTOCOL_VERSION, 1), low, high)


@pytest.mark.parametrize(
    ("hello", "loss"),
    [
        (greeting(), None),
        (greeting(pool=OTHER_POOL), LinkLoss.UNTRUSTED),
        (greeting(pool=""), LinkLoss.UNTRUSTED),
        (greeting(node_id=THIRD), LinkLoss.UNTRUSTED),
        (greeting(low=PROTOCOL_VERSION, high=PROTOCOL_VERSION + 5), None),
        (greeting(low=PROTOCOL_VERSION + 1, high=PROTOCOL_VERSION + 5), LinkLoss.PROTOCOL),
        (greeting(low=0, high=PROTOCOL_MIN - 1), LinkLoss.PROTOCOL),
    ],
)
def test_greetings(hello: Greeting, loss: LinkLoss | None) -> None:
    objection = object_to_greeting(POOL, PEER, hello)
    assert (objection.loss if objection else None) is loss


def test_peers_by_certificate() -> None:
    assert object_to_peer(OWN, PEER, lambda _: False) is None
    removed = object_to_peer(OWN, PEER, lambda node_id: node_id == PEER)
    assert removed is not None
    assert removed.loss is LinkLoss.UNTRUSTED
    myself = object_to_peer(OWN, OWN, lambda _: False)
    assert myself is not None
    assert myself.detail == MYSELF
