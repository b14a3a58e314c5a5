"""What the rest of covey sees of the pool: who is reachable, and immutable snapshots.

Not here: how it was learned (membership.py).
"""

from __future__ import annotations

from covey_mesh.core.ballot import NO_BALLOT, Ballot
from covey_mesh.core.facts import Member, NodeFacts, NodeLoad, PoolView
from covey_mesh.core.names import NodeId
from covey_mesh.core.peers import PeerRecord, PeerTable
from covey_mesh.core.timing import Timing

SNAPSHOT_AGE_MAX_S = 1.0
"""A snapshot older than this is made anew even without a change, so that `silent_for_s` is not stale."""

OWN_FAILURE_COUNTS_S = 60.0
"""A failed dial of our own outweighs the leader's word this long: longer than the longest dial backoff."""


def is_reachable(record: PeerRecord) -> bool:
    """One's own link decides, unless the leader has heard of the machine later than we have."""
    word = record.reported
    if record.link is not None:
        return word is None or word.reachable or word.as_of_s <= record.link.liveness.heard_at_s
    if word is None or not word.reachable:
        return False
    return record.lost is None or word.as_of_s > record.lost_at_s + OWN_FAILURE_COUNTS_S


def is_listed(record: PeerRecord, now_s: float, timing: Timing) -> bool:
    """Machines of the pool that are here, or were a while ago. A hint alone lists nobody."""
    if record.facts is None:
        return False
    last_sign_s = max(record.seen_at_s, record.reported.as_of_s if record.reported else record.seen_at_s)
    return is_reachable(record) or now_s - last_sign_s <= timing.listed_unreachable_s


def member_of(record: PeerRecord, now_s: float) -> Member:
    """One entry of the view. Precondition: the record has facts."""
    assert record.facts is not None
    load = record.load or NodeLoad(record.node_id, record.facts.incarnation, 0)
    heard_at_s = record.seen_at_s
    if record.link is not None:
        heard_at_s = record.link.liveness.heard_at_s
    if record.reported is not None:
        heard_at_s = max(heard_at_s, record.reported.as_of_s)
    round_trip_s = record.link.liveness.round_trip_s if record.link else 0.0
    return Member(record.facts, load, is_reachable(record), round_trip_s, max(0.0, now_s - heard_at_s))


class ViewKeeper:
    """Makes snapshots, and the same one again while nothing changed."""

    def __init__(self, self_id: NodeId, peers: PeerTable, timing: Timing) -> None:
        self._peers = peers
        self._timing = timing
        self._view = PoolView(self_id)
        self._made_at_s = float("-inf")
        self._changed = True
        self._leader: NodeId | None = None
        self._ballot = NO_BALLOT

    def changed(self) -> None:
        """The next snapshot differs from the last."""
        self._changed = True

    def follow(self, leader: NodeId | None, ballot: Ballot) -> None:
        self._leader, self._ballot, self._changed = leader, ballot, True

    def snapshot(self, now_s: float, own_facts: NodeFacts, own_load: NodeLoad) -> PoolView:
        """The pool now, this machine first."""
        if self._changed or now_s - self._made_at_s > SNAPSHOT_AGE_MAX_S:
            members = {own_facts.node_id: Member(own_facts, own_load, True)}
            for record in self._peers:
                if is_listed(record, now_s, self._timing):
                    members[record.node_id] = member_of(record, now_s)
            version = self._view.version + (1 if self._changed else 0)
            self._view = PoolView(own_facts.node_id, version, self._leader, self._ballot, members)
            self._changed, self._made_at_s = False, now_s
        return self._view
