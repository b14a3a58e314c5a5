"""How many lines of batches are in flight for one model: as many as the pool takes, and a few more.

The ceiling follows the slots of the machines that offer the model; below it additive increase and multiplicative
decrease (Chiu and Jain, 1989) answer to "busy". The few beyond the slots wait at the leader, which hands them to
whichever machine is free first: that is the work stealing at the tail. Lines have the class "batch": people go first.
"""

from __future__ import annotations

import math

from covey_gateway.core.batches.settings import BatchSettings
from covey_mesh.core.facts import PoolView

BUSY_COUNTS_AGAIN_AFTER_S = 0.5
"""Refusals of one moment are one signal."""


def slots(view: PoolView, model: str, settings: BatchSettings) -> int:
    """Requests that the reachable machines may run for batches at once; 0 where nobody offers the model."""
    found = 0
    for member in view.members.values():
        load = member.load.model(model)
        if member.reachable and not member.load.draining and load is not None and load.ready:
            found += max(1, math.floor((load.running_limit or settings.slots_assumed) * settings.slots_share))
    return found


class Window:
    """For one model. Starts at the ceiling: the leader's queue keeps order from the first moment."""

    def __init__(self, settings: BatchSettings) -> None:
        self._settings = settings
        self._ceiling = 0
        self._size = 0.0
        self._quiet_until_s = float("-inf")

    @property
    def size(self) -> int:
        """Lines that may be in flight now; 0 while nobody offers the model."""
        return min(self._ceiling, max(1, int(self._size))) if self._ceiling else 0

    def follow(self, slots_now: int) -> None:
        """The pool has grown or shrunk."""
        settings = self._settings
        ahead = max(settings.ahead_min, math.ceil(slots_now * settings.ahead_share))
        ceiling = min(settings.in_flight_max, slots_now + ahead) if slots_now else 0
        if ceiling > self._ceiling:
            self._size += ceiling - self._ceiling
        self._ceiling = ceiling
        self._size = min(self._size, float(ceiling))

    def answered(self) -> None:
        """One more for each windowful of answers."""
        self._size = min(float(self._ceiling), self._size + 1 / max(1.0, self._size))

    def busy(self, now_s: float) -> None:
        """The pool had no room for a line: half as many, once for each burst of refusals."""
        if now_s >= self._quiet_until_s:
            self._quiet_until_s = now_s + BUSY_COUNTS_AGAIN_AFTER_S
            self._size = max(1.0, self._size / 2)


def share(size: int, jobs: int) -> int:
    """Lines that each of `jobs` batches of one model may have in flight."""
    return max(1, math.ceil(size / max(1, jobs))) if size else 0
