"""Asks, answers and reports of a gateway process, with the machine they go to or come from.

An assignment's verdicts on every machine are what people ask for with `covey explain`, seldom, and what an answer is
mostly made of: they stay with the agent (supervisor.py), and the process gets their number.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Never, overload

from covey_mesh.core.asking import Answer, Ask, AttemptReport, CandidateVerdict, Decision, GrantedWork, Tallied
from covey_mesh.core.names import NodeId
from covey_mesh.io.codec_asking import (
    answer_from_wire,
    answer_to_wire,
    ask_from_wire,
    ask_to_wire,
    granted_work_from_wire,
    granted_work_to_wire,
    report_from_wire,
    report_to_wire,
)
from covey_mesh.io.codec_values import node_id as read_node_id
from covey_mesh.wire.v1.link_pb2 import Relayed


class CountedVerdicts(Tallied):
    """None to look at; only how many there were."""

    __slots__ = ("_passed", "_refused")

    def __init__(self, passed: int, refused: int) -> None:
        self._passed, self._refused = passed, refused

    def tally(self) -> tuple[int, int]:
        return self._passed, self._refused

    def __len__(self) -> int:
        return 0

    @overload
    def __getitem__(self, index: int) -> Never: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[CandidateVerdict, ...]: ...
    def __getitem__(self, index: int | slice) -> tuple[CandidateVerdict, ...]:
        return ()[index]


def addressed(node_id: NodeId, message: Ask | Answer | AttemptReport | GrantedWork) -> Relayed:
    """A value out of the wire's range raises ValueError: our bug."""
    if isinstance(message, Ask):
        return Relayed(node_id=node_id, ask=ask_to_wire(message))
    if isinstance(message, AttemptReport):
        return Relayed(node_id=node_id, attempt=report_to_wire(message))
    if isinstance(message, GrantedWork):
        return Relayed(node_id=node_id, granted_work=granted_work_to_wire(message))
    decision = message.decision
    if decision is None or decision.chosen is None:
        return Relayed(node_id=node_id, answer=answer_to_wire(message))
    passed, refused = _tally(decision)
    short = replace(message, decision=replace(decision, candidates=()))
    tally = Relayed.Tally(passed=passed, refused=refused)
    return Relayed(node_id=node_id, answer=answer_to_wire(short), tally=tally)


def message_of(relayed: Relayed) -> tuple[NodeId, Ask | Answer | AttemptReport | GrantedWork | None]:
    """None for what this build does not know. Raises PeerProtocolError."""
    node_id = read_node_id(relayed.node_id)
    match relayed.WhichOneof("message"):
        case "ask":
            return node_id, ask_from_wire(relayed.ask)
        case "answer":
            return node_id, _with_tally(answer_from_wire(relayed.answer), relayed)
        case "attempt":
            return node_id, report_from_wire(relayed.attempt)
        case "granted_work":
            return node_id, granted_work_from_wire(relayed.granted_work)
    return node_id, None


def _tally(decision: Decision) -> tuple[int, int]:
    candidates: Sequence[CandidateVerdict] = decision.candidates
    if isinstance(candidates, Tallied):
        return candidates.tally()
    refused = sum(1 for verdict in candidates if verdict.rejected_because)
    return len(candidates) - refused, refused


def _with_tally(answer: Answer | None, relayed: Relayed) -> Answer | None:
    if answer is None or answer.decision is None or not relayed.HasField("tally"):
        return answer
    counted = CountedVerdicts(relayed.tally.passed, relayed.tally.refused)
    return replace(answer, decision=replace(answer.decision, candidates=counted))
