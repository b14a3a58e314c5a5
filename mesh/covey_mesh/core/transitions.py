"""What the election does, as two tables: every change of a machine's role, and every answer that changes none.

CHANGES is what the code obeys: a pair that is not in it is our own bug and raises. What either table says of effects is
compared with thousands of random lives (tests/unit/test_election_table.py): nothing else is done, and nothing is left
out. Effects stand in their order; a message stands for sending it, to one machine or to all that are linked.

Before either table counts, a message that names an absurd ballot, or a ballot for somebody else, is dropped; and what
has ended by time is over (Election.step). Not here: when which trigger comes (campaign.py, leading.py, following.py).
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from covey_mesh.core.effects import FollowerGained, LeadershipChanged, Persist
from covey_mesh.core.events import PeerLinked, Persisted, PersistFailed, Tick
from covey_mesh.core.messages import GrantReply, GrantRequest, LeaseReleased, PreVoteReply, PreVoteRequest


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


Kinds = tuple[type[Any], ...]


@dataclass(frozen=True, slots=True)
class Change:
    """To which role, and what comes with it; `effects` are alternatives, each in its order."""

    to: Role
    effects: tuple[Kinds, ...] = ((),)


_RELEASES: tuple[Kinds, ...] = ((LeaseReleased, LeadershipChanged),)
_FOLLOWS: tuple[Kinds, ...] = ((GrantReply, LeadershipChanged),)

CHANGES: Mapping[tuple[Role, Trigger], Change] = MappingProxyType(
    {
        # Nobody is followed; the campaign waits for its time.
        (Role.LEADERLESS, Trigger.GRANTED): Change(Role.FOLLOWING, _FOLLOWS),
        (Role.LEADERLESS, Trigger.CAMPAIGN_DUE): Change(Role.CANVASSING, ((PreVoteRequest,),)),
        (Role.LEADERLESS, Trigger.STOP): Change(Role.STOPPED),
        # The pre-vote is open. Lost to a rival it is answered; lost to a leader, its ballot is written.
        (Role.CANVASSING, Trigger.GRANTED): Change(Role.FOLLOWING, _FOLLOWS),
        (Role.CANVASSING, Trigger.PRE_VOTE_LOST): Change(Role.LEADERLESS, ((), (PreVoteReply,), (Persist,))),
        (Role.CANVASSING, Trigger.PRE_VOTE_WON): Change(Role.STANDING, ((Persist,), ())),
        (Role.CANVASSING, Trigger.CANDIDACY_OVER): Change(Role.LEADERLESS),
        (Role.CANVASSING, Trigger.STOP): Change(Role.STOPPED),
        # The own ballot is being written; or is on disk since a campaign before, for which it came too late.
        (Role.STANDING, Trigger.BALLOT_DURABLE): Change(Role.LEADING, ((GrantRequest, LeadershipChanged),)),
        (Role.STANDING, Trigger.BALLOT_FAILED): Change(Role.LEADERLESS),
        (Role.STANDING, Trigger.STOP): Change(Role.STOPPED),
        # Leading oneself and all who grant. Outranked by a request, that one is refused yet, or its ballot is written.
        (Role.LEADING, Trigger.LEASE_OVER): Change(Role.LEADERLESS, _RELEASES),
        (Role.LEADING, Trigger.OUTRANKED): Change(
            Role.LEADERLESS,
            (
                *_RELEASES,
                (LeaseReleased, GrantReply, LeadershipChanged),
                (LeaseReleased, Persist, LeadershipChanged),
            ),
        ),
        (Role.LEADING, Trigger.CANDIDACY_OVER): Change(Role.LEADERLESS, _RELEASES),
        (Role.LEADING, Trigger.STOP): Change(Role.STOPPED, _RELEASES),
        # A grant is live: renewed, or of the same leader under a higher ballot.
        (Role.FOLLOWING, Trigger.GRANTED): Change(Role.FOLLOWING, ((GrantReply,), *_FOLLOWS)),
        (Role.FOLLOWING, Trigger.GRANT_ENDED): Change(Role.LEADERLESS, ((LeadershipChanged,),)),
        (Role.FOLLOWING, Trigger.STOP): Change(Role.STOPPED, _RELEASES),
    }
)
"""Every legal change of role."""

_ONLY_PRE_VOTE_REPLY: tuple[Kinds, ...] = ((PreVoteReply,),)
_ONLY_GRANT_REPLY: tuple[Kinds, ...] = ((GrantReply,),)
_GRANTING: tuple[Kinds, ...] = ((Persist,), (GrantReply,), ())
"""The ballot is written first; or refused; or being written already."""

ANSWERS: Mapping[tuple[Role, type[Any]], tuple[Kinds, ...]] = MappingProxyType(
    {
        (Role.LEADERLESS, PreVoteRequest): _ONLY_PRE_VOTE_REPLY,
        (Role.CANVASSING, PreVoteRequest): _ONLY_PRE_VOTE_REPLY,
        (Role.STANDING, PreVoteRequest): _ONLY_PRE_VOTE_REPLY,
        (Role.FOLLOWING, PreVoteRequest): _ONLY_PRE_VOTE_REPLY,
        # A leader tells the candidate of itself, and asks for its grant.
        (Role.LEADING, PreVoteRequest): ((PreVoteReply, GrantRequest),),
        (Role.LEADERLESS, GrantRequest): _GRANTING,
        (Role.FOLLOWING, GrantRequest): _GRANTING,
        # Refused: while a canvass may still be lost to it by writing, see CHANGES; an own ballot that is being written
        # and a live grant are not broken; who stops grants nobody.
        (Role.CANVASSING, GrantRequest): _ONLY_GRANT_REPLY,
        (Role.STANDING, GrantRequest): _ONLY_GRANT_REPLY,
        (Role.STOPPED, GrantRequest): _ONLY_GRANT_REPLY,
        # A rival with fewer grants: rise above its ballot, ask for its grant, refuse one's own.
        (Role.LEADING, GrantRequest): ((GrantRequest, GrantReply), (Persist, GrantRequest, GrantReply)),
        # A new follower; a ballot to rise above; a renewal.
        (Role.LEADING, GrantReply): ((FollowerGained,), (Persist,), ()),
        (Role.LEADING, PeerLinked): ((GrantRequest,),),
        # A heartbeat is due, and where the pool has grown, a longer lease is written.
        (Role.LEADING, Tick): ((GrantRequest,), (Persist, GrantRequest), ()),
        # The higher ballot to rise to is on disk; or only the longer lease of the same one.
        (Role.LEADING, Persisted): ((GrantRequest, LeadershipChanged), ()),
        # The leader whose ballot it was is told; one's own is nobody's business.
        (Role.LEADERLESS, PersistFailed): (*_ONLY_GRANT_REPLY, ()),
        (Role.FOLLOWING, PersistFailed): _ONLY_GRANT_REPLY,
        (Role.STOPPED, PersistFailed): (*_ONLY_GRANT_REPLY, ()),
    }
)
"""What follows from an event that changes no role. A pair that is not here has no effect at all."""


class IllegalTransition(AssertionError):
    """The state machine was asked for a change that its table does not have: a bug."""
