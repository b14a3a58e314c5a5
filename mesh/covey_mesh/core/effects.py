"""What the mesh's state machines want done. The runtime carries effects out in the order given.

A Persist is answered later by Persisted or PersistFailed; a Dial by LinkUp or DialFailed. Nothing else is awaited.
"""

from __future__ import annotations

from dataclasses import dataclass

from covey_mesh.core.ballot import Ballot
from covey_mesh.core.events import ElectionEvent, Promise
from covey_mesh.core.messages import ElectionMessage, FactsReport, Heartbeat, LoadReport, PeerList, ViewReport
from covey_mesh.core.names import NodeId
from covey_mesh.core.ports import LinkLoss


@dataclass(frozen=True, slots=True)
class Send:
    """To that machine's current link; dropped where there is none."""

    to: NodeId
    message: ElectionMessage | Heartbeat | PeerList | LoadReport | ViewReport | FactsReport


@dataclass(frozen=True, slots=True)
class Persist:
    """Write to disk, durably; one at a time."""

    promise: Promise


@dataclass(frozen=True, slots=True)
class LeadershipChanged:
    """Whom this machine follows (itself when it leads), under which ballot."""

    leader: NodeId | None
    ballot: Ballot


@dataclass(frozen=True, slots=True)
class FollowerGained:
    """As leader: this machine granted us and will believe our reports from now on."""

    node_id: NodeId


ElectionEffect = Send | Persist | LeadershipChanged | FollowerGained


@dataclass(frozen=True, slots=True)
class Dial:
    """Connect; a machine other than `expected` is a stranger."""

    address: str
    expected: NodeId | None


@dataclass(frozen=True, slots=True)
class CloseLink:
    """End this link."""

    link: int
    loss: LinkLoss


@dataclass(frozen=True, slots=True)
class MemberChanged:
    """This machine's entry in the view changed."""

    node_id: NodeId


@dataclass(frozen=True, slots=True)
class MemberLost:
    """The last link to this machine is gone."""

    node_id: NodeId
    loss: LinkLoss


@dataclass(frozen=True, slots=True)
class TellElection:
    """Step the election with this event, before the next effect."""

    event: ElectionEvent


MembershipEffect = Send | Dial | CloseLink | MemberChanged | MemberLost | TellElection
