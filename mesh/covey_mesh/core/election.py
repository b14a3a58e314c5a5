"""Leadership without a quorum: every machine grants one leader a short lease, and obeys only that one.

Step in, effects out; the clock and the dice are handed in. The granting side is grants.py, the asking side
candidacy.py; here is when to do what. One life of a machine:

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
  S2  Among machines that all hear each other one leader remains: `_meet_rival` here (more grants win, ties by id; the
      loser releases, the winner rises above every ballot promised). Who learns of a live leader that it cannot reach
      does not stand (Verdict.LEADER_LIVES) and, leading only itself, stops (`_on_grant_reply`).
  L2  One machine of two goes on alone: `_decide_canvass` needs no majority, only the absence of objections over
      links that are fresh both ways.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable
from types import MappingProxyType
from typing import Any

from covey_mesh.core.ballot import NO_BALLOT, Ballot
from covey_mesh.core.candidacy import Canvass, Leadership, Verdict
from covey_mesh.core.effects import ElectionEffect, FollowerGained, LeadershipChanged, Persist, Send
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
from covey_mesh.core.grants import Grants, Refusal
from covey_mesh.core.leadership_source import NOT_ALLOWED, UNRESTRICTED, Candidature
from covey_mesh.core.messages import (
    ElectionMessage,
    GrantReply,
    GrantRequest,
    LeaseReleased,
    PreVoteReply,
    PreVoteRequest,
)
from covey_mesh.core.names import NodeId
from covey_mesh.core.timing import Timing, canvass_retry_s, heartbeat_interval_s, leader_lease_s, lease_s

COUNTER_MAX = 2**62
"""Ballots above it are nobody's honest claim (a leader change a microsecond for 100,000 years): ignored."""

COUNTER_LEAP_MAX = 2**32
"""Likewise ballots this far above what was promised here (a change of leader a second for 136 years). Without it one
lying machine could name a ballot that nobody can exceed, and the pool would be without a leader for good."""

NEVER = float("inf")


class Role(enum.Enum):
    """What this machine is to the pool's leadership."""

    LEADERLESS = "leaderless"
    CANVASSING = "canvassing"
    STANDING = "standing"
    LEADING = "leading"
    FOLLOWING = "following"
    STOPPED = "stopped"


class Trigger(enum.Enum):
    """Why the role changes."""

    GRANTED = "granted another leader"
    GRANT_ENDED = "its grant ended"
    CAMPAIGN_DUE = "campaign due"
    PRE_VOTE_LOST = "pre-vote lost"
    PRE_VOTE_WON = "pre-vote won"
    BALLOT_DURABLE = "own ballot on disk"
    BALLOT_FAILED = "own ballot not on disk"
    LEASE_OVER = "own lease over"
    OUTRANKED = "another leader goes first"
    CANDIDACY_OVER = "may no longer stand"
    STOP = "stopping"


TRANSITIONS = MappingProxyType(
    {
        (Role.LEADERLESS, Trigger.GRANTED): Role.FOLLOWING,
        (Role.LEADERLESS, Trigger.CAMPAIGN_DUE): Role.CANVASSING,
        (Role.LEADERLESS, Trigger.STOP): Role.STOPPED,
        (Role.CANVASSING, Trigger.GRANTED): Role.FOLLOWING,
        (Role.CANVASSING, Trigger.PRE_VOTE_LOST): Role.LEADERLESS,
        (Role.CANVASSING, Trigger.PRE_VOTE_WON): Role.STANDING,
        (Role.CANVASSING, Trigger.CANDIDACY_OVER): Role.LEADERLESS,
        (Role.CANVASSING, Trigger.STOP): Role.STOPPED,
        (Role.STANDING, Trigger.BALLOT_DURABLE): Role.LEADING,
        (Role.STANDING, Trigger.BALLOT_FAILED): Role.LEADERLESS,
        (Role.STANDING, Trigger.STOP): Role.STOPPED,
        (Role.LEADING, Trigger.LEASE_OVER): Role.LEADERLESS,
        (Role.LEADING, Trigger.OUTRANKED): Role.LEADERLESS,
        (Role.LEADING, Trigger.CANDIDACY_OVER): Role.LEADERLESS,
        (Role.LEADING, Trigger.STOP): Role.STOPPED,
        (Role.FOLLOWING, Trigger.GRANTED): Role.FOLLOWING,
        (Role.FOLLOWING, Trigger.GRANT_ENDED): Role.LEADERLESS,
        (Role.FOLLOWING, Trigger.STOP): Role.STOPPED,
    }
)
"""Every legal change of role; anything else is our own bug and raises IllegalTransition."""


class IllegalTransition(AssertionError):
    """The state machine was asked for a change that its table does not have: a bug."""


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
        self.self_id = self_id
        self.role = Role.LEADERLESS
        self.grants = Grants(stored, started_at_s, timing)
        self._timing = timing
        self._jitter = jitter
        self._candidature = candidature
        self._links: dict[NodeId, bool] = {}
        self._canvass: Canvass | None = None
        self._leadership: Leadership | None = None
        self._rounds = 0
        self._canvasses_lost = 0
        self._courtesies = 0
        self._handicap_s = 0.0
        self._announced: tuple[NodeId | None, Ballot] = (None, NO_BALLOT)
        self._effects: list[ElectionEffect] = []
        first_s = max(started_at_s + timing.boot_listen_s, self.grants.abstains_until_s)
        self._campaign_at_s = first_s + jitter() * timing.campaign_jitter_s
        self._handlers: dict[type[Any], Callable[[float, Any], None]] = {
            Tick: lambda now_s, event: None,
            ElectionReceived: self._on_received,
            PeerLinked: self._on_linked,
            PeerUnlinked: self._on_unlinked,
            PeerGone: self._on_gone,
            PeerFresh: self._on_fresh,
            Persisted: self._on_persisted,
            PersistFailed: self._on_persist_failed,
            DeputyChanged: self._on_deputy_changed,
            CandidacyOpened: self._on_candidacy_opened,
            CandidacyClosed: lambda now_s, event: self._end_candidacy(now_s),
            StopRequested: self._on_stop,
        }
        self._receivers: dict[type[Any], Callable[[float, NodeId, Any], None]] = {
            PreVoteRequest: self._on_pre_vote_request,
            PreVoteReply: self._on_pre_vote_reply,
            GrantRequest: self._on_grant_request,
            GrantReply: self._on_grant_reply,
            LeaseReleased: self._on_lease_released,
        }

    # --- what the outside may read ----------------------------------------------------------------------------------

    def leader(self, now_s: float) -> NodeId | None:
        """Whom this machine follows now; itself when it leads."""
        return self._leader_and_ballot(now_s)[0]

    def ballot(self, now_s: float) -> Ballot:
        """The ballot of that leader, or NO_BALLOT."""
        return self._leader_and_ballot(now_s)[1]

    def may_obey(self, ballot: Ballot, now_s: float) -> bool:
        """The fence of placement commands: true only for the leader that this machine grants now (S1)."""
        return ballot != NO_BALLOT and ballot == self.grants.live(now_s)

    def holds(self, node_id: NodeId, now_s: float) -> bool:
        """As leader: true while `node_id` surely listens to nobody else."""
        return self._leadership is not None and self._leadership.holds(node_id, now_s)

    def grants_held(self, now_s: float) -> int:
        """As leader: machines that grant this one now, itself included; else 0."""
        return 0 if self._leadership is None else self._leadership.count(now_s)

    @property
    def wake_at_s(self) -> float:
        """When `step` must be called with a Tick at the latest."""
        if self._leadership is not None:
            until_s = min(self._leadership.self_until_s, self._candidature.until_s)
            return min(self._leadership.next_heartbeat_s, until_s)
        if self._canvass is not None:
            return self._canvass.deadline_s
        if self.role is Role.FOLLOWING:
            return self.grants.until_s
        may_campaign = self.role is Role.LEADERLESS and self._candidature != NOT_ALLOWED
        return self._campaign_at_s if may_campaign else NEVER

    def step(self, now_s: float, event: ElectionEvent) -> list[ElectionEffect]:
        """Take one event; the effects are to be carried out in order."""
        self._effects = []
        self._pass_time(now_s)
        self._handlers[type(event)](now_s, event)
        self._act_if_due(now_s)
        self._announce(now_s)
        return self._effects

    # --- time -------------------------------------------------------------------------------------------------------

    def _pass_time(self, now_s: float) -> None:
        """What ended by itself has ended before anything else is looked at (S1 for machines that slept)."""
        if now_s >= self._candidature.until_s:
            self._end_candidacy(now_s)
        if self._leadership is not None and now_s >= self._leadership.self_until_s:
            self._step_down(now_s, Trigger.LEASE_OVER)
        if self.role is Role.FOLLOWING and self.grants.live(now_s) == NO_BALLOT:
            self._lose_leader(now_s)

    def _act_if_due(self, now_s: float) -> None:
        """After the event, so that a grant request in hand goes before our own campaign."""
        if self.role is Role.LEADERLESS and self._candidature != NOT_ALLOWED and now_s >= self._campaign_at_s:
            self._begin_canvass(now_s)
        if self._canvass is not None:
            self._decide_canvass(now_s)
        if self._leadership is not None and now_s >= self._leadership.next_heartbeat_s:
            self._heartbeat(now_s)

    def _leader_and_ballot(self, now_s: float) -> tuple[NodeId | None, Ballot]:
        if self._leadership is not None:
            leads = now_s < self._leadership.self_until_s
            return (self.self_id, self._leadership.ballot) if leads else (None, NO_BALLOT)
        if self.role is not Role.FOLLOWING:
            return None, NO_BALLOT
        live = self.grants.live(now_s)
        return (None, NO_BALLOT) if live == NO_BALLOT else (live.node_id, live)

    def _announce(self, now_s: float) -> None:
        current = self._leader_and_ballot(now_s)
        if current != self._announced:
            self._announced = current
            self._effects.append(LeadershipChanged(*current))

    def _become(self, trigger: Trigger) -> None:
        following = TRANSITIONS.get((self.role, trigger))
        if following is None:
            raise IllegalTransition(f"{self.role.value}: {trigger.value}")
        self.role = following

    def _send(self, peers: Iterable[NodeId], message: Any) -> None:
        self._effects.extend(Send(peer, message) for peer in peers)

    def _campaign_soon(self, now_s: float) -> None:
        pause_s = self._timing.campaign_settle_s + self._jitter() * self._timing.campaign_jitter_s + self._handicap_s
        self._campaign_at_s = max(now_s + pause_s, self.grants.abstains_until_s)

    # --- whether this machine may stand -----------------------------------------------------------------------------

    def _on_candidacy_opened(self, now_s: float, event: CandidacyOpened) -> None:
        if now_s < event.candidature.until_s:
            self._candidature = event.candidature

    def _end_candidacy(self, now_s: float) -> None:
        """A ballot that is being written becomes a promise, but no leadership."""
        if self._candidature == NOT_ALLOWED:
            return
        self._candidature = NOT_ALLOWED
        if self._leadership is not None:
            self._step_down(now_s, Trigger.CANDIDACY_OVER)
        elif self._canvass is not None:
            self._canvass = None
            self._become(Trigger.CANDIDACY_OVER)
        elif self.role is Role.STANDING:
            self.grants.void_pending()

    # --- canvassing: the pre-vote -----------------------------------------------------------------------------------

    def _begin_canvass(self, now_s: float) -> None:
        if not self.grants.durable(now_s):
            self._campaign_at_s = self.grants.durable_again_s
            return
        if self.grants.pending is not None:
            self._campaign_at_s = now_s + self._timing.canvass_retry_s
            return
        self._become(Trigger.CAMPAIGN_DUE)
        self._rounds += 1
        ballot = self._next_ballot(self.grants.promise.ballot)
        deadline_s = now_s + self._timing.pre_vote_timeout_s
        self._canvass = Canvass(ballot, self._rounds, deadline_s, set(self._links), highest=self.grants.promise.ballot)
        self._send(self._links, PreVoteRequest(ballot, self._rounds))

    def _decide_canvass(self, now_s: float) -> None:
        assert self._canvass is not None
        unanswered = any(self._links.get(peer, False) for peer in self._canvass.waiting)
        verdict = self._canvass.verdict(now_s, unanswered)
        if verdict is Verdict.WON:
            self._stand(now_s, self._canvass.highest)
        elif verdict is not Verdict.OPEN:
            self._lose_canvass(now_s, verdict)

    def _lose_canvass(self, now_s: float, verdict: Verdict) -> None:
        self._canvass = None
        self._become(Trigger.PRE_VOTE_LOST)
        if verdict is Verdict.OUTBID:
            self._campaign_at_s = now_s + self._timing.courtesy_s + self._jitter() * self._timing.campaign_jitter_s
            return
        self._campaign_at_s = now_s + canvass_retry_s(self._canvasses_lost, self._jitter(), self._timing)
        self._canvasses_lost += 1

    def _stand(self, now_s: float, highest: Ballot) -> None:
        """Nobody objects: promise oneself a ballot above all that were heard of; leading begins when it is on disk."""
        self._canvass = None
        self._become(Trigger.PRE_VOTE_WON)
        self._promise_self(now_s, max(highest, self.grants.promise.ballot))

    def _promise_self(self, now_s: float, above: Ballot) -> None:
        promise = self.grants.begin(now_s, self._next_ballot(above), self._lease_s(), 0)
        self._persist(promise)

    def _next_ballot(self, above: Ballot) -> Ballot:
        """Above `above`, and from the candidature's counter on unless the others would take that for a lie."""
        counter = self._candidature.counter
        floor = counter if counter <= min(COUNTER_MAX, above.counter + COUNTER_LEAP_MAX) else 0
        return max(above.next_for(self.self_id), Ballot(floor, self.self_id))

    def _persist(self, promise: Promise | None) -> None:
        assert promise is not None, "what is above every promise must be written first"
        self._effects.append(Persist(promise))

    def _on_pre_vote_request(self, now_s: float, sender: NodeId, request: PreVoteRequest) -> None:
        claimed = self.grants.claimed(now_s)
        granted = NO_BALLOT if claimed.node_id == sender else claimed
        willing = granted == NO_BALLOT and self._yield_to(now_s, request.ballot)
        reply = PreVoteReply(request.ballot, request.round, willing, self.grants.promise.ballot, granted)
        self._send([sender], reply)
        if self._leadership is not None:
            self._request_grants(now_s, [sender])

    def _yield_to(self, now_s: float, candidate: Ballot) -> bool:
        """Between candidates at the same moment the higher ballot goes first; the others hold back for a while."""
        if self._canvass is not None:
            if self._canvass.ballot > candidate:
                return False
            self._lose_canvass(now_s, Verdict.OUTBID)
        elif self.role is Role.LEADERLESS and self._courtesies < self._timing.courtesies_max:
            self._courtesies += 1
            self._campaign_at_s = max(self._campaign_at_s, now_s + self._timing.courtesy_s)
        return True

    def _on_pre_vote_reply(self, now_s: float, sender: NodeId, reply: PreVoteReply) -> None:
        if self._canvass is not None:
            self._canvass.take(sender, reply)

    # --- leading ----------------------------------------------------------------------------------------------------

    def _lease_s(self) -> float:
        return lease_s(len(self._links) + 1, self._timing)

    def _lead(self, now_s: float, ballot: Ballot) -> None:
        self._become(Trigger.BALLOT_DURABLE)
        self._canvasses_lost = self._courtesies = 0
        self._leadership = Leadership(self.self_id, ballot, NEVER, now_s)

    def _heartbeat(self, now_s: float) -> None:
        """Renew the grant of oneself and ask all others."""
        leadership = self._leadership
        assert leadership is not None
        lease = self._lease_s()
        durable_lease_s = min(lease, self.grants.promise.lease_s)
        self.grants.begin(now_s, leadership.ballot, durable_lease_s, 0)
        if lease > durable_lease_s and self.grants.pending is None and self.grants.durable(now_s):
            self._persist(self.grants.begin(now_s, leadership.ballot, lease, 0))
        leadership.drop_expired(now_s)
        leadership.self_until_s = now_s + leader_lease_s(durable_lease_s, self._timing)
        leadership.next_heartbeat_s = now_s + heartbeat_interval_s(len(self._links) + 1, self._timing)
        self._request_grants(now_s, list(self._links))

    def _request_grants(self, now_s: float, peers: list[NodeId]) -> None:
        leadership = self._leadership
        assert leadership is not None
        if peers:
            self._rounds += 1
            lease = self._lease_s()
            leadership.note_sent(now_s, self._rounds, lease)
            held = leadership.count(now_s)
            self._send(peers, GrantRequest(leadership.ballot, self._rounds, lease, held))

    def _on_grant_reply(self, now_s: float, sender: NodeId, reply: GrantReply) -> None:
        leadership = self._leadership
        if leadership is None:
            return
        if reply.granted:
            new = not leadership.holds(sender, now_s)
            leadership.take(sender, reply, self._timing)
            if new and leadership.holds(sender, now_s):
                self._effects.append(FollowerGained(sender))
        elif reply.reason == Refusal.STALE.value:
            self._rise_above(now_s, reply.promised)
        elif reply.reason == Refusal.LIVE_GRANT.value:
            another = reply.promised.node_id not in (sender, self.self_id, "")
            if another and leadership.count(now_s) == 1:
                self._step_down(now_s, Trigger.OUTRANKED)

    def _rise_above(self, now_s: float, promised: Ballot) -> None:
        """Go on leading under a ballot above `promised`; the old one holds until the new one is on disk."""
        assert self._leadership is not None
        if promised <= self._leadership.ballot or self.grants.pending is not None or not self.grants.durable(now_s):
            return
        self._promise_self(now_s, max(promised, self.grants.promise.ballot))

    def _step_down(self, now_s: float, trigger: Trigger) -> None:
        """Stop first, then say so: the others may grant another leader as soon as they hear it."""
        assert self._leadership is not None
        ballot = self._leadership.ballot
        self._leadership = None
        self._become(trigger)
        self.grants.end(self.self_id)
        self._send(self._links, LeaseReleased(ballot))
        self._campaign_soon(now_s)
        self._campaign_at_s += self._timing.courtesy_s

    def _meet_rival(self, now_s: float, sender: NodeId, request: GrantRequest) -> None:
        """Two leaders meet: more grants win, ties by id. The winner rises above the other's ballot (S2)."""
        assert self._leadership is not None
        if (request.grants_held, sender) > (self._leadership.count(now_s), self.self_id):
            self._step_down(now_s, Trigger.OUTRANKED)
        else:
            self._rise_above(now_s, request.ballot)
            self._request_grants(now_s, [sender])

    # --- granting ---------------------------------------------------------------------------------------------------

    def _on_grant_request(self, now_s: float, sender: NodeId, request: GrantRequest) -> None:
        if request.ballot.node_id != sender or sender == self.self_id:
            return
        if self._leadership is not None:
            self._meet_rival(now_s, sender, request)
        refusal = Refusal.STOPPED if self.role is Role.STOPPED else self._refusal(now_s, request)
        if refusal is not None:
            self._reply(now_s, sender, request.ballot, request.round, refusal)
            return
        promise = self.grants.begin(now_s, request.ballot, request.lease_s, request.round)
        if promise is not None:
            if self._canvass is not None:
                self._lose_canvass(now_s, Verdict.LEADER_LIVES)
            self._effects.append(Persist(promise))
        elif self.grants.pending is None:
            self._follow()
            self._reply(now_s, sender, request.ballot, request.round, None)

    def _refusal(self, now_s: float, request: GrantRequest) -> Refusal | None:
        return self.grants.refusal(now_s, request.ballot, request.lease_s)

    def _reply(self, now_s: float, to: NodeId, ballot: Ballot, round_: int, refusal: Refusal | None) -> None:
        """`promised` names the live leader where one is the reason."""
        promised = self.grants.promise.ballot
        if refusal is Refusal.LIVE_GRANT:
            promised = self.grants.claimed(now_s)
        reason = "" if refusal is None else refusal.value
        self._send([to], GrantReply(ballot, round_, refusal is None, promised, reason))

    def _follow(self) -> None:
        self._canvass = None
        self._canvasses_lost = self._courtesies = 0
        self._become(Trigger.GRANTED)

    def _lose_leader(self, now_s: float) -> None:
        self._become(Trigger.GRANT_ENDED)
        self._campaign_soon(now_s)

    def _on_lease_released(self, now_s: float, sender: NodeId, message: LeaseReleased) -> None:
        if self._leadership is not None and message.ballot == self._leadership.ballot:
            self._leadership.held.pop(sender, None)
        elif message.ballot.node_id == sender and message.ballot >= self.grants.claimed(now_s):
            self._end_grant_of(now_s, sender)

    def _end_grant_of(self, now_s: float, leader: NodeId) -> None:
        if self.grants.end(leader) and self.role is Role.FOLLOWING:
            self._lose_leader(now_s)

    # --- the disk ---------------------------------------------------------------------------------------------------

    def _on_persisted(self, now_s: float, event: Persisted) -> None:
        pending = self.grants.written(now_s, event.promise)
        own = event.promise.ballot.node_id == self.self_id
        if own:
            self._own_ballot_written(now_s, event.promise.ballot, pending is not None)
        elif pending is not None and self.role is not Role.STOPPED:
            self._follow()
            self._reply(now_s, pending.ballot.node_id, pending.ballot, pending.round, None)

    def _own_ballot_written(self, now_s: float, ballot: Ballot, in_time: bool) -> None:
        if self.role is Role.STANDING:
            if in_time:
                self._lead(now_s, ballot)
            else:
                self._become(Trigger.BALLOT_FAILED)
                self._campaign_soon(now_s)
        elif self._leadership is not None and ballot > self._leadership.ballot:
            self._leadership.ballot = ballot
            self._leadership.next_heartbeat_s = now_s

    def _on_persist_failed(self, now_s: float, event: PersistFailed) -> None:
        pending = self.grants.not_written(now_s, event.promise)
        if pending.ballot.node_id != self.self_id:
            self._reply(now_s, pending.ballot.node_id, pending.ballot, pending.round, Refusal.NOT_DURABLE)
        elif self.role is Role.STANDING:
            self._become(Trigger.BALLOT_FAILED)
            self._campaign_soon(now_s)

    # --- links ------------------------------------------------------------------------------------------------------

    def _on_received(self, now_s: float, event: ElectionReceived) -> None:
        if self._absurd(event.message) or event.sender == self.self_id:
            return
        if self.role is not Role.STOPPED or isinstance(event.message, GrantRequest):
            self._receivers[type(event.message)](now_s, event.sender, event.message)

    def _absurd(self, message: ElectionMessage) -> bool:
        """It names a ballot that no honest history led to."""
        highest = min(COUNTER_MAX, self.grants.promise.ballot.counter + COUNTER_LEAP_MAX)
        named = [message.ballot]
        if isinstance(message, PreVoteReply | GrantReply):
            named.append(message.promised)
        return any(ballot.counter > highest for ballot in named)

    def _on_linked(self, now_s: float, event: PeerLinked) -> None:
        self._links[event.peer] = True
        if self._leadership is not None:
            self._request_grants(now_s, [event.peer])

    def _on_unlinked(self, now_s: float, event: PeerUnlinked) -> None:
        self._links.pop(event.peer, None)
        if self._canvass is not None:
            self._canvass.waiting.discard(event.peer)

    def _on_gone(self, now_s: float, event: PeerGone) -> None:
        """The process that we granted has ended, so nobody leads under that ballot: no need to wait for the lease."""
        if self._leadership is not None:
            self._leadership.held.pop(event.peer, None)
        self._end_grant_of(now_s, event.peer)

    def _on_fresh(self, now_s: float, event: PeerFresh) -> None:
        if event.peer in self._links:
            self._links[event.peer] = event.fresh

    def _on_deputy_changed(self, now_s: float, event: DeputyChanged) -> None:
        self._handicap_s = 0.0 if event.deputy else self._timing.campaign_handicap_s
        if self.role is Role.LEADERLESS:
            self._campaign_at_s = max(self._campaign_at_s, now_s + self._handicap_s)

    def _on_stop(self, now_s: float, event: StopRequested) -> None:
        """Hand over at once: as leader by releasing the lease, as follower by withdrawing the grant."""
        if self.role is Role.STOPPED:
            return
        leader, ballot = self._leader_and_ballot(now_s)
        self._canvass = self._leadership = None
        self._become(Trigger.STOP)
        self.grants.void_pending()
        if leader is not None:
            self.grants.end(leader)
            self._send(self._links if leader == self.self_id else [leader], LeaseReleased(ballot))
