"""The Pool service: who is there, who leads, what runs where, and why a request went where it went."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import grpc

from covey_gateway.io.grpc_inference import Authenticate, Context
from covey_gateway.io.status import PoolStatus
from covey_mesh.wire.v1 import pool_pb2 as wire
from covey_mesh.wire.v1 import pool_pb2_grpc

WATCH_INTERVAL_S = 1.0
"""Shortest time between two snapshots of one watcher."""


class PoolService(pool_pb2_grpc.PoolServicer):
    """Reads PoolStatus; changes nothing."""

    def __init__(self, status: PoolStatus, authenticate: Authenticate) -> None:
        self._status = status
        self._authenticate = authenticate

    async def GetPool(self, request: wire.GetPoolRequest, context: Context) -> wire.GetPoolResponse:
        await self._authenticate(context)
        return self._status.snapshot()

    async def WatchPool(self, request: wire.GetPoolRequest, context: Context) -> AsyncIterator[wire.GetPoolResponse]:
        await self._authenticate(context)
        last = b""
        while True:
            snapshot = self._status.snapshot()
            content = snapshot.SerializeToString(deterministic=True)
            if content != last:
                last = content
                yield snapshot
            await asyncio.sleep(WATCH_INTERVAL_S)

    async def ExplainRequest(
        self, request: wire.ExplainRequestRequest, context: Context
    ) -> wire.ExplainRequestResponse:
        await self._authenticate(context)
        found = await self._status.explain(request.request_id)
        if found is None:
            await context.abort(
                grpc.StatusCode.NOT_FOUND,
                f"no reachable machine remembers request {request.request_id!r}; each keeps its last 1,000",
            )
        return found
