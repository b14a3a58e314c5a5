"""What a leader does: renew its grants, rise above ballots it hears of, settle with a rival, step down.

S1 needs a leader to stop before the machines that granted it let go: `step_down` stops first and says so afterwards,
and its own lease counts from sending (candidacy.py). S2 needs one of two leaders to give way: `meet_rival`.
Not here: becoming one (campaign.py), granting another (following.py).
"""

from __future__ import annotations

from covey_mesh.core.ballot import NO_BALLOT, Ballot
from covey_mesh.core.candidacy import Leadership
from covey_mesh.core.effects import FollowerGained
from covey_mesh.core.election_state import ElectionState
from covey_mesh.core.grants import Refusal
from covey_mesh.core.messages import GrantReply, GrantRequest, LeaseReleased
from covey_mesh.core.names import NodeId
from covey_mesh.core.timing import heartbeat_interval_s, leader_lease_s
from covey_mesh.core.transitions import Trigger

NEVER = float("inf")


class Leading:
    """See the file's first lines. All but `begin` and `on_reply` need a leadership."""

    def __init__(self, me: ElectionState) -> None:
        self._me = me

    def begin(self, now_s: float, ballot: Ballot) -> None:
        me = self._me
        me.become(Trigger.BALLOT_DURABLE)
        me.canvasses_lost = me.courtesies = 0
        me.unused_ballot = NO_BALLOT
        me.leadership = Leadership(me.self_id, ballot, NEVER, now_s)

    def heartbeat(self, now_s: float) -> None:
        """Renew the grant of oneself and ask all others."""
        me = self._me
        leadership = me.leadership
        assert leadership is not None
        lease = me.lease_s()
        durable_lease_s = min(lease, me.grants.promise.lease_s)
        me.grants.begin(now_s, leadership.ballot, durable_lease_s, 0)
        if lease > durable_lease_s and me.grants.pending is None and me.grants.durable(now_s):
            me.persist(me.grants.begin(now_s, leadership.ballot, lease, 0))
        leadership.drop_expired(now_s)
        leadership.self_until_s = now_s + leader_lease_s(durable_lease_s, me.timing)
        leadership.next_heartbeat_s = now_s + heartbeat_interval_s(len(me.links) + 1, me.timing)
        self.request_grants(now_s, list(me.links))

    def request_grants(self, now_s: float, peers: list[NodeId]) -> None:
        me = self._me
        leadership = me.leadership
        assert leadership is not None
        if peers:
            round_, lease = me.next_round(), me.lease_s()
            leadership.note_sent(now_s, round_, lease)
            held = leadership.count(now_s)
            me.send(peers, GrantRequest(leadership.ballot, round_, lease, held))

    def on_reply(self, now_s: float, sender: NodeId, reply: GrantReply) -> None:
        me = self._me
        leadership = me.leadership
        if leadership is None:
            return
        if reply.granted:
            new = not leadership.holds(sender, now_s)
            leadership.take(sender, reply, me.timing)
            if new and leadership.holds(sender, now_s):
                me.effects.append(FollowerGained(sender))
        elif reply.reason == Refusal.STALE.value:
            self._rise_above(now_s, reply.promised)
        elif reply.reason == Refusal.LIVE_GRANT.value:
            another = reply.promised.node_id not in (sender, me.self_id, "")
            if another and leadership.count(now_s) == 1:
                self.step_down(now_s, Trigger.OUTRANKED)

    def _rise_above(self, now_s: float, promised: Ballot) -> None:
        """Go on leading under a ballot above `promised`; the old one holds until the new one is on disk. While leading,
        nothing higher than the own ballot is promised here, so `promised` is what has to be exceeded."""
        me = self._me
        assert me.leadership is not None
        if promised <= me.leadership.ballot or me.grants.pending is not None or not me.grants.durable(now_s):
            return
        me.promise_self(now_s, promised)

    def step_down(self, now_s: float, trigger: Trigger) -> None:
        """Stop first, then say so: the others may grant another leader as soon as they hear it."""
        me = self._me
        assert me.leadership is not None
        ballot = me.leadership.ballot
        me.leadership = None
        me.become(trigger)
        me.grants.end(me.self_id)
        me.send(me.links, LeaseReleased(ballot))
        me.campaign_soon(now_s)
        me.campaign_at_s += me.timing.courtesy_s

    def meet_rival(self, now_s: float, sender: NodeId, request: GrantRequest) -> None:
        """Two leaders meet: more grants win, ties by id. The winner rises above the other's ballot (S2)."""
        me = self._me
        assert me.leadership is not None
        if (request.grants_held, sender) > (me.leadership.count(now_s), me.self_id):
            self.step_down(now_s, Trigger.OUTRANKED)
        else:
            self._rise_above(now_s, request.ballot)
            self.request_grants(now_s, [sender])
