"""Who listens at an address? A mutual TLS handshake that says so from the certificate, before gRPC dials.

gRPC's Python client does not tell the server's certificate. The probe computes the id from the certificate's key;
the gRPC connection that follows demands a certificate of just that id by name (`<id>.covey`, which the pool's
authority gives to the holder of that key alone), so that nothing rests on both connections reaching the same place.
It also tells a refused connection from a silent one, a foreign pool and a stranger on the port more exactly than
gRPC does, and leaves no channel behind that redials on its own.
"""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import dataclass
from urllib.parse import quote

from cryptography import x509

from covey_mesh.core.names import NodeId
from covey_mesh.io.certificates import cert_from_pem, check_node
from covey_mesh.io.identity import Identity

CONNECT_TIMEOUT_S = 1.2
"""For the name and the connection: the kernels' business alone, with one lost packet sent again (after 1 s). Short, so
that a machine that comes back from a blackhole is not waited for in vain with an old try."""

HANDSHAKE_TIMEOUT_S = 1.8
"""For TLS: the other side's process must have its turn on a busy machine."""


LINK_PROTOCOL = "h2"
"""TLS's name for what a link port speaks."""


class NotALinkError(Exception):
    """TLS succeeded, but what listens there is no covey link; the message says why."""


@dataclass(frozen=True, slots=True)
class Listener:
    """What was found: the id from the certificate, and gRPC's name for the address that answered."""

    node_id: NodeId
    grpc_target: str
    host: str
    """The address alone, with the interface where it needs one."""


def client_context(identity: Identity, protocol: str = LINK_PROTOCOL) -> ssl.SSLContext:
    """Trusts the pool's authority and nothing else; names are compared by the caller, from keys."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    return _mutual(context, identity, protocol)


def server_context(identity: Identity, protocol: str) -> ssl.SSLContext:
    """Demands a certificate of the pool; whose it is, is the caller's to compare. No sessions are resumed: every
    connection proves its key."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.num_tickets = 0
    return _mutual(context, identity, protocol)


def _mutual(context: ssl.SSLContext, identity: Identity, protocol: str) -> ssl.SSLContext:
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(cadata=identity.ca_certificate_pem.decode())
    context.load_cert_chain(identity.state_dir / "node.crt", identity.state_dir / "node.key")
    context.set_alpn_protocols([protocol])
    return context


def split_address(address: str) -> tuple[str, int]:
    """HOST:PORT or [IPV6]:PORT. Raises ValueError."""
    host, separator, port = address.rpartition(":")
    if not separator or not port.isdigit() or not 0 < int(port) < 65536:
        raise ValueError(f"{address!r} is not HOST:PORT")
    host = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if not host:
        raise ValueError(f"{address!r} is not HOST:PORT")
    return host, int(port)


async def probe(address: str, identity: Identity, context: ssl.SSLContext, now_unix_s: float) -> Listener:
    """Raises ValueError (no address), OSError, ssl.SSLError, TimeoutError, NotALinkError."""
    host, port = split_address(address)
    async with asyncio.timeout(CONNECT_TIMEOUT_S):
        reader, writer = await asyncio.open_connection(host, port)
    try:
        async with asyncio.timeout(HANDSHAKE_TIMEOUT_S):
            await writer.start_tls(context, server_hostname="covey")
            node_id = checked_peer(writer.get_extra_info("ssl_object"), identity, now_unix_s)
            # TLS 1.3: whether the other side took this machine's certificate shows only in its first bytes.
            if not await reader.read(1):
                raise NotALinkError("it closed the connection; it may have refused this machine's certificate")
        peername = writer.get_extra_info("peername")
        return Listener(node_id, _grpc_target(peername), _host(peername))
    finally:
        writer.transport.abort()


def checked_peer(tls: ssl.SSLObject, identity: Identity, now_unix_s: float, protocol: str = LINK_PROTOCOL) -> NodeId:
    """Whose certificate TLS accepted. Raises NotALinkError."""
    if tls.selected_alpn_protocol() != protocol:
        raise NotALinkError("what listens there is no covey link")
    try:
        certificate = x509.load_der_x509_certificate(tls.getpeercert(binary_form=True) or b"")
        return check_node(certificate, cert_from_pem(identity.ca_certificate_pem), now_unix_s)
    except ValueError as error:
        raise NotALinkError(f"its certificate is not that of a machine: {error}") from error


_PeerName = tuple[str, int] | tuple[str, int, int, int]


def _grpc_target(peername: _PeerName) -> str:
    host, port = _host(peername), peername[1]
    return f"ipv4:{host}:{port}" if ":" not in host else "ipv6:" + quote(f"[{host}]:{port}", safe=":")


def _host(peername: _PeerName) -> str:
    host = peername[0]
    scope = f"%{peername[3]}" if len(peername) == 4 and peername[3] and "%" not in host else ""
    return host + scope
