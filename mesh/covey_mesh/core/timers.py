"""Many deadlines, few wake-ups: a heap of keys that tolerates deadlines moving later.

A key that comes due is handed out once; its owner looks whether there is work and schedules it again. Not here: what
a key means.
"""

from __future__ import annotations

import heapq
from collections.abc import Hashable


class Timers:
    """Keys by due time. Costs O(log n) a change and nothing for a deadline that only moved later."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Hashable]] = []
        self._due_s: dict[Hashable, float] = {}
        self._order = 0

    def at(self, key: Hashable, due_s: float) -> None:
        """Wake for `key` at `due_s` or earlier; an earlier wake that is already planned stays."""
        if due_s == float("inf") or self._due_s.get(key, float("inf")) <= due_s:
            return
        self._due_s[key] = due_s
        self._order += 1
        heapq.heappush(self._heap, (due_s, self._order, key))

    def take(self, now_s: float) -> list[Hashable]:
        """The keys that are due, each once, earliest first."""
        taken = []
        while self._heap and self._heap[0][0] <= now_s:
            due_s, _, key = heapq.heappop(self._heap)
            if self._due_s.get(key) == due_s:
                del self._due_s[key]
                taken.append(key)
        return taken

    @property
    def next_s(self) -> float:
        """When the earliest key is due; infinity when there is none."""
        while self._heap and self._due_s.get(self._heap[0][2]) != self._heap[0][0]:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else float("inf")
