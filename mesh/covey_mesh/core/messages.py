"""Everything one machine says to another besides request bytes, as immutable values.

The wire form is in proto/covey_mesh/wire/v1/link.proto, the translation in covey_mesh.io.codec. Asks and answers are
in asking.py, request bytes in exchange.py.
"""

from __future__ import annotations

from dataclasses import dataclass

from covey_mesh.core.asking import Answer, Ask, AttemptReport, GrantedWork
from covey_mesh.core.ballot import NO_BALLOT, Ballot
from covey_mesh.core.facts import Member, NodeFacts, NodeLoad


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """Proof of a running event loop: `token` asks for an echo, `echo` returns the other side's token (0: none)."""

    token: int = 0
    echo: int = 0


@dataclass(frozen=True, slots=True)
class PreVoteRequest:
    """Would you grant this ballot if I campaigned? Promises nothing."""

    ballot: Ballot
    round: int


@dataclass(frozen=True, slots=True)
class PreVoteReply:
    """`promised`: the highest ballot promised here. `granted`: the ballot of a live grant, or NO_BALLOT."""

    ballot: Ballot
    round: int
    willing: bool
    promised: Ballot = NO_BALLOT
    granted: Ballot = NO_BALLOT


@dataclass(frozen=True, slots=True)
class GrantRequest:
    """Asks for a grant and renews it; the leader's heartbeat. `grants_held` counts the machines that grant it."""

    ballot: Ballot
    round: int
    lease_s: float
    grants_held: int = 0


@dataclass(frozen=True, slots=True)
class GrantReply:
    """The answer to one GrantRequest; `promised` is the highest ballot promised here."""

    ballot: Ballot
    round: int
    granted: bool
    promised: Ballot = NO_BALLOT
    reason: str = ""


@dataclass(frozen=True, slots=True)
class LeaseReleased:
    """From a leader: my lease is over, grant another at once. From a node: my grant is withdrawn."""

    ballot: Ballot


ElectionMessage = PreVoteRequest | PreVoteReply | GrantRequest | GrantReply | LeaseReleased


@dataclass(frozen=True, slots=True)
class PeerList:
    """Machines that the sender knows, as dial hints: identity is still proven by TLS."""

    peers: tuple[NodeFacts, ...]


@dataclass(frozen=True, slots=True)
class LoadReport:
    """What the sender is doing."""

    load: NodeLoad


@dataclass(frozen=True, slots=True)
class ViewReport:
    """The leader's view of the pool, for gateways that may have to decide alone."""

    ballot: Ballot
    version: int
    members: tuple[Member, ...]


@dataclass(frozen=True, slots=True)
class FactsReport:
    """The sender's own facts have changed (an address, a name)."""

    facts: NodeFacts


@dataclass(frozen=True, slots=True)
class Query:
    """A rare question, answered once by a QueryReply with the same id. `kind` names a registered handler."""

    query_id: int
    kind: str
    payload: bytes = b""


@dataclass(frozen=True, slots=True)
class QueryReply:
    """`found` is False where the machine has no such handler or no such record."""

    query_id: int
    found: bool
    payload: bytes = b""


ControlMessage = (
    Heartbeat
    | ElectionMessage
    | PeerList
    | LoadReport
    | ViewReport
    | FactsReport
    | Ask
    | Answer
    | AttemptReport
    | GrantedWork
    | Query
    | QueryReply
)
