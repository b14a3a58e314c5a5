"""What the parts of the HTTP edge ask of each other: a connection of its server, an exchange of both.

No code: the server is http_server.py, a connection http_connection.py, an exchange http_exchange.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from covey_gateway.core.access import AccessPolicy
    from covey_gateway.core.errors import GatewayError
    from covey_gateway.core.front import IncomingRequest
    from covey_gateway.core.retrying import BufferBudget
    from covey_gateway.core.settings import HttpSettings
    from covey_gateway.io.http_connection import HttpConnection
    from covey_gateway.io.http_exchange import Exchange
    from covey_gateway.io.http_request import HttpRequest
    from covey_mesh.io.turn_writer import Turn


class ConnectionOwner(Protocol):
    """The server, as a connection sees it."""

    settings: HttpSettings
    access: AccessPolicy
    bodies: BufferBudget
    draining: bool
    date_line: bytes
    now_s: Callable[[], float]
    turn: Turn
    """Whose writes leave together."""

    def admit(self, connection: HttpConnection) -> bool:
        """False: too many connections."""

    def gone(self, connection: HttpConnection) -> None: ...

    def check(self, connection: HttpConnection, request: HttpRequest) -> None:
        """Once the head is there. Raises GatewayError if the request will not be served."""

    def upload_bytes_max(self, request: HttpRequest) -> int:
        """Not 0 where the path takes a body of that size while it comes."""

    def serve(self, exchange: Exchange) -> None: ...

    def submit(self, exchange: Exchange, incoming: IncomingRequest) -> None:
        """An engine's request whose head is known: what `serve` ends in."""

    def refused(self, error: GatewayError) -> None: ...


class AnsweringServer(Protocol):
    """The server, as an exchange sees it."""

    draining: bool
    """True: no connection takes a further request."""
    date_line: bytes


class ExchangeOwner(Protocol):
    """The connection, as an exchange sees it."""

    transport: asyncio.Transport
    stalled_s: float | None
    """Since when the transport has not been able to write; None: it is."""

    @property
    def server(self) -> AnsweringServer: ...

    def written(self) -> None:
        """Body bytes were handed to the transport: check for a reader that does not read."""

    def finished(self, exchange: Exchange, keep: bool) -> None: ...
