"""The ballot: a totally ordered, never repeated claim to leadership.

Integer terms alone are not enough without a quorum: two candidates can hold equal terms, and nodes then obey both.
A pair with the candidate's id cannot tie (the proposal number of Lamport's Paxos Made Simple, 2001).
"""

from __future__ import annotations

from dataclasses import dataclass

from covey_mesh.core.names import NodeId


@dataclass(frozen=True, slots=True, order=True)
class Ballot:
    """Ordered by counter, then by node id."""

    counter: int
    node_id: NodeId

    def next_for(self, node_id: NodeId) -> Ballot:
        """The smallest ballot of `node_id` above this one."""
        return Ballot(self.counter + 1, node_id)


NO_BALLOT = Ballot(0, NodeId(""))
"""Below every real ballot."""

COUNTER_MAX = 2**62
"""Ballots above it are nobody's honest claim (a leader change a microsecond for 100,000 years): ignored."""

COUNTER_LEAP_MAX = 2**32
"""Likewise ballots this far above what was promised here (a change of leader a second for 136 years). Without it one
lying machine could name a ballot that nobody can exceed, and the pool would be without a leader for good."""
