"""Token fairness between users: virtual token counters (Sheng et al., "Fairness in Serving Large Language Models",
OSDI 2024). The user with the lowest counter goes first; service raises the counter; who comes back after a pause is
lifted to the others, so that idling earns no credit.

A request is charged for its expected answer when it starts, so that users take turns at once. Who joins is lifted to
what the others have certainly been given: an expected answer may turn out short, and must not put the newcomer behind.

Only differences between users matter. How far one is ahead of the one served least outlives a leader: it travels with
each assignment to the user's gateway, and from there to the next leader.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection

AHEAD_TOKENS_MAX = 1_000_000.0
"""No more is believed of what a gateway says of an earlier leader's count: ten long contexts."""


class VirtualCounters:
    """One counter a user, bounded: the user unseen for longest is forgotten, and would be lifted on return anyway."""

    def __init__(self, users_max: int, uncertain: Callable[[str], float] = lambda user: 0.0) -> None:
        """`uncertain`: how much of a user's charge is for answers that have not ended."""
        self._users_max = users_max
        self._uncertain = uncertain
        self._counters: OrderedDict[str, float] = OrderedDict()
        self._floor = 0.0

    def __len__(self) -> int:
        return len(self._counters)

    def of(self, user: str) -> float:
        return self._counters.get(user, self._floor)

    def ahead(self, user: str, waiting: Collection[str]) -> float:
        """Weighted tokens by which `user` was served more than whoever of `waiting` was served least; at least 0."""
        return max(0.0, self._certain(user) - self._lowest(waiting))

    def join(self, user: str, waiting: Collection[str], ahead: float = 0.0) -> None:
        """`user` had no request waiting and now has one; `waiting` are the other users that have. `ahead`: what an
        earlier leader had counted, which matters only where this one has counted nothing."""
        lowest = self._lowest(waiting) if waiting else self._floor
        known = self._counters.get(user)
        if known is None:
            known = lowest + min(max(ahead, 0.0), AHEAD_TOKENS_MAX)
        self._set(user, known if known > lowest else lowest)

    def charge(self, user: str, tokens: float, last_waiting: bool) -> None:
        """`tokens` weighted; negative to correct. `last_waiting`: with this the queue became empty."""
        value = self._charged(user, tokens)
        if last_waiting:
            certain = value - self._uncertain(user)
            if certain > self._floor:
                self._floor = certain

    def passed(self, user: str, tokens: float, ahead: float = 0.0) -> None:
        """join(), then served(), where nobody waits before or after."""
        counters, floor = self._counters, self._floor
        value = counters.get(user)
        if value is None:
            value = floor + min(max(ahead, 0.0), AHEAD_TOKENS_MAX)
        elif value < floor:
            value = floor
        value += tokens
        counters[user] = value
        counters.move_to_end(user)
        if len(counters) > self._users_max:
            counters.popitem(last=False)
        certain = value - self._uncertain(user)
        if certain > floor:
            self._floor = certain

    def served(self, user: str, tokens: float, waiting: Collection[str]) -> float:
        """charge(), then ahead(), where nobody waiting means that with this the queue became empty."""
        certain = self._charged(user, tokens) - self._uncertain(user)
        if waiting:
            return max(0.0, certain - self._lowest(waiting))
        if certain > self._floor:
            self._floor = certain
        return 0.0

    def _certain(self, user: str) -> float:
        return self.of(user) - self._uncertain(user)

    def _lowest(self, waiting: Collection[str]) -> float:
        if not waiting:
            return self._floor
        return max(0.0, min(map(self._certain, waiting)))

    def _charged(self, user: str, tokens: float) -> float:
        value = self._counters.get(user, self._floor) + tokens
        if value < 0.0:
            value = 0.0
        self._set(user, value)
        return value

    def _set(self, user: str, value: float) -> None:
        counters = self._counters
        counters[user] = value
        counters.move_to_end(user)
        if len(counters) > self._users_max:
            counters.popitem(last=False)
