"""The opening side of a link: probe, connect, exchange Hellos, then run the link until it ends.

Not here: accepted links (accepting.py), the running link (link.py).
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Callable
from typing import Any

import grpc

from covey_mesh.core.exchange import OpenRequest
from covey_mesh.core.facts import NodeFacts
from covey_mesh.core.greeting import object_to_greeting, object_to_peer
from covey_mesh.core.names import NodeId, short
from covey_mesh.core.ports import LinkEvents, LinkLoss
from covey_mesh.io import channel_options
from covey_mesh.io.certificates import dns_name
from covey_mesh.io.codec_values import PeerProtocolError
from covey_mesh.io.data_dialing import DataDialer
from covey_mesh.io.hello import HELLO_TIMEOUT_S, hello_bytes, read_hello
from covey_mesh.io.identity import Identity
from covey_mesh.io.link import GrpcLink
from covey_mesh.io.link_errors import loss_of_connect, loss_of_status
from covey_mesh.io.tls_probe import Listener, NotALinkError, probe

METHOD = "/covey.v1.Link/Exchange"
DETAIL_CHARS_MAX = 200

_CALL_ERRORS = (grpc.RpcError, grpc.aio.UsageError, grpc.aio.InternalError, asyncio.InvalidStateError)


class DialError(Exception):
    """The dial ended without a link."""

    def __init__(self, loss: LinkLoss, detail: str) -> None:
        super().__init__(detail)
        self.loss = loss
        self.detail = detail[:DETAIL_CHARS_MAX]


class DialedLink:
    """A link with the gRPC channel that it alone uses, and what sees to its data channel."""

    def __init__(self, link: GrpcLink, channel: grpc.aio.Channel, host: str, data: DataDialer) -> None:
        self.link = link
        self._channel = channel
        self._host = host
        self._data = data

    async def run(self) -> None:
        """Until the link has ended and its connections are closed."""
        moving = asyncio.ensure_future(self._data.keep(self.link, self._host))
        try:
            await self.link.run()
        finally:
            moving.cancel()
            (bug,) = await asyncio.gather(moving, return_exceptions=True)
            if self.link.data_at_fault:
                self._data.ended(self.link)
            await self._channel.close()
            if isinstance(bug, Exception):
                raise bug


class Dialer:
    """Makes links to addresses. One instance a transport; each dial is a connection of its own."""

    def __init__(
        self,
        identity: Identity,
        context: ssl.SSLContext,
        events: Callable[[], LinkEvents],
        facts: Callable[[], NodeFacts],
        handler: Callable[[], OpenRequest | None],
        revoked: Callable[[NodeId], bool],
        data: DataDialer,
    ) -> None:
        self._identity = identity
        self._context = context
        self._events = events
        self._facts = facts
        self._handler = handler
        self._revoked = revoked
        self._data = data

    async def connect(self, address: str, expected: NodeId | None) -> DialedLink | None:
        """A link that is ready to run; None after `dial_failed` was reported."""
        channel = None
        try:
            found = await self._find(address, expected)
            channel = self._channel(found.node_id, found.grpc_target)
            call: Any = channel.stream_stream(METHOD)()
            link, channel_made = await self._greet(call, found.node_id, address), channel
            channel = None
            return DialedLink(link, channel_made, found.host, self._data)
        except DialError as error:
            self._events().dial_failed(address, error.loss, error.detail)
            return None
        finally:
            if channel is not None:
                await channel.close()

    async def _find(self, address: str, expected: NodeId | None) -> Listener:
        """Raises DialError."""
        try:
            found = await probe(address, self._identity, self._context, time.time())
        except NotALinkError as error:
            raise DialError(LinkLoss.UNTRUSTED, str(error)) from error
        except (OSError, TimeoutError) as error:
            raise DialError(*loss_of_connect(error)) from error
        except ValueError as error:
            raise DialError(LinkLoss.UNTRUSTED, str(error)) from error
        objection = object_to_peer(self._identity.node_id, found.node_id, self._revoked)
        if objection is not None:
            raise DialError(objection.loss, objection.detail)
        if expected is not None and found.node_id != expected:
            raise DialError(LinkLoss.UNTRUSTED, f"it is {short(found.node_id)}, not {short(expected)}")
        return found

    def _channel(self, peer: NodeId, target: str) -> grpc.aio.Channel:
        """TLS itself fails unless the certificate there was given to the key behind `peer`."""
        own = self._identity
        credentials = grpc.ssl_channel_credentials(own.ca_certificate_pem, own.key_pem, own.certificate_pem)
        options = [*channel_options.CLIENT, ("grpc.ssl_target_name_override", dns_name(peer))]
        return grpc.aio.secure_channel(target, credentials, options=options)

    async def _greet(self, call: Any, peer: NodeId, address: str) -> GrpcLink:
        """Raises DialError."""
        try:
            async with asyncio.timeout(HELLO_TIMEOUT_S):
                greeting = read_hello(await self._first_answer(call))
        except TimeoutError as error:
            raise DialError(LinkLoss.SILENT, "connected, but no Hello came in time") from error
        except PeerProtocolError as error:
            raise DialError(LinkLoss.PROTOCOL, f"it sent {error}") from error
        objection = object_to_greeting(self._identity.pool_id, peer, greeting)
        if objection is not None:
            raise DialError(objection.loss, objection.detail)
        return GrpcLink(
            call, peer, greeting.facts, True, address, self._events(), self._handler, call.done_writing,
            greeting.data_ticket,
        )  # fmt: skip

    async def _first_answer(self, call: Any) -> bytes:
        """Raises DialError."""
        try:
            await call.write(hello_bytes(self._identity.pool_id, self._facts()))
            raw = await call.read()
        except _CALL_ERRORS:
            raw = grpc.aio.EOF
        if raw is grpc.aio.EOF:
            code, details = await call.code(), await call.details()
            raise DialError(loss_of_status(code, details or ""), details or "it ended the call without a Hello")
        return bytes(raw)
