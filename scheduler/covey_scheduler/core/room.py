"""How much of a machine an ask may take while others could come: headroom for users below their fair share.

Without it a flood by one user fills every place, and the next user waits until some answer has ended. So who holds
more of a machine than a fair share (places / (users + 1): one more may come at any moment), and batch work while there
is other work, leaves some of its places and KV cache free. And a user who has work on a machine gets the next prompt
computed there only when the prompts before it are nearly done: another's then waits for one prompt at most. Nobody is
stopped: what is left is most of the machine, and the machine is kept busy.

Not here: whose turn it is (queue.py), what is counted (holdings.py).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import NamedTuple

from covey_mesh.core.names import NodeId
from covey_scheduler.core.clean_ask import PRIORITY_LOWEST
from covey_scheduler.core.settings import SchedulerSettings

NOBODY: Mapping[NodeId, int] = {}


class Here(NamedTuple):
    """What one ask may take of one machine. `kept` and `kept_places`: share of places and of KV cache, and at least so
    many places, left to others; `ahead_s`: most seconds of prompts before it; `by_step`: and of the engine's step that
    computes the last of them; `batch_full`: no more batch work."""

    kept: float
    kept_places: int
    ahead_s: float
    batch_full: bool = False
    by_step: bool = False

    def places(self, limit: int) -> int:
        """Of `limit` those that the ask may be the last of; never less than one."""
        return max(1, limit - max(int(limit * self.kept), self.kept_places))


class Room(NamedTuple):
    """Of one ask, for all machines. `held`: places that its user holds, by machine, with `users` active, the user
    included; `batch`: places with batch work, by machine, None where the ask is none or may take all."""

    held: Mapping[NodeId, int]
    users: int
    others: bool
    batch: Mapping[NodeId, int] | None
    settings: SchedulerSettings

    def here(self, node_id: NodeId, limit: int) -> Here:
        """`limit`: places of the machine; 0: unknown, none are kept then."""
        settings, held, yields = self.settings, self.held.get(node_id, 0), self.batch is not None
        late = self.others or yields
        crowding = limit > 0 and (yields or held + 1 > fair_share(limit, self.users))
        one_by_one = late and bool(held or yields)
        return Here(
            settings.headroom if crowding else 0.0,
            1 if crowding and late else 0,
            settings.crowd_ahead_s if one_by_one else settings.start_ahead_s,
            self.batch is not None and limit > 0 and self.batch.get(node_id, 0) >= self._batch_places(limit),
            one_by_one,
        )

    def _batch_places(self, limit: int) -> int:
        return max(1, int(limit * self.settings.batch_share))


def fair_share(places: int, users: int) -> int:
    """Places of a machine that a user may hold and still count as light, with `users` active, the user included."""
    return max(1, places // (users + 1))


class Audience:
    """Who was heard lately, by model: enough to say whether anybody else was. Two users are remembered, not all."""

    def __init__(self, settings: SchedulerSettings) -> None:
        self._settings = settings
        self._users: OrderedDict[str, OrderedDict[str, float]] = OrderedDict()
        self._pressing_at_s: OrderedDict[str, float] = OrderedDict()

    def heard(self, model: str, user: str, priority: int, now_s: float) -> None:
        users = self._users.get(model)
        if users is None:
            users = self._users[model] = OrderedDict()
        users[user] = now_s
        users.move_to_end(user)
        if len(users) > 2:
            users.popitem(last=False)
        self._users.move_to_end(model)
        if priority < PRIORITY_LOWEST:
            self._pressing_at_s[model] = now_s
            self._pressing_at_s.move_to_end(model)
        if len(self._users) > self._settings.models_max:
            forgotten, _ = self._users.popitem(last=False)
            self._pressing_at_s.pop(forgotten, None)

    def others(self, model: str, user: str, now_s: float) -> bool:
        """True if a user other than this one was heard within `others_remembered_s`."""
        heard: Mapping[str, float] = self._users.get(model, {})
        within_s = self._settings.others_remembered_s
        return any(name != user and now_s - at_s <= within_s for name, at_s in heard.items())

    def pressing(self, model: str, now_s: float) -> bool:
        """True if work above batch was heard within `pressing_remembered_s`."""
        return now_s - self._pressing_at_s.get(model, float("-inf")) <= self._settings.pressing_remembered_s

    def clear(self) -> None:
        self._users.clear()
        self._pressing_at_s.clear()
