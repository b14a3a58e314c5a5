"""The way to leadership: the pre-vote, and standing with a ballot of one's own.

Pre-vote (Ongaro's thesis on Raft, 2014, section 9.6): ask everybody linked whether they would grant, promise nothing.
It is won when nobody objects, lost to whoever knows of a live leader, to a candidate with a higher ballot, and to
silence over links that look alive (we may be deaf). Then the own ballot is written; leading.py goes on from there.
Not here: counting one pre-vote's answers (candidacy.py), when a campaign is due (election.py).
"""

from __future__ import annotations

from covey_mesh.core.ballot import NO_BALLOT, Ballot
from covey_mesh.core.candidacy import Canvass, Verdict
from covey_mesh.core.election_state import ElectionState
from covey_mesh.core.leading import Leading
from covey_mesh.core.messages import PreVoteReply, PreVoteRequest
from covey_mesh.core.names import NodeId
from covey_mesh.core.timing import canvass_retry_s
from covey_mesh.core.transitions import Role, Trigger


class Campaign:
    """See the file's first lines."""

    def __init__(self, me: ElectionState, leading: Leading) -> None:
        self._me = me
        self._leading = leading

    def begin(self, now_s: float) -> None:
        me = self._me
        if not me.grants.durable(now_s):
            me.campaign_at_s = me.grants.durable_again_s
            return
        if me.grants.pending is not None:
            me.campaign_at_s = now_s + me.timing.canvass_retry_s
            return
        me.become(Trigger.CAMPAIGN_DUE)
        round_, ballot = me.next_round(), me.ballot_to_stand_with(me.grants.promise.ballot)
        deadline_s = now_s + me.timing.pre_vote_timeout_s
        me.canvass = Canvass(ballot, round_, deadline_s, set(me.links), highest=me.grants.promise.ballot)
        me.send(me.links, PreVoteRequest(ballot, round_))

    def decide(self, now_s: float) -> None:
        me = self._me
        assert me.canvass is not None
        unanswered = any(me.links[peer] for peer in me.canvass.waiting)
        verdict = me.canvass.verdict(now_s, unanswered)
        if verdict is Verdict.WON:
            self._stand(now_s, me.canvass.highest)
        elif verdict is not Verdict.OPEN:
            self.lose(now_s, verdict)

    def lose(self, now_s: float, verdict: Verdict) -> None:
        me = self._me
        me.canvass = None
        me.become(Trigger.PRE_VOTE_LOST)
        if verdict is Verdict.OUTBID:
            me.campaign_at_s = now_s + me.timing.courtesy_s + me.jitter() * me.timing.campaign_jitter_s
            return
        me.campaign_at_s = now_s + canvass_retry_s(me.canvasses_lost, me.jitter(), me.timing)
        me.canvasses_lost += 1

    def _stand(self, now_s: float, highest: Ballot) -> None:
        """Nobody objects: promise oneself a ballot above all that were heard of; leading begins when it is on disk."""
        me = self._me
        me.canvass = None
        me.become(Trigger.PRE_VOTE_WON)
        ballot = me.ballot_to_stand_with(highest)
        promise = me.grants.begin(now_s, ballot, me.lease_s(), 0)
        if promise is not None:
            me.persist(promise)
        else:
            self._leading.begin(now_s, ballot)

    def on_request(self, now_s: float, sender: NodeId, request: PreVoteRequest) -> None:
        me = self._me
        claimed = me.grants.claimed(now_s)
        granted = NO_BALLOT if claimed.node_id == sender else claimed
        willing = granted == NO_BALLOT and self._yield_to(now_s, request.ballot)
        reply = PreVoteReply(request.ballot, request.round, willing, me.grants.promise.ballot, granted)
        me.send([sender], reply)
        if me.leadership is not None:
            self._leading.request_grants(now_s, [sender])

    def _yield_to(self, now_s: float, candidate: Ballot) -> bool:
        """Between candidates at the same moment the higher ballot goes first; the others hold back for a while."""
        me = self._me
        if me.canvass is not None:
            if me.canvass.ballot > candidate:
                return False
            self.lose(now_s, Verdict.OUTBID)
        elif me.role is Role.LEADERLESS and me.courtesies < me.timing.courtesies_max:
            me.courtesies += 1
            me.campaign_at_s = max(me.campaign_at_s, now_s + me.timing.courtesy_s)
        return True

    def on_reply(self, now_s: float, sender: NodeId, reply: PreVoteReply) -> None:
        me = self._me
        if me.canvass is not None:
            me.canvass.take(sender, reply)
