"""The first item of each direction: bytes to a Greeting and back. What is made of it is covey_mesh.core.greeting's."""

from __future__ import annotations

from google.protobuf.message import DecodeError

from covey_mesh.core.facts import NodeFacts
from covey_mesh.core.greeting import PROTOCOL_MIN, Greeting
from covey_mesh.core.limits import PROTOCOL_VERSION
from covey_mesh.core.names import PoolId
from covey_mesh.io.codec_facts import facts_from_wire, facts_to_wire
from covey_mesh.io.codec_values import PeerProtocolError, bounded, text
from covey_mesh.wire.v1.link_pb2 import Batch, Hello, Item

HELLO_BYTES_MAX = 256 * 1024
HELLO_TIMEOUT_S = 2.5
"""A dial takes at most this and the probe's time (tls_probe.py), 5.5 s: the mesh writes off a dial after 6 s."""


TICKET_BYTES = 16
"""Of a data channel's ticket: random, so that one link's is never taken for another's."""


def hello_bytes(pool_id: PoolId, facts: NodeFacts, data_ticket: bytes = b"") -> bytes:
    """The batch that opens a direction."""
    hello = Hello(pool_id=pool_id, facts=facts_to_wire(facts), protocol_min=PROTOCOL_MIN, protocol_max=PROTOCOL_VERSION)
    hello.data_ticket = data_ticket
    return Batch(items=[Item(hello=hello)]).SerializeToString()


def read_hello(raw: bytes) -> Greeting:
    """Raises PeerProtocolError for anything but a batch with just a Hello."""
    if len(raw) > HELLO_BYTES_MAX:
        raise PeerProtocolError(f"a Hello of {len(raw)} bytes")
    try:
        batch = Batch.FromString(raw)
    except DecodeError as error:
        raise PeerProtocolError("bytes that are no batch") from error
    if len(batch.items) != 1 or batch.items[0].WhichOneof("kind") != "hello":
        raise PeerProtocolError("something else before the Hello")
    hello = batch.items[0].hello
    facts = facts_from_wire(hello.facts)
    pool_id, ticket = text(hello.pool_id, "a pool id"), bounded(hello.data_ticket, TICKET_BYTES, "bytes of a ticket")
    return Greeting(pool_id, facts, hello.protocol_min, hello.protocol_max, ticket)
