"""How much of a machine an ask may take while others could come: headroom for users below their fair share.

Without it a flood by one user fills every place, and the next user waits until some answer has ended. So who holds
more than a fair share (places / (users + 1): one more may come at any moment), and batch work while there is other
work, leaves some places and some KV cache free on each machine, and gives a machine its next prompt only when the last
one is nearly computed. Everybody else may take what is there. Nobody is stopped: what is left is most of the machine.

Not here: whose turn it is (queue.py), what is counted (inflight.py).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import NamedTuple

from covey_mesh.core.names import NodeId
from covey_scheduler.core.clean_ask import PRIORITY_LOWEST
from covey_scheduler.core.settings import SchedulerSettings

NOBODY: Mapping[NodeId, int] = {}


class Room(NamedTuple):
    """`kept`: share of places and KV cache left to others; `kept_places` at least so many; `ahead_s`: most seconds of
    prompts before the ask. Of `batch_share` of the places, `batch` are taken, by machine."""

    kept: float
    kept_places: int
    ahead_s: float
    batch_share: float = 1.0
    batch: Mapping[NodeId, int] = NOBODY

    def places(self, limit: int) -> int:
        """Of `limit` (0: unknown) those that the ask may be the last of; never less than one."""
        return max(1, limit - max(int(limit * self.kept), self.kept_places)) if limit else 0

    def batch_places(self, limit: int) -> int:
        return max(1, int(limit * self.batch_share)) if limit else 0


def fair_share(places: int, users: int) -> int:
    """Places that a user may hold and still count as light, with `users` active, the user included."""
    return max(1, places // (users + 1))


def room_of(crowding: bool, batch: bool, others: bool, settings: SchedulerSettings) -> Room | None:
    """None: all of the machine. `batch`: batch work beside other work; `others`: another user was heard lately."""
    if not (crowding or batch):
        return None
    late = others or batch
    return Room(
        settings.headroom,
        1 if late else 0,
        settings.crowd_ahead_s if late else settings.start_ahead_s,
        settings.batch_share if batch else 1.0,
    )


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
