"""Who shares fairly with whom: the name under which a request's tokens are counted, its class, what leaders said of it.

A user is the owner of the API key. Requests without a key come from the gateway's own machine: they are that machine's,
apart by the OpenAI field `user` where one is given, since one local program may serve many people. That field is the
client's own word, hence only told apart within a machine whose clients are trusted anyway, and hashed: it may be a
person's address, and travels to the leader.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from hashlib import blake2b

from covey_mesh.core.asking import Ask
from covey_mesh.core.names import NodeId

INTERACTIVE, NORMAL, BATCH = 0, 1, 2
CLASSES: Mapping[str, int] = {"interactive": INTERACTIVE, "normal": NORMAL, "batch": BATCH}
SERVICE_TIERS: Mapping[bytes, int] = {b'"priority"': INTERACTIVE, b'"flex"': BATCH}
"""OpenAI's field; every other value is NORMAL."""

USERS_REMEMBERED_MAX = 4096
AHEAD_REMEMBERED_S = 60.0
"""What a leader said of a user is worth nothing later: the user has idled, or others have caught up."""


def sharing_name(owner: str, machine: NodeId, user_field: bytes) -> str:
    """`owner` of the key, "" without one; `user_field`: the raw JSON of `user`, b"" if absent. Bounded in length."""
    if owner:
        return owner
    name = f"local:{machine[:16]}"
    if not user_field or user_field == b"null":
        return name
    return f"{name}/{blake2b(user_field, digest_size=8).hexdigest()}"


def class_of(asked: int | None, service_tier: bytes, best: int) -> int:
    """`asked` by header or metadata (None: not), which `service_tier` (raw JSON) stands in for; never better than
    `best`, what the key may use."""
    wanted = asked
    if wanted is None:
        wanted = SERVICE_TIERS.get(service_tier, NORMAL) if service_tier else NORMAL
    return wanted if wanted > best else best


class UsersAhead:
    """How far the last leader said that each user is ahead, for the next one. Bounded; the oldest word goes first."""

    def __init__(self) -> None:
        self._told: OrderedDict[tuple[str, str], tuple[NodeId, int, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._told)

    def told(self, leader: NodeId, model: str, user: str, tokens: int, now_s: float) -> None:
        key = (model, user)
        if tokens <= 0:
            self._told.pop(key, None)
            return
        self._told[key] = (leader, tokens, now_s)
        self._told.move_to_end(key)
        while len(self._told) > USERS_REMEMBERED_MAX:
            self._told.popitem(last=False)

    def for_leader(self, leader: NodeId, ask: Ask, now_s: float) -> int:
        """0 where this leader said it itself, or nobody did lately."""
        told = self._told.get((ask.model, ask.user))
        if told is None:
            return 0
        by, tokens, at_s = told
        return tokens if by != leader and now_s - at_s <= AHEAD_REMEMBERED_S else 0
