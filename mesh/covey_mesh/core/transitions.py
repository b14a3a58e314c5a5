"""Every change of a machine's role in the pool's leadership, as one table.

Not here: what else happens on a change, and when (election.py and its parts).
"""

from __future__ import annotations

import enum
from types import MappingProxyType


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
