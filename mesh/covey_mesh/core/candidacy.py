"""The asking side of leadership: the tally of one pre-vote, and the grants that a leader holds.

Enforced here: a leader counts each grant from the SENDING of the request that was granted, shortened by the drift
margin (timing.leader_lease_s), and the node from its receipt, so the leader always stops first (S1).
Not here: whether to stand or step down (election.py), giving grants (grants.py).
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from covey_mesh.core.ballot import NO_BALLOT, Ballot
from covey_mesh.core.messages import GrantReply, PreVoteReply
from covey_mesh.core.names import NodeId
from covey_mesh.core.timing import Timing, leader_lease_s


class Verdict(enum.Enum):
    """What a pre-vote came to."""

    OPEN = "answers are missing"
    WON = "nobody objects"
    LEADER_LIVES = "a machine holds a live grant for another leader"
    OUTBID = "another candidate goes first"
    UNHEARD = "nobody answers over links that look alive: we may be deaf"


@dataclass(slots=True)
class Canvass:
    """One pre-vote. `waiting` are the machines asked that have neither answered nor lost their link."""

    ballot: Ballot
    round: int
    deadline_s: float
    waiting: set[NodeId]
    answered: int = 0
    leader_seen: Ballot = NO_BALLOT
    outbid: bool = False
    highest: Ballot = NO_BALLOT

    def take(self, sender: NodeId, reply: PreVoteReply) -> None:
        """Count one answer; answers to another round, and second ones, are ignored."""
        if reply.round != self.round or reply.ballot != self.ballot or sender not in self.waiting:
            return
        self.waiting.discard(sender)
        self.answered += 1
        self.highest = max(self.highest, reply.promised)
        if reply.granted != NO_BALLOT and reply.granted.node_id != self.ballot.node_id:
            self.leader_seen = max(self.leader_seen, reply.granted)
        elif not reply.willing:
            self.outbid = True

    def verdict(self, now_s: float, any_fresh_unanswered: bool) -> Verdict:
        """`any_fresh_unanswered`: some machine still in `waiting` has a link that is fresh both ways."""
        if self.leader_seen != NO_BALLOT:
            return Verdict.LEADER_LIVES
        if self.outbid:
            return Verdict.OUTBID
        if not self.waiting:
            return Verdict.WON
        if now_s < self.deadline_s:
            return Verdict.OPEN
        return Verdict.UNHEARD if self.answered == 0 and any_fresh_unanswered else Verdict.WON


@dataclass(slots=True)
class Leadership:
    """What a leader holds. `held` maps a machine to the end of its grant, by the leader's clock and margin."""

    self_id: NodeId
    ballot: Ballot
    self_until_s: float
    next_heartbeat_s: float
    held: dict[NodeId, float] = field(default_factory=dict)
    sent: dict[int, tuple[float, float]] = field(default_factory=dict)

    def note_sent(self, now_s: float, round_: int, lease_s: float) -> None:
        """Remember when a round was sent; rounds too old to matter are forgotten (bounded by lease / heartbeat)."""
        self.sent[round_] = (now_s, lease_s)
        while self.sent:
            oldest, (sent_s, its_lease_s) = next(iter(self.sent.items()))
            if sent_s + its_lease_s > now_s:
                return
            del self.sent[oldest]

    def take(self, sender: NodeId, reply: GrantReply, timing: Timing) -> None:
        """A machine granted this ballot: count it from the sending of that round."""
        sent = self.sent.get(reply.round)
        if sent is None or not reply.granted or reply.ballot != self.ballot:
            return
        until_s = sent[0] + leader_lease_s(sent[1], timing)
        self.held[sender] = max(until_s, self.held.get(sender, 0.0))

    def holds(self, node_id: NodeId, now_s: float) -> bool:
        """True while that machine surely has no other leader."""
        until_s = self.self_until_s if node_id == self.self_id else self.held.get(node_id, 0.0)
        return now_s < until_s and now_s < self.self_until_s

    def count(self, now_s: float) -> int:
        """Machines that grant this leader now, itself included."""
        return 1 + sum(1 for until_s in self.held.values() if now_s < until_s)

    def drop_expired(self, now_s: float) -> None:
        for node_id in [n for n, until_s in self.held.items() if until_s <= now_s]:
            del self.held[node_id]
