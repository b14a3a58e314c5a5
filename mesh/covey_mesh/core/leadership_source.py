"""Who may stand for leadership: the seam between the election and what an office may put before it.

Standing is not leading. Whoever may stand still needs a grant of every machine that is to obey it (grants.py), under a
ballot whose counter is at least the candidature's, so that properties S1 and L1 do not depend on any source. Two
sources exist: OwnElection here (everybody may stand, always), and a key in etcd (io/etcd_leadership.py: at most one
machine may stand at a time). Not here: how a ballot is won (election.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from covey_mesh.core.names import NodeId


@dataclass(frozen=True, slots=True)
class Candidature:
    """The right to stand until `until_s` of this machine's clock, with ballots that count from `counter`."""

    counter: int
    until_s: float


UNRESTRICTED = Candidature(0, float("inf"))
NOT_ALLOWED = Candidature(0, float("-inf"))


class Candidate(Protocol):
    """The mesh of one machine, as its source sees it. Everything is called on the event loop's thread."""

    @property
    def self_id(self) -> NodeId: ...

    @property
    def leads(self) -> bool:
        """True while this machine leads."""

    def candidacy_opened(self, candidature: Candidature) -> None:
        """This machine may stand, or may go on doing so; the core itself ends it when its time is over."""

    def candidacy_closed(self) -> None:
        """Not any longer: a leader steps down at once."""


class LeadershipSource(Protocol):
    """Says when this machine may stand."""

    def start(self, candidate: Candidate) -> None:
        """Without waiting; candidatures follow, now or later, until `halt` or `stop`."""

    def machine_gone(self, node_id: NodeId) -> None:
        """Proof that the process which was this machine has ended."""

    def halt(self) -> None:
        """Stop at once and silently, as a killed process does."""

    async def stop(self) -> None:
        """Hand over: let another machine stand. Bounded; safe to call twice."""


class OwnElection:
    """The built-in source: everybody may stand whenever no leader is known, and the pre-vote sorts them out."""

    def start(self, candidate: Candidate) -> None:
        """See LeadershipSource."""
        candidate.candidacy_opened(UNRESTRICTED)

    def machine_gone(self, node_id: NodeId) -> None:
        """See LeadershipSource."""

    def halt(self) -> None:
        """See LeadershipSource."""

    async def stop(self) -> None:
        """See LeadershipSource."""
