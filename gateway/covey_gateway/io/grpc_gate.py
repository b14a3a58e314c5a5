"""The gRPC door's keys, asked for before anything of a call is read.

A stranger's call ends with its headers: a message that nobody may send takes no memory, and a call that never sends
one holds no slot. Health and reflection stay open. Not here: what the calls do (grpc_inference.py, grpc_pool.py).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import grpc
import grpc.aio
from grpc_health.v1 import health
from grpc_reflection.v1alpha import reflection

Owner = Callable[[str], str | None]
"""The owner of an API key, or None for an unknown one."""

REFUSAL = "a key is needed here: send metadata `authorization: Bearer KEY` with a key of this pool"

_OPEN = tuple(f"/{service}/" for service in (health.SERVICE_NAME, reflection.SERVICE_NAME))
_Continue = Callable[[grpc.HandlerCallDetails], Awaitable[Any]]


class KeyGate(grpc.aio.ServerInterceptor):
    """Ends calls without a known key as UNAUTHENTICATED."""

    def __init__(self, owner_of: Owner) -> None:
        self._owner_of = owner_of

    async def intercept_service(self, continuation: _Continue, handler_call_details: grpc.HandlerCallDetails) -> Any:
        details: Any = handler_call_details
        known = self._owner_of(bearer(details.invocation_metadata)) is not None
        return await continuation(details) if known or details.method.startswith(_OPEN) else _REFUSING


def bearer(metadata: Iterable[tuple[str, Any]] | None) -> str:
    """The key in `authorization: Bearer KEY`; "" if there is none."""
    for name, value in metadata or ():
        if name == "authorization" and isinstance(value, str) and value[:7].lower() == "bearer ":
            return value[7:].strip()
    return ""


async def _refuse(_: Any, context: Any) -> None:
    await context.abort(grpc.StatusCode.UNAUTHENTICATED, REFUSAL)


# As a stream of requests it is not read unless the handler asks for one.
_REFUSING: Any = grpc.stream_stream_rpc_method_handler(_refuse)
