"""What happens to the mesh's two state machines: facts that the runtime, or one machine for the other, reports.

Election.step takes an ElectionEvent, Membership.step a MembershipEvent. Plain values; not here: what follows.
"""

from __future__ import annotations

from dataclasses import dataclass

from covey_mesh.core.ballot import NO_BALLOT, Ballot
from covey_mesh.core.facts import NodeFacts, NodeLoad
from covey_mesh.core.leadership_source import Candidature
from covey_mesh.core.messages import (
    ElectionMessage,
    FactsReport,
    Heartbeat,
    LoadReport,
    PeerList,
    ViewReport,
)
from covey_mesh.core.names import NodeId
from covey_mesh.core.ports import LinkLoss


@dataclass(frozen=True, slots=True)
class Promise:
    """What is on disk: the highest ballot promised, and the longest lease ever granted under it."""

    ballot: Ballot = NO_BALLOT
    lease_s: float = 0.0


# --- for both -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Tick:
    """`wake_at_s` has come."""


# --- for the election ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ElectionReceived:
    """A message from an authenticated machine."""

    sender: NodeId
    message: ElectionMessage


@dataclass(frozen=True, slots=True)
class PeerLinked:
    """There is a link to this machine now."""

    peer: NodeId


@dataclass(frozen=True, slots=True)
class PeerUnlinked:
    """There is none now; that says nothing about the process behind it."""

    peer: NodeId


@dataclass(frozen=True, slots=True)
class PeerGone:
    """Proof that the process behind the last link has ended: redialing it was refused, or a new incarnation answers."""

    peer: NodeId


@dataclass(frozen=True, slots=True)
class PeerFresh:
    """Whether the link to this machine was recently proven to carry both ways."""

    peer: NodeId
    fresh: bool


@dataclass(frozen=True, slots=True)
class Persisted:
    """The promise is on disk."""

    promise: Promise


@dataclass(frozen=True, slots=True)
class PersistFailed:
    """The promise may or may not be on disk."""

    promise: Promise


@dataclass(frozen=True, slots=True)
class DeputyChanged:
    """Whether this machine is among those that everybody of a large pool has links to."""

    deputy: bool


@dataclass(frozen=True, slots=True)
class CandidacyOpened:
    """This machine may stand for leadership, or may go on leading, until then (leadership_source.py)."""

    candidature: Candidature


@dataclass(frozen=True, slots=True)
class CandidacyClosed:
    """This machine may neither stand nor lead any longer."""


@dataclass(frozen=True, slots=True)
class StopRequested:
    """The agent stops: hand over."""


ElectionEvent = (
    Tick
    | ElectionReceived
    | PeerLinked
    | PeerUnlinked
    | PeerGone
    | PeerFresh
    | Persisted
    | PersistFailed
    | DeputyChanged
    | CandidacyOpened
    | CandidacyClosed
    | StopRequested
)

# --- for the membership -------------------------------------------------------------------------------------------

MembershipMessage = Heartbeat | PeerList | LoadReport | ViewReport | FactsReport


@dataclass(frozen=True, slots=True)
class LinkUp:
    """A link is usable. `link` is the runtime's number for it, never used twice; facts.node_id is proven."""

    link: int
    facts: NodeFacts
    dialed: bool
    address: str


@dataclass(frozen=True, slots=True)
class LinkDown:
    """A link ended."""

    link: int
    loss: LinkLoss


@dataclass(frozen=True, slots=True)
class DialFailed:
    """A dial ended without a link."""

    address: str
    loss: LinkLoss


@dataclass(frozen=True, slots=True)
class Hinted:
    """Somebody says that a machine may answer there. `pinned`: a person says so. Proves nothing."""

    addresses: tuple[str, ...]
    claimed: NodeId | None = None
    pinned: bool = False


@dataclass(frozen=True, slots=True)
class MembershipReceived:
    """A message from an authenticated machine."""

    sender: NodeId
    message: MembershipMessage


@dataclass(frozen=True, slots=True)
class Published:
    """This machine's own load."""

    load: NodeLoad


@dataclass(frozen=True, slots=True)
class OwnFactsChanged:
    """This machine's own facts (an address, a name)."""

    facts: NodeFacts


@dataclass(frozen=True, slots=True)
class LeaderChanged:
    """Whom this machine follows now."""

    leader: NodeId | None
    ballot: Ballot


@dataclass(frozen=True, slots=True)
class FollowerJoined:
    """As leader: this machine granted us; it lacks our view."""

    peer: NodeId


@dataclass(frozen=True, slots=True)
class InUse:
    """Requests are, or are no longer, in flight or waiting for this machine."""

    peer: NodeId
    in_use: bool


@dataclass(frozen=True, slots=True)
class Probe:
    """An answer from this machine is awaited: find out soon whether it lives."""

    peer: NodeId


MembershipEvent = (
    Tick
    | LinkUp
    | LinkDown
    | DialFailed
    | Hinted
    | MembershipReceived
    | Published
    | OwnFactsChanged
    | LeaderChanged
    | FollowerJoined
    | InUse
    | Probe
)
