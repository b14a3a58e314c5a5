"""Asks, answers and reports of a gateway process, with the machine they go to or come from."""

from __future__ import annotations

from covey_mesh.core.asking import Answer, Ask, AttemptReport
from covey_mesh.core.names import NodeId
from covey_mesh.io.codec_asking import (
    answer_from_wire,
    answer_to_wire,
    ask_from_wire,
    ask_to_wire,
    report_from_wire,
    report_to_wire,
)
from covey_mesh.io.codec_values import node_id as read_node_id
from covey_mesh.wire.v1.link_pb2 import Relayed


def addressed(node_id: NodeId, message: Ask | Answer | AttemptReport) -> Relayed:
    """A value out of the wire's range raises ValueError: our bug."""
    if isinstance(message, Ask):
        return Relayed(node_id=node_id, ask=ask_to_wire(message))
    if isinstance(message, Answer):
        return Relayed(node_id=node_id, answer=answer_to_wire(message))
    return Relayed(node_id=node_id, attempt=report_to_wire(message))


def message_of(relayed: Relayed) -> tuple[NodeId, Ask | Answer | AttemptReport | None]:
    """None for what this build does not know. Raises PeerProtocolError."""
    node_id = read_node_id(relayed.node_id)
    match relayed.WhichOneof("message"):
        case "ask":
            return node_id, ask_from_wire(relayed.ask)
        case "answer":
            return node_id, answer_from_wire(relayed.answer)
        case "attempt":
            return node_id, report_from_wire(relayed.attempt)
    return node_id, None
