"""What operators and programs are told of the pool: one builder for gRPC, the local HTTP routes and the CLI.

Reads the view and the runner's records; changes nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from covey_gateway.core.known_models import KnownModel, known_models
from covey_gateway.core.records import RequestRecord
from covey_gateway.core.speed_table import SpeedRow, speed_table
from covey_mesh.core.names import NodeId
from covey_mesh.core.ports import Mesh
from covey_mesh.io.codec_asking import decision_to_wire
from covey_mesh.io.codec_facts import member_to_wire
from covey_mesh.wire.v1 import pool_pb2 as wire
from covey_mesh.wire.v1 import types_pb2

QUERY_KIND = "explain"
"""The mesh query by which one machine asks another for a request's record."""

QUERY_TIMEOUT_S = 1.0
QUERY_MACHINES_MAX = 16
"""Machines asked for a record whose id does not name its gateway."""

REQUEST_ID_BYTES_MAX = 128


class Records(Protocol):
    """The runner's memory of its last requests (covey_mesh.core.limits.DECISIONS_KEPT)."""

    def record(self, request_id: str) -> RequestRecord | None: ...


class ProcessRecords(Protocol):
    """Likewise, of this agent's other gateway processes."""

    async def explain(self, kind: str, asked: bytes, timeout_s: float) -> bytes | None: ...


class PoolStatus:
    """Snapshots, models, and explanations from wherever the request entered."""

    def __init__(
        self,
        mesh: Mesh,
        pool_id: str,
        pool_name: str,
        records: Records,
        queue_lengths: Callable[[], dict[str, int]],
        processes: ProcessRecords | None = None,
    ) -> None:
        self._mesh = mesh
        self._pool_id = pool_id
        self._pool_name = pool_name
        self._records = records
        self._queue_lengths = queue_lengths
        self._processes = processes
        self._answering: set[asyncio.Task[bytes | None]] = set()
        if processes is None:
            mesh.answer_queries(QUERY_KIND, lambda asked: record_answer(records, mesh.self_id, asked))
        else:
            mesh.answer_queries_later(QUERY_KIND, self._answer_later)

    def snapshot(self) -> wire.GetPoolResponse:
        """The pool as this machine sees it now."""
        view = self._mesh.view()
        return wire.GetPoolResponse(
            pool_id=self._pool_id,
            pool_name=self._pool_name,
            node_id=view.self_id,
            leader_node_id=view.leader or "",
            ballot=types_pb2.Ballot(counter=view.ballot.counter, node_id=view.ballot.node_id),
            view_version=view.version,
            members=[member_to_wire(view.members[node_id]) for node_id in sorted(view.members)],
            models=[_model(m) for m in known_models(view)],
            queued_requests=sum(self._queue_lengths().values()),
        )

    def models(self) -> list[KnownModel]:
        """What could serve a request now."""
        return known_models(self._mesh.view())

    def speeds(self, unix_s: float) -> list[SpeedRow]:
        """Every machine's speed for every model, as known now."""
        return speed_table(self._mesh.view(), unix_s)

    async def explain(self, request_id: str) -> wire.ExplainRequestResponse | None:
        """The record of a request, from the machine where it entered. None where nobody reachable remembers it."""
        if not request_id or len(request_id) > REQUEST_ID_BYTES_MAX:
            return None
        payload = await self._found_here(request_id.encode())
        if payload is not None:
            return wire.ExplainRequestResponse.FromString(payload)
        for node_id in self._where_it_may_have_entered(request_id):
            payload = await self._mesh.query(node_id, QUERY_KIND, request_id.encode(), QUERY_TIMEOUT_S)
            if payload is not None:
                return wire.ExplainRequestResponse.FromString(payload)
        return None

    def _where_it_may_have_entered(self, request_id: str) -> list[NodeId]:
        """Request ids carry the first digits of their gateway's id; others are asked only where none matches."""
        view = self._mesh.view()
        others = [n for n, m in view.members.items() if m.reachable and n != view.self_id]
        named = [n for n in others if n[:8] in request_id]
        return (named or others)[:QUERY_MACHINES_MAX]

    async def _found_here(self, asked: bytes) -> bytes | None:
        """From whichever process of this agent took the request."""
        found = record_answer(self._records, self._mesh.self_id, asked)
        if found is None and self._processes is not None:
            found = await self._processes.explain(QUERY_KIND, asked, QUERY_TIMEOUT_S / 2)
        return found

    def _answer_later(self, _: NodeId, asked: bytes, reply: Callable[[bytes | None], None]) -> None:
        task = asyncio.get_running_loop().create_task(self._found_here(asked))
        self._answering.add(task)
        task.add_done_callback(self._answering.discard)
        task.add_done_callback(lambda done: reply(None if done.cancelled() else done.result()))


def record_answer(records: Records, gateway: NodeId, asked: bytes) -> bytes | None:
    """The answer to a query of QUERY_KIND from one process's memory; None where it does not remember the request."""
    if len(asked) > REQUEST_ID_BYTES_MAX:
        return None
    found = records.record(asked.decode(errors="replace"))
    return None if found is None else explained(found, gateway).SerializeToString()


def explained(record: RequestRecord, gateway: NodeId) -> wire.ExplainRequestResponse:
    """The wire form of a request's record."""
    return wire.ExplainRequestResponse(
        request_id=record.request_id,
        gateway_node_id=gateway,
        decisions=[decision_to_wire(d) for d in record.decisions],
        attempts=[
            wire.AttemptRecord(
                attempt=a.attempt,
                node_id=a.node_id,
                outcome=a.outcome,
                first_byte_s=a.first_byte_s,
                total_s=a.total_s,
            )
            for a in record.attempts
        ],
        status=record.status,
        path=record.path,
        model=record.model,
        streaming=record.streaming,
        prompt_tokens=record.prompt_tokens,
        max_output_tokens=record.max_output_tokens,
        arrived_at_unix_s=record.arrived_at_unix_s,
        error=record.error,
        first_byte_s=record.first_byte_s,
        total_s=record.total_s,
        parts=[
            wire.PartRecord(
                request_id=p.request_id,
                begin=p.begin,
                end=p.end,
                node_id=p.node_id or "",
                status=p.status,
                error=p.error,
                total_s=p.total_s,
            )
            for p in record.parts
        ],
        part_of=record.part_of,
    )


def _model(model: KnownModel) -> wire.PoolModel:
    return wire.PoolModel(
        model=model.model, task=model.task, max_context_tokens=model.max_context_tokens, node_ids=list(model.node_ids)
    )
