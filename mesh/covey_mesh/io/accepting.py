"""The accepting side of links: a gRPC server that talks to machines with a certificate of the pool and nobody else.

Not here: dialing (dialing.py), the running link (link.py).
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote

import grpc

from covey_mesh.core.exchange import OpenRequest
from covey_mesh.core.facts import NodeFacts
from covey_mesh.core.greeting import Objection, object_to_greeting, object_to_peer
from covey_mesh.core.limits import PEERS_MAX
from covey_mesh.core.names import NodeId
from covey_mesh.core.ports import LinkEvents, LinkLoss
from covey_mesh.io import channel_options
from covey_mesh.io.certificates import CertificateError, cert_from_pem, check_node
from covey_mesh.io.codec_values import PeerProtocolError
from covey_mesh.io.hello import HELLO_TIMEOUT_S, hello_bytes, read_hello
from covey_mesh.io.identity import Identity
from covey_mesh.io.link import GrpcLink
from covey_mesh.io.link_errors import LogBound

SERVICE_METHOD = "/covey.v1.Link/Exchange"
LINKS_PER_PEER_MAX = 4
"""A healthy peer has one, for a moment two."""

_STATUS = {
    LinkLoss.UNTRUSTED: grpc.StatusCode.PERMISSION_DENIED,
    LinkLoss.PROTOCOL: grpc.StatusCode.FAILED_PRECONDITION,
    LinkLoss.SILENT: grpc.StatusCode.DEADLINE_EXCEEDED,
    LinkLoss.CLOSED: grpc.StatusCode.RESOURCE_EXHAUSTED,
}

_log = logging.getLogger(__name__)


class ListenError(Exception):
    """The link port cannot be opened; the message says what to do."""


class Acceptor:
    """Serves Link.Exchange. `register` is told of each link before it runs; `links` counts those of one peer."""

    def __init__(
        self,
        identity: Callable[[], Identity],
        events: Callable[[], LinkEvents],
        facts: Callable[[], NodeFacts],
        handler: Callable[[], OpenRequest | None],
        revoked: Callable[[NodeId], bool],
        register: Callable[[GrpcLink], asyncio.Task[LinkLoss]],
        links: Callable[[], list[GrpcLink]],
        new_ticket: Callable[[], bytes],
    ) -> None:
        self._identity = identity
        self._events = events
        self._facts = facts
        self._handler = handler
        self._revoked = revoked
        self._register = register
        self._links = links
        self._new_ticket = new_ticket
        self._log_bound = LogBound()
        self._material_lock = threading.Lock()
        self._material: tuple[bytes, bytes, bytes] | None = None
        self._server: grpc.aio.Server | None = None

    async def start(self, listen: str) -> int:
        """Open the port; returns its number. Raises ListenError."""
        server = grpc.aio.server(handlers=[_Route(self._exchange)], options=channel_options.SERVER)
        first = self._changed_configuration()
        assert first is not None, "the acceptor was started twice"
        # The stubs do not know what grpc documents: None means no change.
        credentials = grpc.dynamic_ssl_server_credentials(first, self._changed_configuration, True)  # type: ignore[arg-type]
        try:
            port = server.add_secure_port(listen, credentials)
        except RuntimeError as error:
            raise ListenError(
                f"cannot listen on {listen}: another program may use that port, or the address is not this machine's; "
                "choose another with `covey up --link HOST:PORT`"
            ) from error
        await server.start()
        self._server = server
        return port

    async def stop(self) -> None:
        if self._server is not None:
            await self._server.stop(0.1)

    def _changed_configuration(self) -> grpc.ServerCertificateConfiguration | None:
        """Asked for at every handshake, on gRPC's threads: a renewed certificate is used without a restart.

        None while nothing has changed. gRPC (1.85) frees its TLS state whenever it is handed a configuration, also
        under handshakes that are just beginning on other threads: handing it one each time ended the process within
        hundreds of simultaneous handshakes (tests/integration/test_handshakes.py).
        """
        own = self._identity()
        material = (own.key_pem, own.certificate_pem, own.ca_certificate_pem)
        with self._material_lock:
            if material == self._material:
                return None
            self._material = material
        return grpc.ssl_server_certificate_configuration(
            [(own.key_pem, own.certificate_pem)], root_certificates=own.ca_certificate_pem
        )

    async def _exchange(self, context: Any) -> None:
        """One peer's stream, from its first byte to its last."""
        link = await self._greeted(context)
        if isinstance(link, Objection):
            self._log_refusal(context.peer(), link)
            await context.abort(_STATUS[link.loss], link.detail)
            return
        running = self._register(link)
        try:
            await asyncio.shield(running)
        except asyncio.CancelledError:
            link.lost(LinkLoss.RESET)
            raise

    async def _greeted(self, context: Any) -> GrpcLink | Objection:
        own = self._identity()
        try:
            peer = _peer_of(context, own)
            objection = object_to_peer(own.node_id, peer, self._revoked) or self._too_many(peer)
            if objection is not None:
                return objection
            async with asyncio.timeout(HELLO_TIMEOUT_S):
                raw = await context.read()
            if raw is grpc.aio.EOF:
                return Objection(LinkLoss.PROTOCOL, "no Hello")
            greeting = read_hello(raw)
            objection = object_to_greeting(own.pool_id, peer, greeting)
            if objection is not None:
                return objection
            ticket = self._new_ticket()
            await context.write(hello_bytes(own.pool_id, self._facts(), ticket))
        except CertificateError as error:
            return Objection(LinkLoss.UNTRUSTED, f"certificate refused: {error}")
        except PeerProtocolError as error:
            return Objection(LinkLoss.PROTOCOL, f"refused: it sent {error}")
        except TimeoutError:
            return Objection(LinkLoss.SILENT, "no Hello in time")
        # Asked again: others of this machine may have been greeted meanwhile, and nothing is awaited from here on.
        objection = self._too_many(peer)
        if objection is not None:
            return objection
        host = _host_of(context.peer())
        return GrpcLink(context, peer, greeting.facts, False, host, self._events(), self._handler, data_ticket=ticket)

    def _too_many(self, peer: NodeId) -> Objection | None:
        links = self._links()
        if len(links) >= PEERS_MAX:
            return Objection(LinkLoss.CLOSED, f"{PEERS_MAX} links are open here already")
        if sum(1 for link in links if link.peer == peer) >= LINKS_PER_PEER_MAX:
            return Objection(LinkLoss.CLOSED, f"{LINKS_PER_PEER_MAX} links to this machine are open already")
        return None

    def _log_refusal(self, peer: str, objection: Objection) -> None:
        host = _host_of(peer)
        if self._log_bound.allows(f"{host} {objection.loss.name}", time.monotonic()):
            _log.warning("link refused", extra={"host": host, "reason": objection.detail})


class _Route(grpc.GenericRpcHandler):
    """Raw bytes in and out: malformed ones are this package's to judge, not gRPC's."""

    def __init__(self, exchange: Callable[[Any], Any]) -> None:
        async def behaviour(_: Any, context: Any) -> None:
            await exchange(context)

        self._handler: Any = grpc.stream_stream_rpc_method_handler(behaviour)

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        """None for any other method: UNIMPLEMENTED."""
        return self._handler if handler_call_details.method == SERVICE_METHOD else None


def _peer_of(context: Any, own: Identity) -> NodeId:
    """The id computed from the certificate that TLS accepted. Raises CertificateError."""
    certificates = context.auth_context().get("x509_pem_cert") or []
    if len(certificates) != 1:
        raise CertificateError("no certificate")
    return check_node(cert_from_pem(bytes(certificates[0])), cert_from_pem(own.ca_certificate_pem), time.time())


def _host_of(peer: str) -> str:
    """ "ipv4:10.0.0.7:51234" -> "10.0.0.7"; "ipv6:%5B::1%5D:51234" -> "::1"."""
    _, _, rest = unquote(peer).partition(":")
    return rest.rpartition(":")[0].strip("[]") or rest
