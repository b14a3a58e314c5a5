"""Granting a leader and following it, until the grant ends; and what the disk says of promises, one's own included.

S1 is kept by grants.py, which says what may be granted; here is what follows from it.
Not here: asking for grants (campaign.py, leading.py).
"""

from __future__ import annotations

from covey_mesh.core.ballot import Ballot
from covey_mesh.core.campaign import Campaign
from covey_mesh.core.candidacy import Verdict
from covey_mesh.core.effects import Persist
from covey_mesh.core.election_state import ElectionState
from covey_mesh.core.events import Persisted, PersistFailed
from covey_mesh.core.grants import Refusal
from covey_mesh.core.leading import Leading
from covey_mesh.core.messages import GrantReply, GrantRequest, LeaseReleased
from covey_mesh.core.names import NodeId
from covey_mesh.core.transitions import Role, Trigger


class Following:
    """See the file's first lines."""

    def __init__(self, me: ElectionState, leading: Leading, campaign: Campaign) -> None:
        self._me = me
        self._leading = leading
        self._campaign = campaign

    def on_request(self, now_s: float, sender: NodeId, request: GrantRequest) -> None:
        me = self._me
        if request.ballot.node_id != sender:
            return
        if me.leadership is not None:
            self._leading.meet_rival(now_s, sender, request)
        refusal = Refusal.STOPPED if me.role is Role.STOPPED else self._refusal(now_s, request)
        if refusal is not None:
            self._reply(now_s, sender, request.ballot, request.round, refusal)
            return
        promise = me.grants.begin(now_s, request.ballot, request.lease_s, request.round)
        if promise is not None:
            if me.canvass is not None:
                self._campaign.lose(now_s, Verdict.LEADER_LIVES)
            me.effects.append(Persist(promise))
        elif me.grants.pending is None:
            self._follow()
            self._reply(now_s, sender, request.ballot, request.round, None)

    def _refusal(self, now_s: float, request: GrantRequest) -> Refusal | None:
        return self._me.grants.refusal(now_s, request.ballot, request.lease_s)

    def _reply(self, now_s: float, to: NodeId, ballot: Ballot, round_: int, refusal: Refusal | None) -> None:
        """`promised` names the live leader where one is the reason."""
        me = self._me
        promised = me.grants.promise.ballot
        if refusal is Refusal.LIVE_GRANT:
            promised = me.grants.claimed(now_s)
        reason = "" if refusal is None else refusal.value
        me.send([to], GrantReply(ballot, round_, refusal is None, promised, reason))

    def _follow(self) -> None:
        me = self._me
        me.canvass = None
        me.canvasses_lost = me.courtesies = 0
        me.become(Trigger.GRANTED)

    def lose_leader(self, now_s: float) -> None:
        me = self._me
        me.become(Trigger.GRANT_ENDED)
        me.campaign_soon(now_s)

    def on_released(self, now_s: float, sender: NodeId, message: LeaseReleased) -> None:
        me = self._me
        if me.leadership is not None and message.ballot == me.leadership.ballot:
            me.leadership.held.pop(sender, None)
        elif message.ballot.node_id == sender and message.ballot >= me.grants.claimed(now_s):
            self.end_grant_of(now_s, sender)

    def end_grant_of(self, now_s: float, leader: NodeId) -> None:
        me = self._me
        if me.grants.end(leader) and me.role is Role.FOLLOWING:
            self.lose_leader(now_s)

    def on_persisted(self, now_s: float, event: Persisted) -> None:
        me = self._me
        pending = me.grants.written(now_s, event.promise)
        own = event.promise.ballot.node_id == me.self_id
        if own:
            self._own_ballot_written(now_s, event.promise.ballot, pending is not None)
        elif pending is not None:
            self._follow()
            self._reply(now_s, pending.ballot.node_id, pending.ballot, pending.round, None)

    def _own_ballot_written(self, now_s: float, ballot: Ballot, in_time: bool) -> None:
        me = self._me
        if me.role is Role.STANDING:
            if in_time:
                self._leading.begin(now_s, ballot)
            else:
                me.unused_ballot = ballot
                me.become(Trigger.BALLOT_FAILED)
                me.campaign_soon(now_s)
        elif me.leadership is not None and ballot > me.leadership.ballot:
            me.leadership.ballot = ballot
            me.leadership.next_heartbeat_s = now_s

    def on_persist_failed(self, now_s: float, event: PersistFailed) -> None:
        me = self._me
        pending = me.grants.not_written(now_s, event.promise)
        if pending.ballot.node_id != me.self_id:
            self._reply(now_s, pending.ballot.node_id, pending.ballot, pending.round, Refusal.NOT_DURABLE)
        elif me.role is Role.STANDING:
            me.become(Trigger.BALLOT_FAILED)
            me.campaign_soon(now_s)
