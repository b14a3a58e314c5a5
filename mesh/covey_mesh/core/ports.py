"""The seams of the mesh: what carries bytes between machines, and what the rest of covey may ask of the mesh.

Real links are gRPC over mutual TLS (covey_mesh.io.transport); the cluster simulator puts an in-memory network behind
the same seams. Everything here is called on the event loop's thread.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Protocol

from covey_mesh.core.asking import Answer, Ask, AttemptReport, GrantedWork
from covey_mesh.core.ballot import Ballot
from covey_mesh.core.exchange import ForwardedRequest, OpenRequest, ResponseSink, Upstream
from covey_mesh.core.facts import NodeFacts, NodeLoad, PoolView
from covey_mesh.core.messages import ControlMessage
from covey_mesh.core.names import NodeId


class LinkLoss(enum.Enum):
    """Why a link ended; only REFUSED and RESTARTED prove that the process behind it is gone."""

    RESET = "connection reset"
    REFUSED = "connection refused: nothing listens there now"
    RESTARTED = "a new process answered"
    SILENT = "no heartbeat"
    REPLACED = "another link to the same machine took over"
    CLOSED = "closed on purpose"
    PROTOCOL = "the peer broke the protocol"
    UNTRUSTED = "not a machine of this pool"


class Link(Protocol):
    """One established, authenticated, bidirectional connection. `peer` comes from the certificate, never from mDNS."""

    @property
    def peer(self) -> NodeId: ...

    @property
    def facts(self) -> NodeFacts:
        """From the peer's Hello; facts.node_id == peer was checked."""

    @property
    def dialed(self) -> bool:
        """True if this machine opened the connection."""

    @property
    def address(self) -> str:
        """HOST:PORT dialed, or the peer's HOST for an accepted link."""

    def send(self, message: ControlMessage) -> None:
        """Queue for the next batch; flushed at once if the link is idle. Ignored after the link ended."""

    def open(self, request: ForwardedRequest, sink: ResponseSink) -> Upstream:
        """Start an attempt on the peer. If the link is lost, the sink ends with LINK_LOST."""

    def close(self, reason: LinkLoss) -> None:
        """End the link; every attempt on it ends with LINK_LOST. `down` follows."""


class LinkEvents(Protocol):
    """What a transport reports."""

    def up(self, link: Link) -> None:
        """A Hello was exchanged; the link may be used."""

    def down(self, link: Link, loss: LinkLoss) -> None:
        """Once, after `up`."""

    def message(self, link: Link, message: ControlMessage) -> None:
        """In order of sending."""

    def dial_failed(self, address: str, loss: LinkLoss, detail: str) -> None:
        """A dial ended without `up`; UNTRUSTED when the machine there is not of this pool."""

    def heard(self, link: Link) -> None:
        """Any bytes at all arrived (at most once per batch)."""


class Transport(Protocol):
    """Makes links."""

    def dial(self, address: str, expected: NodeId | None) -> None:
        """Connect to HOST:PORT; ends in `up` or `dial_failed`. A peer other than `expected` is UNTRUSTED."""

    def set_facts(self, facts: NodeFacts) -> None:
        """What this machine says in its Hello from now on."""

    def serve_requests(self, handler: OpenRequest) -> None:
        """Attempts that peers open here go to this handler (the node)."""


class MeshListener(Protocol):
    """What the rest of covey hears from the mesh. Subscribe with Mesh.subscribe."""

    def ask_received(self, gateway: NodeId, ask: Ask) -> None: ...

    def answer_received(self, leader: NodeId, answer: Answer) -> None: ...

    def attempt_reported(self, gateway: NodeId, report: AttemptReport) -> None: ...

    def granted_work(self, gateway: NodeId, work: GrantedWork) -> None: ...

    def leadership_changed(self, leader: NodeId | None, ballot: Ballot) -> None:
        """This machine granted a leader, lost it, became it, or stopped being it."""

    def member_changed(self, node_id: NodeId) -> None:
        """A machine's load, facts or reachability changed; read it from the view."""

    def member_lost(self, node_id: NodeId, loss: LinkLoss) -> None:
        """The link to it is gone."""


QueryHandler = Callable[[bytes], bytes | None]

SlowQueryHandler = Callable[[NodeId, bytes, Callable[[bytes | None], None]], None]
"""(who asks, payload, reply): calls `reply` once, at any later time; None says that there is no answer."""


class Mesh(Protocol):
    """What gateway, scheduler and program may ask of the mesh."""

    @property
    def self_id(self) -> NodeId: ...

    def view(self) -> PoolView:
        """The pool as seen from here, this machine included. Cheap; an immutable snapshot."""

    def subscribe(self, listener: MeshListener) -> None: ...

    def publish(self, load: NodeLoad) -> None:
        """This machine's own load: into the view at once, to the leader and the links in use soon."""

    def send(self, node_id: NodeId, message: Ask | Answer | AttemptReport | GrantedWork) -> bool:
        """False if there is no link to that machine now. To oneself: delivered on the next turn of the loop."""

    def open_on(self, node_id: NodeId, request: ForwardedRequest, sink: ResponseSink) -> Upstream:
        """Start an attempt there. Without a link one is dialed first; ends with LINK_LOST if that fails."""

    async def query(self, node_id: NodeId, kind: str, payload: bytes, timeout_s: float) -> bytes | None:
        """None when not found, unreachable or late."""

    def answer_queries(self, kind: str, handler: QueryHandler) -> None: ...

    def answer_queries_later(self, kind: str, handler: SlowQueryHandler) -> None:
        """For answers that take time: a measurement, a dial."""
