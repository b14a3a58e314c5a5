"""Virtual time, and agents' event loops that do one thing after the other."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass

Act = Callable[[], None]

LINK_S = 0.0005
"""One way between two machines."""


@dataclass(frozen=True, slots=True)
class Costs:
    """Seconds of an agent's loop for one of each: a request's arrival, its start, an ask or its answer, any other
    message, an answer's end. About what an agent takes on the machine that the figures are from."""

    arrival_s: float = 0.0004
    start_s: float = 0.0004
    ask_s: float = 0.0002
    message_s: float = 0.0001
    end_s: float = 0.0003


class Clock:
    """What happens at which time; of equal times, in the order in which it was planned."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self._planned: list[tuple[float, int, Act]] = []
        self._count = 0

    def at(self, at_s: float, act: Act) -> None:
        self._count += 1
        heapq.heappush(self._planned, (max(at_s, self.now_s), self._count, act))

    def run_while(self, wanted: Callable[[], bool]) -> None:
        while self._planned and wanted():
            self.now_s, _, act = heapq.heappop(self._planned)
            act()


class Loop:
    """One agent's. `slowness` multiplies what everything costs it: a machine whose CPU others use."""

    def __init__(self, clock: Clock, slowness: float) -> None:
        self.clock = clock
        self._slowness = slowness
        self._busy_until_s = 0.0

    def do(self, cost_s: float, act: Act, after_s: float = 0.0) -> None:
        """`after_s` from now at the earliest, behind what this loop has to do before."""
        self.clock.at(self.clock.now_s + after_s, lambda: self._queue(cost_s, act))

    def _queue(self, cost_s: float, act: Act) -> None:
        self._busy_until_s = max(self._busy_until_s, self.clock.now_s) + cost_s * self._slowness
        self.clock.at(self._busy_until_s, act)
