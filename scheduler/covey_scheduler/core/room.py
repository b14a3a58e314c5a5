"""How much of a machine an ask may take while others could come: headroom for users below their fair share.

Without it a flood by one user fills every place, and the next user waits until some answer has ended. So who holds
more of a machine than a fair share (places / (users + 1): one more may come at any moment), and batch work while there
is other work, leaves some of its places and KV cache free. And a user who has work on a machine gets the next prompt
computed there only when the prompts before it are nearly done: another's then waits for one prompt at most. Nobody is
stopped: what is left is most of the machine, and the machine is kept busy. One machine may be kept from long prompts
(keeping.py).

Not here: whose turn it is (queue.py), what is counted (holdings.py).
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping
from typing import NamedTuple

from covey_mesh.core.names import NodeId
from covey_scheduler.core.clean_ask import PRIORITY_LOWEST
from covey_scheduler.core.settings import SchedulerSettings

NEVER = float("-inf")


class Here(NamedTuple):
    """What one ask may take of one machine. `kept` and `kept_places`: share of places and of KV cache, and at least so
    many places, left to others; `ahead_s`: most seconds of prompts before it; `by_step`: and of the engine's step that
    computes the last of them; `batch_full`: no more batch work; `longest_s`: no prompt that takes longer."""

    kept: float
    kept_places: int
    ahead_s: float
    batch_full: bool = False
    by_step: bool = False
    longest_s: float = math.inf

    def places(self, limit: int) -> int:
        """Of `limit` those that the ask may be the last of; never less than one."""
        return max(1, limit - max(int(limit * self.kept), self.kept_places))


class Kept(NamedTuple):
    """A machine that gets no prompt which takes it longer than `longest_s` (keeping.py)."""

    node_id: NodeId
    longest_s: float


class Room(NamedTuple):
    """Of one ask, for all machines. `held`: places that its user holds, by machine, with `users` active, the user
    included; `batch`: places with batch work, by machine, None where the ask is none or may take all; `kept`: the
    machine that is kept for others."""

    held: Mapping[NodeId, int]
    users: int
    others: bool
    batch: Mapping[NodeId, int] | None
    settings: SchedulerSettings
    kept: Kept | None = None

    def here(self, node_id: NodeId, limit: int) -> Here:
        """`limit`: places of the machine; 0: unknown, none are kept then."""
        settings, held, yields = self.settings, self.held.get(node_id, 0), self.batch is not None
        late = self.others or yields
        crowding = limit > 0 and (yields or held + 1 > fair_share(limit, self.users))
        one_by_one = late and bool(held or yields)
        kept = self.kept
        return Here(
            settings.headroom if crowding else 0.0,
            1 if crowding and late else 0,
            settings.crowd_ahead_s if one_by_one else settings.start_ahead_s,
            self.batch is not None and limit > 0 and self.batch.get(node_id, 0) >= self._batch_places(limit),
            one_by_one,
            kept.longest_s if kept is not None and kept.node_id == node_id else math.inf,
        )

    def _batch_places(self, limit: int) -> int:
        return max(1, int(limit * self.settings.batch_share))


def fair_share(places: int, users: int) -> int:
    """Places of a machine that a user may hold and still count as light, with `users` active, the user included."""
    return max(1, places // (users + 1))


class _Heard:
    """Of one model: the user heard last and when, when another one was before, and when anything above batch work."""

    __slots__ = ("before_s", "last_s", "last_user", "pressing_s")

    def __init__(self, user: str) -> None:
        self.last_user = user
        self.last_s = self.before_s = self.pressing_s = NEVER


class Audience:
    """Who was heard lately, by model: enough to say whether anybody else was. Two users are remembered, not all."""

    def __init__(self, settings: SchedulerSettings) -> None:
        self._settings = settings
        self._models: OrderedDict[str, _Heard] = OrderedDict()

    def heard(self, model: str, user: str, priority: int, now_s: float) -> None:
        heard = self._models.get(model)
        if heard is None:
            heard = self._models[model] = _Heard(user)
            if len(self._models) > self._settings.models_max:
                self._models.popitem(last=False)
        else:
            self._models.move_to_end(model)
        if heard.last_user != user:
            heard.last_user, heard.before_s = user, heard.last_s
        heard.last_s = now_s
        if priority < PRIORITY_LOWEST:
            heard.pressing_s = now_s

    def others(self, model: str, user: str, now_s: float) -> bool:
        """True if a user other than this one was heard within `others_remembered_s`."""
        heard = self._models.get(model)
        if heard is None:
            return False
        at_s = heard.last_s if heard.last_user != user else heard.before_s
        return now_s - at_s <= self._settings.others_remembered_s

    def pressing(self, model: str, now_s: float) -> bool:
        """True if work above batch was heard within `pressing_remembered_s`."""
        heard = self._models.get(model)
        return heard is not None and now_s - heard.pressing_s <= self._settings.pressing_remembered_s

    def clear(self) -> None:
        self._models.clear()
