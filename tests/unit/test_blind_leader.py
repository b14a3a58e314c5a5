"""A leader that lacks a link which the gateway has: when the gateway may see for itself, and what it does then."""

from __future__ import annotations

import pytest

from covey_gateway.core.offer import leader_is_blind
from covey_mesh.core.asking import CandidateVerdict, Decision, Outcome
from covey_mesh.core.facts import EngineState, Member, ModelLoad, NodeFacts, NodeLoad, PoolView, Task
from covey_mesh.core.names import NodeId
from covey_scheduler.core.filters import UNREACHABLE

GATEWAY, NODE, OTHER = (NodeId(letter * 32) for letter in "abc")


def member(node_id: NodeId, reachable: bool = True, state: EngineState = EngineState.READY) -> Member:
    load = ModelLoad("model", state, "simulated", Task.GENERATE, 4096)
    return Member(NodeFacts(node_id, "", "0", 1, 1), NodeLoad(node_id, 1, 1, models=(load,)), reachable)


def view(*members: Member) -> PoolView:
    return PoolView(GATEWAY, members={m.node_id: m for m in members})


def decision(*verdicts: CandidateVerdict) -> Decision:
    return Decision("r", 1, "model", 0.0, "leader", OTHER, Outcome.QUEUED, "p", candidates=verdicts)


UNREACHED = CandidateVerdict(NODE, UNREACHABLE)


@pytest.mark.parametrize(
    ("seen", "decided", "blind"),
    [
        (view(member(NODE)), decision(UNREACHED), True),
        (view(member(NODE)), decision(UNREACHED, CandidateVerdict(OTHER, "is draining")), True),
        (view(member(NODE)), decision(UNREACHED, CandidateVerdict(OTHER)), False),
        (view(member(NODE)), decision(UNREACHED, CandidateVerdict(OTHER, "busy", first_token_s=3.0)), False),
        (view(member(NODE)), decision(CandidateVerdict(NODE, "is draining")), False),
        (view(member(NODE, reachable=False)), decision(UNREACHED), False),
        (view(member(NODE, state=EngineState.STARTING)), decision(UNREACHED), False),
        (view(), decision(UNREACHED), False),
        (view(member(NODE)), None, False),
    ],
)
def test_only_a_missing_link_of_the_leader_lets_a_gateway_see_for_itself(
    seen: PoolView, decided: Decision | None, blind: bool
) -> None:
    assert leader_is_blind(seen, decided) is blind
