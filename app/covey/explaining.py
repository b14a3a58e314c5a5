"""From the gateway's record of a request to the wire message that `covey explain` shows."""

from __future__ import annotations

from collections.abc import Callable

from covey_gateway.core.records import AttemptRecord, RequestRecord
from covey_mesh.core.names import NodeId
from covey_mesh.io.codec_asking import decision_to_wire
from covey_mesh.wire.v1 import pool_pb2 as wire


class WireRecords:
    """Implements covey_gateway.io.status.Records over the runner's memory."""

    def __init__(self, find: Callable[[str], RequestRecord | None], gateway: NodeId) -> None:
        self._find = find
        self._gateway = gateway

    def explain(self, request_id: str) -> wire.ExplainRequestResponse | None:
        """None where this machine does not remember the request."""
        record = self._find(request_id)
        if record is None:
            return None
        return wire.ExplainRequestResponse(
            request_id=record.request_id,
            gateway_node_id=self._gateway,
            decisions=[decision_to_wire(decision) for decision in record.decisions],
            attempts=[_attempt(attempt) for attempt in record.attempts],
            status=record.status,
        )


def _attempt(attempt: AttemptRecord) -> wire.AttemptRecord:
    return wire.AttemptRecord(
        attempt=attempt.attempt,
        node_id=attempt.node_id,
        outcome=attempt.outcome,
        first_byte_s=attempt.first_byte_s or 0.0,
        total_s=attempt.total_s or 0.0,
    )
