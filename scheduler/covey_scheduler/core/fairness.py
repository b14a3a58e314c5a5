"""Token fairness between users: virtual token counters (Sheng et al., "Fairness in Serving Large Language Models",
OSDI 2024). The user with the lowest counter goes first; service raises the counter; who comes back after a pause is
lifted to the others, so that idling earns no credit.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection


class VirtualCounters:
    """One counter a user, bounded: the user unseen for longest is forgotten, and would be lifted on return anyway."""

    def __init__(self, users_max: int) -> None:
        self._users_max = users_max
        self._counters: OrderedDict[str, float] = OrderedDict()
        self._floor = 0.0

    def __len__(self) -> int:
        return len(self._counters)

    def of(self, user: str) -> float:
        return self._counters.get(user, self._floor)

    def join(self, user: str, waiting: Collection[str]) -> None:
        """`user` had no request waiting and now has one; `waiting` are the other users that have."""
        lowest = min((self.of(other) for other in waiting), default=self._floor)
        self._set(user, max(self._counters.get(user, 0.0), lowest))

    def charge(self, user: str, tokens: float, last_waiting: bool) -> None:
        """`tokens` weighted; negative to correct. `last_waiting`: with this the queue became empty."""
        self._set(user, max(0.0, self.of(user) + tokens))
        if last_waiting:
            self._floor = self._counters[user]

    def _set(self, user: str, value: float) -> None:
        self._counters[user] = value
        self._counters.move_to_end(user)
        while len(self._counters) > self._users_max:
            self._counters.popitem(last=False)
