"""The gRPC front door: Inference, Batches, Pool, standard health and reflection on one port.

On loopback no key is asked for; elsewhere every call but health and reflection needs `authorization: Bearer KEY`.
"""

from __future__ import annotations

import logging

import grpc
import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from covey_gateway.core.front import FrontDoor
from covey_gateway.io.batches.door import BatchDoor
from covey_gateway.io.grpc_batches import BatchesService
from covey_gateway.io.grpc_gate import REFUSAL, KeyGate, Owner, bearer
from covey_gateway.io.grpc_inference import Context, InferenceService
from covey_gateway.io.grpc_pool import PoolService
from covey_gateway.io.status import PoolStatus
from covey_mesh.core.limits import REQUEST_BODY_BYTES_MAX
from covey_mesh.wire.v1 import batches_pb2, batches_pb2_grpc, inference_pb2, inference_pb2_grpc, pool_pb2, pool_pb2_grpc

log = logging.getLogger(__name__)

CONCURRENT_CALLS_MAX = 4096
"""Calls at once; further ones are refused with RESOURCE_EXHAUSTED."""

CALLS_PER_CONNECTION_MAX = 1024
HANDSHAKE_TIMEOUT_MS = 5000
"""A connection that has not begun to speak HTTP/2 by then is closed."""

CONNECTION_IDLE_MS = 300_000
"""A connection without a call is closed after this time, as at the HTTP edge."""

INFERENCE = inference_pb2.DESCRIPTOR.services_by_name["Inference"].full_name
BATCHES = batches_pb2.DESCRIPTOR.services_by_name["Batches"].full_name
POOL = pool_pb2.DESCRIPTOR.services_by_name["Pool"].full_name


class GrpcDoor:
    """`address` is HOST:PORT; port 0 picks a free one, readable as `port` after `start`."""

    def __init__(
        self,
        address: str,
        door: FrontDoor,
        status: PoolStatus,
        owner_of: Owner | None,
        batches: BatchDoor | None = None,
    ) -> None:
        """`owner_of` is None where no key is needed (loopback); without `batches` that service is not there."""
        self._address = address
        self._owner_of = owner_of
        self._health = health.aio.HealthServicer()
        self._server = grpc.aio.server(
            interceptors=() if owner_of is None else (KeyGate(owner_of),),
            options=[
                ("grpc.max_receive_message_length", REQUEST_BODY_BYTES_MAX),
                ("grpc.max_concurrent_streams", CALLS_PER_CONNECTION_MAX),
                ("grpc.server_handshake_timeout_ms", HANDSHAKE_TIMEOUT_MS),
                ("grpc.max_connection_idle_ms", CONNECTION_IDLE_MS),
                ("grpc.so_reuseport", 0),
                ("grpc.http2.min_ping_interval_without_data_ms", 5000),
            ],
            maximum_concurrent_rpcs=CONCURRENT_CALLS_MAX,
        )
        inference_pb2_grpc.add_InferenceServicer_to_server(  # type: ignore[no-untyped-call]
            InferenceService(door, status, self._authenticate), self._server
        )
        pool_pb2_grpc.add_PoolServicer_to_server(  # type: ignore[no-untyped-call]
            PoolService(status, self._authenticate), self._server
        )
        self._services = [INFERENCE, POOL]
        if batches is not None:
            self._services.append(BATCHES)
            batches_pb2_grpc.add_BatchesServicer_to_server(  # type: ignore[no-untyped-call]
                BatchesService(batches, self._authenticate), self._server
            )
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        reflection.enable_server_reflection(
            (*self._services, health.SERVICE_NAME, reflection.SERVICE_NAME), self._server
        )
        self.port = 0

    async def start(self) -> None:
        """Raises OSError where the address cannot be had."""
        try:
            self.port = self._server.add_insecure_port(self._address)
        except RuntimeError as error:
            raise OSError(f"cannot listen on {self._address} for gRPC: choose another with --grpc HOST:PORT") from error
        await self._server.start()
        await self.set_serving(True)

    async def set_serving(self, serving: bool) -> None:
        """What the health service answers, for the server as a whole and for each service."""
        state = health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
        for service in ("", *self._services):
            await self._health.set(service, state)

    async def stop(self, grace_s: float) -> None:
        """New calls are refused at once; running ones get `grace_s`."""
        await self._health.enter_graceful_shutdown()
        await self._server.stop(grace_s)

    async def _authenticate(self, context: Context) -> str:
        if self._owner_of is None:
            return ""
        owner = self._owner_of(bearer(context.invocation_metadata()))
        if owner is None:
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, REFUSAL)
        return owner
