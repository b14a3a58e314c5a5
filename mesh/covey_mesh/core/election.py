"""Leadership without a quorum: every machine grants one leader a short lease, and obeys only that one.

Step in, effects out; the clock and the dice are handed in. Here is in which order things happen: what time has
ended, then the event, then what is due. What happens is in campaign.py (the pre-vote), leading.py and following.py,
which share one ElectionState; the rules of granting are in grants.py, the counting of grants held in candidacy.py,
and every change of role in transitions.py. One life of a machine:

    LEADERLESS --campaign due--> CANVASSING --nobody objects--> STANDING --own ballot on disk--> LEADING
      ^   |                          |                              |                              |
      |   |                          | pre-vote lost                | not on disk                  | outranked, lease or
      +---(--------------------------+------------------------------+------------------------------+ candidacy over
      |   +--granted another--> FOLLOWING
      +------- grant ended ---------+            (from CANVASSING too; STOPPED from anywhere)

Ballots are pairs (counter, node id), so two claims never tie (Lamport, Paxos Made Simple, 2001); leases timed from
sending by the holder and from receipt by the granter follow Gray and Cheriton (Leases, 1989); the pre-vote is that of
Ongaro's thesis on Raft (2014, section 9.6), over links that carry both ways. No quorum on purpose: what a leader
knows is soft, and a two-machine office must survive the loss of either. Where an office has put something else before
the election (leadership_source.py), only who may stand begins a campaign, and a leader that may no longer steps down.

Properties, and where each is enforced:
  S1  No node obeys two leaders or a lower ballot: grants.py (one live grant, promise on disk before it, abstaining
      after a restart), candidacy.py (the leader's clock stops first), `_pass_time` here (a leader whose own lease ran
      out steps down before it looks at anything else, so one that slept wakes up as nobody).
  S2  Among machines that all hear each other one leader remains: Leading.meet_rival (more grants win, ties by id;
      the loser releases, the winner rises above every ballot promised). Who learns of a live leader that it cannot
      reach does not stand (Verdict.LEADER_LIVES) and, leading only itself, stops (Leading.on_reply).
  L2  One machine of two goes on alone: Campaign.decide needs no majority, only the absence of objections over links
      that are fresh both ways.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from covey_mesh.core.ballot import COUNTER_LEAP_MAX, COUNTER_MAX, NO_BALLOT, Ballot
from covey_mesh.core.campaign import Campaign
from covey_mesh.core.candidacy import Leadership
from covey_mesh.core.effects import ElectionEffect, LeadershipChanged
from covey_mesh.core.election_state import ElectionState
from covey_mesh.core.events import (
    CandidacyClosed,
    CandidacyOpened,
    DeputyChanged,
    ElectionEvent,
    ElectionReceived,
    PeerFresh,
    PeerGone,
    PeerLinked,
    PeerUnlinked,
    Persisted,
    PersistFailed,
    Promise,
    StopRequested,
    Tick,
)
from covey_mesh.core.following import Following
from covey_mesh.core.grants import Grants
from covey_mesh.core.leadership_source import NOT_ALLOWED, UNRESTRICTED, Candidature
from covey_mesh.core.leading import NEVER, Leading
from covey_mesh.core.messages import (
    ElectionMessage,
    GrantReply,
    GrantRequest,
    LeaseReleased,
    PreVoteReply,
    PreVoteRequest,
)
from covey_mesh.core.names import NodeId
from covey_mesh.core.timing import Timing
from covey_mesh.core.transitions import Role, Trigger


class Election:
    """One machine's part in the pool's leadership. `jitter` returns numbers in [0, 1).

    `candidature` is NOT_ALLOWED where a source (leadership_source.py) will say when this machine may stand.
    """

    def __init__(
        self,
        self_id: NodeId,
        timing: Timing,
        stored: Promise | None,
        started_at_s: float,
        jitter: Callable[[], float],
        candidature: Candidature = UNRESTRICTED,
    ) -> None:
        self._me = ElectionState(self_id, timing, stored, started_at_s, jitter, candidature)
        self._leading = Leading(self._me)
        self._campaign = Campaign(self._me, self._leading)
        self._following = Following(self._me, self._leading, self._campaign)
        self._announced: tuple[NodeId | None, Ballot] = (None, NO_BALLOT)
        self._handlers: dict[type[Any], Callable[[float, Any], None]] = {
            Tick: lambda now_s, event: None,
            ElectionReceived: self._on_received,
            PeerLinked: self._on_linked,
            PeerUnlinked: self._on_unlinked,
            PeerGone: self._on_gone,
            PeerFresh: self._on_fresh,
            Persisted: self._following.on_persisted,
            PersistFailed: self._following.on_persist_failed,
            DeputyChanged: self._on_deputy_changed,
            CandidacyOpened: self._on_candidacy_opened,
            CandidacyClosed: lambda now_s, event: self._end_candidacy(now_s),
            StopRequested: self._on_stop,
        }
        self._receivers: dict[type[Any], Callable[[float, NodeId, Any], None]] = {
            PreVoteRequest: self._campaign.on_request,
            PreVoteReply: self._campaign.on_reply,
            GrantRequest: self._following.on_request,
            GrantReply: self._leading.on_reply,
            LeaseReleased: self._following.on_released,
        }

    # --- what the outside may read ----------------------------------------------------------------------------------

    @property
    def self_id(self) -> NodeId:
        return self._me.self_id

    @property
    def role(self) -> Role:
        return self._me.role

    @property
    def grants(self) -> Grants:
        """What this machine has promised, and to whom it listens."""
        return self._me.grants

    @property
    def leadership(self) -> Leadership | None:
        """What this machine holds as leader."""
        return self._me.leadership

    def leader(self, now_s: float) -> NodeId | None:
        """Whom this machine follows now; itself when it leads."""
        return self._me.leader_and_ballot(now_s)[0]

    def ballot(self, now_s: float) -> Ballot:
        """The ballot of that leader, or NO_BALLOT."""
        return self._me.leader_and_ballot(now_s)[1]

    def may_obey(self, ballot: Ballot, now_s: float) -> bool:
        """The fence of placement commands: true only for the leader that this machine grants now (S1)."""
        return ballot != NO_BALLOT and ballot == self._me.grants.live(now_s)

    def holds(self, node_id: NodeId, now_s: float) -> bool:
        """As leader: true while `node_id` surely listens to nobody else."""
        me = self._me
        return me.leadership is not None and me.leadership.holds(node_id, now_s)

    def grants_held(self, now_s: float) -> int:
        """As leader: machines that grant this one now, itself included; else 0."""
        me = self._me
        return 0 if me.leadership is None else me.leadership.count(now_s)

    @property
    def wake_at_s(self) -> float:
        """When `step` must be called with a Tick at the latest."""
        me = self._me
        if me.leadership is not None:
            until_s = min(me.leadership.self_until_s, me.candidature.until_s)
            return min(me.leadership.next_heartbeat_s, until_s)
        if me.canvass is not None:
            return me.canvass.deadline_s
        if me.role is Role.FOLLOWING:
            return me.grants.until_s
        may_campaign = me.role is Role.LEADERLESS and me.candidature != NOT_ALLOWED
        return me.campaign_at_s if may_campaign else NEVER

    def step(self, now_s: float, event: ElectionEvent) -> list[ElectionEffect]:
        """Take one event; the effects are to be carried out in order."""
        me = self._me
        me.effects = []
        self._pass_time(now_s)
        self._handlers[type(event)](now_s, event)
        self._act_if_due(now_s)
        self._announce(now_s)
        return me.effects

    # --- time -------------------------------------------------------------------------------------------------------

    def _pass_time(self, now_s: float) -> None:
        """What ended by itself has ended before anything else is looked at (S1 for machines that slept)."""
        me = self._me
        if now_s >= me.candidature.until_s:
            self._end_candidacy(now_s)
        if me.leadership is not None and now_s >= me.leadership.self_until_s:
            self._leading.step_down(now_s, Trigger.LEASE_OVER)
        if me.role is Role.FOLLOWING and me.grants.live(now_s) == NO_BALLOT:
            self._following.lose_leader(now_s)

    def _act_if_due(self, now_s: float) -> None:
        """After the event, so that a grant request in hand goes before our own campaign."""
        me = self._me
        if me.role is Role.LEADERLESS and me.candidature != NOT_ALLOWED and now_s >= me.campaign_at_s:
            self._campaign.begin(now_s)
        if me.canvass is not None:
            self._campaign.decide(now_s)
        if me.leadership is not None and now_s >= me.leadership.next_heartbeat_s:
            self._leading.heartbeat(now_s)

    def _announce(self, now_s: float) -> None:
        me = self._me
        current = me.leader_and_ballot(now_s)
        if current != self._announced:
            self._announced = current
            me.effects.append(LeadershipChanged(*current))

    # --- whether this machine may stand -----------------------------------------------------------------------------

    def _on_candidacy_opened(self, now_s: float, event: CandidacyOpened) -> None:
        if now_s < event.candidature.until_s:
            self._me.candidature = event.candidature

    def _end_candidacy(self, now_s: float) -> None:
        """A ballot that is being written becomes a promise, but no leadership."""
        me = self._me
        if me.candidature == NOT_ALLOWED:
            return
        me.candidature = NOT_ALLOWED
        if me.leadership is not None:
            self._leading.step_down(now_s, Trigger.CANDIDACY_OVER)
        elif me.canvass is not None:
            me.canvass = None
            me.become(Trigger.CANDIDACY_OVER)
        elif me.role is Role.STANDING:
            me.grants.void_pending()

    # --- messages and links -----------------------------------------------------------------------------------------

    def _on_received(self, now_s: float, event: ElectionReceived) -> None:
        me = self._me
        if self._absurd(event.message) or event.sender == me.self_id:
            return
        if me.role is not Role.STOPPED or isinstance(event.message, GrantRequest):
            self._receivers[type(event.message)](now_s, event.sender, event.message)

    def _absurd(self, message: ElectionMessage) -> bool:
        """It names a ballot that no honest history led to."""
        highest = min(COUNTER_MAX, self._me.grants.promise.ballot.counter + COUNTER_LEAP_MAX)
        named = [message.ballot]
        if isinstance(message, PreVoteReply | GrantReply):
            named.append(message.promised)
        return any(ballot.counter > highest for ballot in named)

    def _on_linked(self, now_s: float, event: PeerLinked) -> None:
        me = self._me
        me.links[event.peer] = True
        if me.leadership is not None:
            self._leading.request_grants(now_s, [event.peer])

    def _on_unlinked(self, now_s: float, event: PeerUnlinked) -> None:
        me = self._me
        me.links.pop(event.peer, None)
        if me.canvass is not None:
            me.canvass.waiting.discard(event.peer)

    def _on_gone(self, now_s: float, event: PeerGone) -> None:
        """The process that we granted has ended, so nobody leads under that ballot: no need to wait for the lease."""
        me = self._me
        if me.leadership is not None:
            me.leadership.held.pop(event.peer, None)
        self._following.end_grant_of(now_s, event.peer)

    def _on_fresh(self, now_s: float, event: PeerFresh) -> None:
        me = self._me
        if event.peer in me.links:
            me.links[event.peer] = event.fresh

    def _on_deputy_changed(self, now_s: float, event: DeputyChanged) -> None:
        me = self._me
        me.handicap_s = 0.0 if event.deputy else me.timing.campaign_handicap_s
        if me.role is Role.LEADERLESS:
            me.campaign_at_s = max(me.campaign_at_s, now_s + me.handicap_s)

    def _on_stop(self, now_s: float, event: StopRequested) -> None:
        """Hand over at once: as leader by releasing the lease, as follower by withdrawing the grant."""
        me = self._me
        if me.role is Role.STOPPED:
            return
        leader, ballot = me.leader_and_ballot(now_s)
        me.canvass = me.leadership = None
        me.become(Trigger.STOP)
        me.grants.void_pending()
        if leader is not None:
            me.grants.end(leader)
            me.send(me.links if leader == me.self_id else [leader], LeaseReleased(ballot))
