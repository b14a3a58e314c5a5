"""Requests that have arrived and not begun: whose is begun next.

A thousand requests that arrive in one moment would keep this machine's loop for most of a second, and everything else
on it would wait: answers that pass through, what other machines open here, another user's request. So only a few are
begun at each turn of the loop, and users take turns.

Not here: the loop (io/runner.py), whose turn it is at the leader (covey_scheduler.core.queue).
"""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import Generic, TypeVar

STARTS_A_TURN = 8
"""Requests begun at one turn of the loop: two or three milliseconds."""

Item = TypeVar("Item")


class FairStarts(Generic[Item]):
    """Holds no more than the gateway's requests in flight, whose number is bounded."""

    def __init__(self) -> None:
        self._lines: OrderedDict[str, deque[Item]] = OrderedDict()

    def __bool__(self) -> bool:
        return bool(self._lines)

    def add(self, user: str, item: Item) -> None:
        line = self._lines.get(user)
        if line is None:
            self._lines[user] = deque((item,))
        else:
            line.append(item)

    def take(self, count: int = STARTS_A_TURN) -> list[Item]:
        """At most so many: one of each user in turn, each user's own in order of arrival."""
        taken: list[Item] = []
        while self._lines and len(taken) < count:
            user, line = self._lines.popitem(last=False)
            taken.append(line.popleft())
            if line:
                self._lines[user] = line
        return taken
