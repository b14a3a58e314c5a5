"""The granting side of leadership: what a node has promised, and to whom it listens now.

Enforced here (properties of DESIGN.md):
  S1, one leader at a time:  `refusal` never lets a live or pending grant be replaced by another leader's, whatever
                             its ballot; it ends by time, by the leader's own release, or by proof that it is gone.
  S1, never a lower ballot:  `begin` asks for a Persist before anything above the promise is granted, and `refusal`
                             turns away what is below it.
  S1, across restarts:       with a stored promise the node abstains for the longest lease it may have granted.
Not here: asking for grants (candidacy.py), when to do what (election.py).
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from covey_mesh.core.ballot import NO_BALLOT, Ballot
from covey_mesh.core.events import Promise
from covey_mesh.core.names import NodeId
from covey_mesh.core.timing import Timing


class Refusal(enum.Enum):
    """Why a grant was refused; the value is GrantReply.reason, for machines and people."""

    STOPPED = "this machine is stopping"
    ABSTAINING = "abstaining for one lease after a restart"
    LIVE_GRANT = "another leader holds a live grant here"
    STALE = "a higher ballot was promised here"
    NOT_DURABLE = "promises cannot be written to disk here: free some space or mend the disk"
    BAD_LEASE = "lease length out of bounds"


@dataclass(slots=True)
class PendingGrant:
    """A grant that waits for its promise to be on disk. `round` 0: this machine's own candidacy."""

    promise: Promise
    ballot: Ballot
    lease_s: float
    received_at_s: float
    round: int
    void: bool = False

    @property
    def over_at_s(self) -> float:
        """What is on disk only then is a promise, but no grant any more."""
        return self.received_at_s + self.lease_s

    @property
    def claimed_until_s(self) -> float:
        """Until then others leave room for it. Not for ever, since a disk may hang; but for a second lease, since what
        came to disk too late for the first can be granted in that one without writing."""
        return self.over_at_s + self.lease_s


class Grants:
    """One node's promise and grant. Times are this node's own clock."""

    def __init__(self, stored: Promise | None, started_at_s: float, timing: Timing) -> None:
        self._timing = timing
        self.promise = stored or Promise()
        self.abstains_until_s = started_at_s + (0.0 if stored is None else stored.lease_s)
        self.pending: PendingGrant | None = None
        self._ballot = NO_BALLOT
        self._until_s = 0.0
        self._broken_until_s = 0.0

    def live(self, now_s: float) -> Ballot:
        """The ballot obeyed now, or NO_BALLOT."""
        return self._ballot if now_s < self._until_s else NO_BALLOT

    def claimed(self, now_s: float) -> Ballot:
        """The ballot obeyed now or about to be; what a pre-vote must respect."""
        live, pending = self.live(now_s), self.pending
        if live == NO_BALLOT and pending is not None and not pending.void and now_s < pending.claimed_until_s:
            return pending.ballot
        return live

    @property
    def until_s(self) -> float:
        """When the grant ends unless it is renewed."""
        return self._until_s

    def abstaining(self, now_s: float) -> bool:
        return now_s < self.abstains_until_s

    def durable(self, now_s: float) -> bool:
        """False for a while after the disk refused a promise."""
        return now_s >= self._broken_until_s

    @property
    def durable_again_s(self) -> float:
        return self._broken_until_s

    def refusal(self, now_s: float, ballot: Ballot, lease_s: float) -> Refusal | None:
        """Why `ballot` cannot be granted now; None if it can."""
        if self.abstaining(now_s):
            return Refusal.ABSTAINING
        if not 0 < lease_s <= self._timing.lease_max_s:
            return Refusal.BAD_LEASE
        if self.pending is not None and self.pending.ballot != ballot:
            return Refusal.LIVE_GRANT if now_s < self.pending.claimed_until_s else Refusal.NOT_DURABLE
        if self.live(now_s) != NO_BALLOT and self._ballot.node_id != ballot.node_id:
            return Refusal.LIVE_GRANT
        if ballot < self.promise.ballot:
            return Refusal.STALE
        if self._must_write(ballot, lease_s) and not self.durable(now_s):
            return Refusal.NOT_DURABLE
        return None

    def _must_write(self, ballot: Ballot, lease_s: float) -> bool:
        return ballot > self.promise.ballot or lease_s > self.promise.lease_s

    def begin(self, now_s: float, ballot: Ballot, lease_s: float, round_: int) -> Promise | None:
        """Grant at once (None), or return what must be on disk first. Precondition: `refusal` returned None."""
        if not self._must_write(ballot, lease_s):
            self._grant(ballot, now_s + lease_s)
            return None
        if self.pending is not None:
            return None
        promise = Promise(ballot, max(lease_s, self.promise.lease_s))
        self.pending = PendingGrant(promise, ballot, lease_s, now_s, round_)
        return promise

    def _grant(self, ballot: Ballot, until_s: float) -> None:
        same_leader = self._ballot.node_id == ballot.node_id
        self._until_s = max(until_s, self._until_s) if same_leader else until_s
        self._ballot = ballot

    def written(self, now_s: float, promise: Promise) -> PendingGrant | None:
        """The promise is on disk: the grant that may now be announced, or None if its time has passed."""
        pending = self._take_pending(promise)
        self.promise = promise
        if pending.void or now_s >= pending.over_at_s:
            return None
        self._grant(pending.ballot, pending.over_at_s)
        return pending

    def not_written(self, now_s: float, promise: Promise) -> PendingGrant:
        """The disk refused: nothing is granted, and nothing new is tried for a while."""
        self._broken_until_s = now_s + self._timing.persist_retry_s
        return self._take_pending(promise)

    def _take_pending(self, promise: Promise) -> PendingGrant:
        pending, self.pending = self.pending, None
        assert pending is not None, "a promise was written that nobody asked for"
        assert pending.promise == promise, "promises are written one at a time"
        return pending

    def void_pending(self) -> None:
        """What is being written will be a promise, but no grant."""
        if self.pending is not None:
            self.pending.void = True

    def end(self, leader: NodeId) -> bool:
        """The leader released its lease or is proven gone; True if a live or pending grant ended."""
        ended = False
        if self.pending is not None and self.pending.ballot.node_id == leader and not self.pending.void:
            self.pending.void = ended = True
        if self._ballot != NO_BALLOT and self._ballot.node_id == leader:
            self._ballot, self._until_s, ended = NO_BALLOT, 0.0, True
        return ended
