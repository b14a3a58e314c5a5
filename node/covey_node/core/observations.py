"""What was seen of a speed, and what follows from it: a bounded window of observations and a robust estimate.

Newer observations weigh more (RANK_DECAY a place), larger ones more than small ones within limits. An observation may
be corrected after it was made: how much of a prompt was cached is told at the end of its answer.
"""

from __future__ import annotations

import math
import statistics
from collections import deque
from dataclasses import dataclass
from typing import NamedTuple

from covey_node.core import robust

RANK_DECAY = 0.96
"""Weight of an observation against the next newer one: half of all weight is on the last 17."""

TOLD_ENOUGH = 3
"""With so many certain observations, those with a guess in them do not count."""

SECONDS_MIN = 1e-6
CONFIDENCE_HALF_LIFE_S = 24 * 3600.0
"""Drivers, settings and other programs change: a day-old measurement is worth half."""

CONFIDENT_OBSERVATIONS = 3.0
"""As many observations as this give half of the confidence that any number of them could."""


@dataclass(slots=True)
class Observation:
    """`work` units took `seconds`; `at_s` is when that ended. `told`: nothing about it is a guess."""

    work: float
    seconds: float
    at_s: float
    told: bool = True

    @property
    def pace(self) -> float:
        """Seconds a unit."""
        return self.seconds / self.work


class Estimate(NamedTuple):
    """`pace`: seconds a unit; `spread`: deviation as a share of it; `work`: of a typical observation; `certain`: made
    of observations without a guess."""

    pace: float
    spread: float
    observations: int
    newest_s: float
    work: float
    certain: bool = True


class Window:
    """The last observations of one kind. Estimates are kept until something changes; those of a window that has been
    full once, for `estimated_every_s` between observations, or until `refresh`."""

    __slots__ = ("_behind", "_estimate", "_estimated_every_s", "_kept", "_was_full")

    def __init__(self, length_max: int, estimated_every_s: float = 0.0) -> None:
        self._kept: deque[Observation] = deque(maxlen=length_max)
        self._estimate: Estimate | None = None
        self._estimated_every_s = estimated_every_s
        self._was_full = False
        self._behind = False

    def __len__(self) -> int:
        return len(self._kept)

    def add(self, observation: Observation) -> bool:
        """A guess drives out no certain observations. True: the estimate is another now."""
        if not observation.told and sum([o.told for o in self._kept]) >= TOLD_ENOUGH:
            return False
        self._kept.append(observation)
        changed = self._changed(observation.at_s)
        self._was_full = self._was_full or len(self._kept) == self._kept.maxlen
        return changed

    def remove(self, observation: Observation) -> bool:
        """Safe to call for one that is not in it any more. True: the estimate is another now."""
        kept = [o for o in self._kept if o is not observation]
        if len(kept) == len(self._kept):
            return False
        self._kept = deque(kept, maxlen=self._kept.maxlen)
        return self._changed(observation.at_s)

    def refresh(self) -> bool:
        """Some time has passed. True: the estimate is another now."""
        if not self._behind:
            return False
        self._estimate, self._behind = None, False
        return True

    def _changed(self, at_s: float) -> bool:
        estimate = self._estimate
        if self._was_full and estimate is not None and at_s - estimate.newest_s < self._estimated_every_s:
            self._behind = True
            return False
        self._estimate, self._behind = None, False
        return True

    def corrected(self) -> None:
        """One of the observations was changed in place."""
        self._estimate = None

    def scaled(self, factor: float) -> None:
        """All paces have changed by this factor, and what was known of them stays true in proportion."""
        for observation in self._kept:
            observation.seconds *= factor
        self._estimate = None

    def estimate(self) -> Estimate | None:
        """None while it is empty, or where nothing in it had any work."""
        if self._estimate is None:
            seen = [o for o in self._kept if o.work > 0]
            told = [o for o in seen if o.told]
            seen = told if len(told) >= TOLD_ENOUGH else seen
            if seen:
                self._estimate = _estimate(seen)
        return self._estimate


def _estimate(seen: list[Observation]) -> Estimate:
    newest = len(seen) - 1
    weights = [w * RANK_DECAY ** (newest - rank) for rank, w in enumerate(robust.even([o.work for o in seen]))]
    pace, deviation = robust.location([(o.seconds / o.work, w) for o, w in zip(seen, weights, strict=True)])
    return Estimate(
        pace,
        deviation / pace if pace > 0 else 0.0,
        len(seen),
        max([o.at_s for o in seen]),
        statistics.median([o.work for o in seen]),
        sum([o.told for o in seen]) == len(seen),
    )


def sound(work: float, seconds: float) -> bool:
    """An observation that can be true: a clock that jumped or a count that makes no sense says nothing."""
    return 0.0 < work < math.inf and SECONDS_MIN <= seconds < math.inf


def confidence(observations: int, spread: float, age_s: float) -> float:
    """0 to 1: many observations, close together, not long ago."""
    enough = observations / (observations + CONFIDENT_OBSERVATIONS)
    return enough / (1.0 + max(0.0, spread)) * math.exp2(-max(0.0, age_s) / CONFIDENCE_HALF_LIFE_S)
