"""Who may stay on a link after the two Hellos: pool, identity and protocol are compared before anything else is read.

`certified` is the id computed from the peer's certificate; what the peer says of itself must agree with it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from covey_mesh.core.facts import NodeFacts
from covey_mesh.core.limits import PROTOCOL_VERSION
from covey_mesh.core.names import NodeId, PoolId, short
from covey_mesh.core.ports import LinkLoss

PROTOCOL_MIN = 1
"""Oldest protocol that this build still speaks."""

MYSELF = "this is myself"


@dataclass(frozen=True, slots=True)
class Greeting:
    """A Hello as received."""

    pool_id: str
    facts: NodeFacts
    protocol_min: int
    protocol_max: int
    data_ticket: bytes = b""
    """What a data channel of this link shows first; empty: none can be had."""


@dataclass(frozen=True, slots=True)
class Objection:
    """Why a link is refused; `detail` says what to do where something can be done."""

    loss: LinkLoss
    detail: str


def object_to_peer(own: NodeId, certified: NodeId, revoked: Callable[[NodeId], bool]) -> Objection | None:
    """Before any Hello: by certificate alone."""
    if certified == own:
        return Objection(LinkLoss.UNTRUSTED, MYSELF)
    if revoked(certified):
        return Objection(LinkLoss.UNTRUSTED, f"machine {short(certified)} was removed from the pool")
    return None


def object_to_greeting(pool_id: PoolId, certified: NodeId, greeting: Greeting) -> Objection | None:
    """After the peer's Hello."""
    if greeting.pool_id != pool_id:
        return Objection(LinkLoss.UNTRUSTED, f"it belongs to pool {greeting.pool_id[:8]}, not to {short(pool_id)}")
    if greeting.facts.node_id != certified:
        return Objection(
            LinkLoss.UNTRUSTED,
            f"it calls itself {short(greeting.facts.node_id)} with the certificate of {short(certified)}",
        )
    if greeting.protocol_max < PROTOCOL_MIN or greeting.protocol_min > PROTOCOL_VERSION:
        theirs = f"{greeting.protocol_min} to {greeting.protocol_max}"
        ours = f"{PROTOCOL_MIN} to {PROTOCOL_VERSION}"
        return Objection(LinkLoss.PROTOCOL, f"it speaks protocol {theirs}, this build {ours}: update the older one")
    return None
